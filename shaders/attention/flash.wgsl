// out = softmax(scale · q·kᵀ + bias) · v with the online softmax, f32; keys and values staged by blocks.
//
// Portable form (after FlashAttention, Dao et al. 2022): one query an invocation, 64 a workgroup, q and out in
// registers, BLOCK keys and values in workgroup memory as they are stored: 2 · BLOCK · D8 eights ≤ 16 KiB.
// A score of −∞ adds nothing; a query that sees no key at all gives zeros.
// Refuses: heads too wide for registers (the host takes attention/wide).
// Moves: q and out once; k and v once for every 64 queries. Links as attention/lanes.
// use lib/grid
// use attention/params
// use attention/operands

var<workgroup> sk: array<Raw, BLOCK * D8>;
var<workgroup> sv: array<Raw, BLOCK * D8>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let flat = flat_group(group, groups);
    let blocks = (p.queries + 63u) / 64u;
    if (flat >= blocks * p.heads * p.problems) { return; }
    let own = flat % blocks * 64u + l;
    let query = min(own, p.queries - 1u);
    let head = flat / blocks % p.heads;
    let problem = flat / (blocks * p.heads);
    let first = (key_problem(problem) * p.heads + head) * p.keys + first_key(problem);
    let count = key_count(problem);
    let start = ((problem * p.heads + head) * p.queries + query) * D8;
    //% for i in 0..D8
    let q{i} = times(widen(q[start + {i}u]), p.scale);
    var o{i} = ZERO;
    //% end
    var best = -3.0e38;
    var sum = 0.0;
    for (var t = 0u; t < count; t += BLOCK) {
        let here = min(BLOCK, count - t);
        for (var e = l; e < here * D8; e += 64u) {
            sk[e] = k[(first + t) * D8 + e];
            sv[e] = v[(first + t) * D8 + e];
        }
        workgroupBarrier();
        for (var j = 0u; j < here; j++) {
            var s = bias(head, query, t + j);
            //% for i in 0..D8
            s += dot8(q{i}, widen(sk[j * D8 + {i}u]));
            //% end
            let less = exp(-abs(s - best));
            let rises = s > best;
            let keep = select(1.0, less, rises);
            let e = select(less, 1.0, rises);
            best = max(best, s);
            sum = sum * keep + e;
            //% for i in 0..D8
            o{i} = blend(o{i}, keep, widen(sv[j * D8 + {i}u]), e);
            //% end
        }
        workgroupBarrier();
    }
    if (own < p.queries) {
        let to = out_at(problem, head, query);
        let r = select(0.0, 1.0 / sum, sum > 0.0);
        //% for i in 0..D8
        store8(to, {i}u, times(o{i}, r));
        //% end
    }
}
