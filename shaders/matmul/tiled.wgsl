// out[m, n] = finish(Σ_k input[m, k] · weight[n, k])
//
// Portable: no optional feature. A workgroup makes SIDE × SIDE, every invocation 8 × 8 of it in registers; 16 of k
// are staged at a time, k-major: 8 KiB in all with 64 invocations (SIDE 64), 16 KiB with 256 (SIDE 128).
// Sums are f32 in the order of k.
// Loads 2·m·n·k/SIDE numbers in all, each output number is stored once, and its tail reads only what it adds or multiplies.
// Rows and columns past the edge are clamped when loaded and never stored.
// Links: `row_at`, `column_at`, `place_at` (where rows come from), `x8`, `wk` (how numbers are stored), `finish2`.
// use matmul/params
// use matmul/finish

const ACROSS = SIDE / 8u;          // invocations next to each other
const THREADS = ACROSS * ACROSS;
const AT_ONCE = THREADS / 2u;      // rows that the workgroup loads in one go
const PAIRS = 2u * ACROSS;         // columns from one pair of an invocation to its next
var<workgroup> sx: array<f32, 16u * SIDE>; // [16 of k][SIDE rows]
var<workgroup> sw: array<f32, 16u * SIDE>; // [16 of k][SIDE columns]

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let row0 = (group.y + group.z * groups.y) * SIDE;
    if (row0 >= p.m) { return; } // the folded grid may have a few groups too many
    let col0 = group.x * SIDE;
    let ty = l / ACROSS;
    let tx = l % ACROSS;
    // this invocation stages every AT_ONCE-th row (and column) from l/2 on, the eight l % 2 of the two
    let sr = l / 2u;
    let se = l % 2u;
    //% for i in 0..SHARE
    let at{i} = row_at(min(row0 + sr + {i}u * AT_ONCE, p.m - 1u));
    let wc{i} = min(col0 + sr + {i}u * AT_ONCE, p.n - 1u);
    //% end
    //% for i in 0..8
    //% for j in 0..4
    var c{i}_{j} = vec2<f32>(0.0);
    //% end
    //% end
    let k8 = p.taps * p.c8;
    for (var t = 0u; t < k8; t += 2u) {
        let kk = min(t + se, k8 - 1u);
        let whole = t + se < k8;
        let column = column_at(kk);
        //% for i in 0..SHARE
        {
            let place = place_at(at{i}, column.tap);
            let x = kept(x8(u32(max(place, 0)), column.e), place >= 0 && whole);
            let w = kept(wk(wc{i}, kk), whole);
            let d = se * 8u * SIDE + sr + {i}u * AT_ONCE;
            //% for k in 0..4
            sx[d + {k}u * SIDE] = x.lo[{k}];
            sx[d + (4u + {k}u) * SIDE] = x.hi[{k}];
            sw[d + {k}u * SIDE] = w.lo[{k}];
            sw[d + (4u + {k}u) * SIDE] = w.hi[{k}];
            //% end
        }
        //% end
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) {
            //% for j in 0..4
            let w{j} = vec2<f32>(sw[k * SIDE + {j}u * PAIRS + tx * 2u], sw[k * SIDE + {j}u * PAIRS + tx * 2u + 1u]);
            //% end
            //% for i in 0..8
            let x{i} = sx[k * SIDE + ty * 8u + {i}u];
            //% for j in 0..4
            c{i}_{j} = fma(vec2<f32>(x{i}), w{j}, c{i}_{j});
            //% end
            //% end
        }
        workgroupBarrier();
    }
    //% for i in 0..8
    if (row0 + ty * 8u + {i}u < p.m) {
        let row = row0 + ty * 8u + {i}u;
        //% for j in 0..4
        if (col0 + {j}u * PAIRS + tx * 2u < p.n) { finish2(row, col0 + {j}u * PAIRS + tx * 2u, c{i}_{j}); }
        //% end
    }
    //% end
}
