// out = softmax(scale · q·kᵀ + bias) · v on cooperative matrices, keys and values staged by blocks of BC.
//
// Each of the SUBGROUPS of a workgroup owns T queries: their q stays in TD matrices, their out in TD sums, all the
// way. A block's scores go through scratch to the lanes, SG / T of which share a row; the weights come back as
// halves. Sums cannot be scaled row by row, so the maximum they refer to moves only when a block exceeds it by more
// than 8 (powers of two: weights stay below 256), and then they take a trip through scratch.
// Products are of halves with f32 sums; scores, maxima and the sum of weights are f32. A weight is rounded to a half
// before it meets its value: 2^-11 of it, or 2^-25 of the largest weight where that is more.
// A score of −∞ adds nothing; a query that sees no key at all gives zeros. Keys past the last repeat it and weigh 0.
// The subgroup must be SG wide: if it is not, every result is NaN, which no trial overlooks.
// Refuses: operands in f32, subgroups narrower than T, more workgroup memory than the device has (the host then
// takes the portable kernels).
// Moves: q and out once; k and v once for every T · SUBGROUPS queries.
// After: FlashAttention (Dao et al. 2022), with the late rescaling of FlashAttention-4.
// Links: as attention/lanes, with `stage_*` (how workgroup memory is addressed) and matrices of T × T.
// enable f16
// enable wgpu_cooperative_matrix
// use attention/params
// use matmul/eight

@group(0) @binding(1) var<storage, read> q: array<mat2x4<f16>>;
@group(0) @binding(2) var<storage, read> k: array<mat2x4<f16>>;
@group(0) @binding(3) var<storage, read> v: array<mat2x4<f16>>;

const THREADS = SG * SUBGROUPS;
const LD = D8 * 8u + 8u;        // halves from one staged row to the next
const SPAN = BC + 8u;           // numbers from one row of the scratch to the next, and halves of the weights
const SHARE = SG / T;           // lanes of a row
const LOG2E = 1.4426950408889634;
var<workgroup> scratch: array<f32, SUBGROUPS * T * SPAN>;
var<workgroup> weights: array<f16, SUBGROUPS * T * SPAN>;
var<workgroup> factor: array<f32, SUBGROUPS * T>; // what the sums of a row are multiplied by next
var<workgroup> moves: atomic<u32>;
var<workgroup> seen: u32;

