// out[m, n] = finish(Σ_k input[m, k] · weight[n, k])
//
// For adapters with cooperative matrices. A workgroup of ROWS × COLUMNS subgroups makes a tile of BM × BN; every
// subgroup holds MT × TRIPS · PER matrices of T × T sums. BK of k are staged at a time as halves, rows 16 bytes apart from a
// multiple of the banks; while they are multiplied, the next ones are on their way in registers.
// Halves in, f32 sums. What is stored in f32 comes scaled (`x16`), because halves end at 65504; UNSCALE undoes it.
// k is walked in eights through all taps as one row, so that only its very end is padded.
// Rows and columns past the edge are clamped when loaded and never stored. Sums are opaque: they go through
// scratch, PER matrices of a row at a time, to where single numbers can be seen.
// The subgroup must be SG wide: if it is not, every result is NaN, which no trial overlooks.
// Refuses: channels that are no multiple of 8, weights in f32 (the host then takes matmul/tiled).
// Loads m·n·k·(1/BM + 1/BN) halves in all; each output number is stored once, and its tail reads only what it adds
// or multiplies. See ops/matmul.rs for what that is next to the least possible.
// After: the staged kernels of CUTLASS and of llama.cpp's Vulkan back end.
// Links: `row_at`, `place_at` (where rows come from), `x16`, `w16` (how numbers are stored), `stage_*` (how workgroup
// memory is addressed), matrices of T × T, `finish2`.
// enable f16
// enable wgpu_cooperative_matrix
// use matmul/params
// use matmul/finish

const BM = ROWS * MT * T;
const BN = COLUMNS * TRIPS * PER * T;
const THREADS = SG * ROWS * COLUMNS;
const KV = BK / 8u;            // eights in a staged row
const LD = BK + 8u;            // halves from one staged row to the next
const AT_ONCE = THREADS / KV;  // rows that the workgroup loads in one go
const WIDTH = PER * T;         // columns of a subgroup's scratch
const SPAN = WIDTH + 8u;       // numbers from one row of the scratch to the next
var<workgroup> sums: array<f32, ROWS * COLUMNS * T * SPAN>;

// The tail on T rows that this subgroup left in its scratch.
fn emit(own: u32, lane: u32, row0: u32, col0: u32, scale: f32) {
    for (var i = 2u * lane; i < T * WIDTH; i += 2u * SG) {
        let row = row0 + i / WIDTH;
        let column = col0 + i % WIDTH;
        let at = own + i / WIDTH * SPAN + i % WIDTH;
        if (row < p.m && column < p.n) { finish2(row, column, vec2<f32>(sums[at], sums[at + 1u]) * scale); }
    }
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) size: u32,
) {
    let row0 = (group.y + group.z * groups.y) * BM;
    if (row0 >= p.m) { return; } // the folded grid may have a few groups too many
    let col0 = group.x * BN;
    // this invocation stages one eight of every AT_ONCE-th row
    let sr = l / KV;
    let se = l % KV;
    let deep = p.taps * p.c8;
    var flat = se;         // its place in k, in eights,
    var tap = se / p.c8;   // as a tap
    var e = se % p.c8;     // and an eight of that
    //% for i in 0..XS
    let at{i} = row_at(min(row0 + sr + {i}u * AT_ONCE, p.m - 1u));
    var place{i} = place_at(at{i}, tap);
    var x{i} = x16(u32(max(place{i}, 0)) * p.c8 + e, place{i} >= 0 && flat < deep);
    //% end
    //% for i in 0..WS
    let column{i} = min(col0 + sr + {i}u * AT_ONCE, p.n - 1u) * deep;
    var w{i} = w16(column{i} + min(flat, deep - 1u));
    //% end
    let stage = sr * LD + se * 8u;
    let wr = subgroup / COLUMNS * MT * T;
    let wc = subgroup % COLUMNS * TRIPS * WIDTH;
    //% for i in 0..MT
    //% for t in 0..TRIPS
    //% for j in 0..PER
    var c{i}_{t}_{j} = MatC();
    //% end
    //% end
    //% end
    for (var k = 0u; k < deep; k += KV) {
        //% for i in 0..XS
        stage_x(stage + {i}u * AT_ONCE * LD, x{i});
        //% end
        //% for i in 0..WS
        stage_w(stage + {i}u * AT_ONCE * LD, w{i});
        //% end
        workgroupBarrier();
        flat += KV;
        e += KV;
        for (; e >= p.c8; e -= p.c8) { tap += 1u; }
        //% for i in 0..XS
        if (e < KV) { place{i} = place_at(at{i}, tap); } // else still the same tap
        x{i} = x16(u32(max(place{i}, 0)) * p.c8 + e, place{i} >= 0 && flat < deep);
        //% end
        //% for i in 0..WS
        w{i} = w16(column{i} + min(flat, deep - 1u));
        //% end
        //% for s in 0..STEPS
        //% for i in 0..MT
        let a{s}_{i} = coopLoadT<MatA>(&sx[((wr + {i}u * T) * LD + {s}u * T) / UNIT], LD / UNIT);
        //% end
        //% for t in 0..TRIPS
        //% for j in 0..PER
        let b{s}_{t}_{j} = coopLoad<MatB>(&sw[((wc + ({t}u * PER + {j}u) * T) * LD + {s}u * T) / UNIT], LD / UNIT);
        //% for i in 0..MT
        c{i}_{t}_{j} = coopMultiplyAdd(a{s}_{i}, b{s}_{t}_{j}, c{i}_{t}_{j});
        //% end
        //% end
        //% end
        //% end
        workgroupBarrier();
    }
    let own = subgroup * T * SPAN;
    let scale = select(bitcast<f32>(0x7fc00000u | p.c8), UNSCALE, size == SG);
    //% for i in 0..MT
    //% for t in 0..TRIPS
    //% for j in 0..PER
    coopStoreT(c{i}_{t}_{j}, &sums[own + {j}u * T], SPAN);
    //% end
    workgroupBarrier();
    emit(own, lane, row0 + wr + {i}u * T, col0 + wc + {t}u * WIDTH, scale);
    workgroupBarrier();
    //% end
    //% end
}