// What lies at `i` in the lanes that share a row.
fn row_max(lane: u32, v: f32) -> f32 {
    var all = v;
    for (var step = 1u; step < SHARE; step *= 2u) { all = max(all, subgroupShuffle(all, lane ^ step)); }
    return all;
}
fn row_sum(lane: u32, v: f32) -> f32 {
    var all = v;
    for (var step = 1u; step < SHARE; step *= 2u) { all += subgroupShuffle(all, lane ^ step); }
    return all;
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
    let flat = group.x + group.y * groups.x; // what a function returns does not count as uniform
    let blocks = (p.queries + T * SUBGROUPS - 1u) / (T * SUBGROUPS);
    if (flat >= blocks * p.heads * p.problems) { return; }
    let query0 = flat % blocks * (T * SUBGROUPS);
    let head = flat / blocks % p.heads;
    let problem = flat / (blocks * p.heads);
    let first = (key_problem(problem) * p.heads + head) * p.keys + first_key(problem);
    if (l == 0u) { seen = key_count(problem); }
    let count = workgroupUniformLoad(&seen);
    let mine = subgroup * T;             // the first row of this subgroup in the workgroup,
    let own = mine * SPAN;               // and in the scratch
    let row = lane / SHARE;              // this lane's row,
    let columns = lane % SHARE * CL;     // and its CL columns
    let query = min(query0 + mine + row, p.queries - 1u);
    for (var e = l; e < T * SUBGROUPS * D8; e += THREADS) {
        let source = (problem * p.heads + head) * p.queries + min(query0 + e / D8, p.queries - 1u);
        stage(e / D8 * LD + e % D8 * 8u, q[source * D8 + e % D8]);
    }
    workgroupBarrier();
    //% for i in 0..TD
    let q{i} = coopLoadT<MatA>(&staged[(mine * LD + {i}u * T) / UNIT], LD / UNIT);
    var o{i} = MatC();
    //% end
    var best = -3.0e38;
    var sum = 0.0;
    for (var t = 0u; t < count; t += BC) {
        workgroupBarrier();
        for (var e = l; e < BC * D8; e += THREADS) {
            let source = (first + min(t + e / D8, count - 1u)) * D8 + e % D8;
            let to = e / D8 * LD + e % D8 * 8u;
            stage(to, k[source]);
            stage(BC * LD + to, v[source]);
        }
        if (l == 0u) { atomicStore(&moves, 0u); }
        workgroupBarrier();
        //% for j in 0..TC
        var s{j} = MatC();
        //% for i in 0..TD
        s{j} = coopMultiplyAdd(q{i}, coopLoad<MatB>(&staged[({j}u * T * LD + {i}u * T) / UNIT], LD / UNIT), s{j});
        //% end
        coopStoreT(s{j}, &scratch[own + {j}u * T], SPAN);
        //% end
        workgroupBarrier();
        var top = -3.0e38;
        //% for i in 0..CL
        let key{i} = t + columns + {i}u;
        let x{i} = LOG2E * (scratch[own + row * SPAN + columns + {i}u] * p.scale + bias(head, query, key{i}));
        top = max(top, select(-3.0e38, x{i}, key{i} < count));
        //% end
        top = row_max(lane, top);
        if (top > best + 8.0) { atomicOr(&moves, 1u); }
        workgroupBarrier();
        let moved = workgroupUniformLoad(&moves) != 0u;
        let before = best;
        best = select(best, max(best, top), moved);
        let keep = exp2(before - best);
        sum *= keep;
        if (lane % SHARE == 0u) { factor[mine + row] = keep; }
        //% for i in 0..CL
        let e{i} = select(0.0, exp2(x{i} - best), key{i} < count);
        sum += e{i};
        weights[own + row * SPAN + columns + {i}u] = f16(e{i});
        //% end
        workgroupBarrier();
        if (moved) {
            //% for i in 0..TD
            coopStoreT(o{i}, &scratch[own], SPAN);
            workgroupBarrier();
            for (var e = lane; e < T * T; e += SG) { scratch[own + e / T * SPAN + e % T] *= factor[mine + e / T]; }
            workgroupBarrier();
            o{i} = coopLoadT<MatC>(&scratch[own], SPAN);
            workgroupBarrier();
            //% end
        }
        //% for j in 0..TC
        let e_{j} = coopLoadT<MatA>(&weights[own + {j}u * T], SPAN);
        //% end
        //% for i in 0..TD
        //% for j in 0..TC
        o{i} = coopMultiplyAdd(e_{j}, coopLoadT<MatB>(&staged[((BC + {j}u * T) * LD + {i}u * T) / UNIT], LD / UNIT), o{i});
        //% end
        //% end
    }
    let total = row_sum(lane, sum);
    let share = select(0.0, 1.0 / total, total > 0.0);
    workgroupBarrier();
    // where the subgroup is of another size, nothing above holds
    if (lane % SHARE == 0u) { factor[mine + row] = select(bitcast<f32>(0x7fc00000u | p.d), share, size == SG); }
    //% for i in 0..TD
    workgroupBarrier();
    coopStoreT(o{i}, &scratch[own], SPAN);
    workgroupBarrier();
    for (var e = lane; e < T * T / 8u; e += SG) {
        let r = e / (T / 8u);
        let at = own + r * SPAN + e % (T / 8u) * 8u;
        let by = factor[mine + r];
        if (query0 + mine + r < p.queries) {
            store8(out_at(problem, head, query0 + mine + r), {i}u * (T / 8u) + e % (T / 8u), Eight(
                vec4<f32>(scratch[at], scratch[at + 1u], scratch[at + 2u], scratch[at + 3u]) * by,
                vec4<f32>(scratch[at + 4u], scratch[at + 5u], scratch[at + 6u], scratch[at + 7u]) * by,
            ));
        }
    }
    //% end
}
