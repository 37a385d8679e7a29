// out = softmax(scale · q·kᵀ + bias) · v for heads too wide for registers (the VAE's one head of 512), f32.
//
// A workgroup of 64 takes 4 queries. For each block of 64 keys: an invocation scores one key against the 4
// queries; then every invocation owns OWN eights of the head and gathers them over the block. Scores never
// leave the workgroup; the softmax is online over blocks. Workgroup memory: 128·D8 + 1 KiB + 48 bytes.
// Refuses: heads so wide that this exceeds 16 KiB.
// Moves: q and out once; k and v once for every 4 queries. Links as attention/lanes.
// use lib/grid
// use attention/params
// use attention/operands

var<workgroup> sq: array<Eight, 4u * D8>;
var<workgroup> ss: array<f32, 256>; // scores, then weights, of the block: [query][key]
var<workgroup> best: array<f32, 4>;
var<workgroup> sum: array<f32, 4>;
var<workgroup> keep: array<f32, 4>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let flat = flat_group(group, groups);
    let blocks = (p.queries + 3u) / 4u;
    if (flat >= blocks * p.heads * p.problems) { return; }
    let query0 = flat % blocks * 4u;
    let head = flat / blocks % p.heads;
    let problem = flat / (blocks * p.heads);
    let first = (key_problem(problem) * p.heads + head) * p.keys + first_key(problem);
    let count = key_count(problem);
    let base = (problem * p.heads + head) * p.queries;
    for (var e = l; e < 4u * D8; e += 64u) {
        sq[e] = times(widen(q[(base + min(query0 + e / D8, p.queries - 1u)) * D8 + e % D8]), p.scale);
    }
    if (l < 4u) {
        best[l] = -3.0e38;
        sum[l] = 0.0;
    }
    //% for o in 0..OWN
    //% for n in 0..4
    var o{o}_{n} = ZERO;
    //% end
    //% end
    workgroupBarrier();
    for (var t = 0u; t < count; t += 64u) {
        let here = min(64u, count - t);
        var s = vec4<f32>(-3.0e38);
        if (l < here) {
            s = vec4<f32>(0.0);
            let at = (first + t + l) * D8;
            for (var i = 0u; i < D8; i++) {
                let x = widen(k[at + i]);
                s += vec4<f32>(dot8(sq[i], x), dot8(sq[D8 + i], x), dot8(sq[2u * D8 + i], x), dot8(sq[3u * D8 + i], x));
            }
            s += vec4<f32>(
                bias(head, query0, t + l), bias(head, query0 + 1u, t + l),
                bias(head, query0 + 2u, t + l), bias(head, query0 + 3u, t + l),
            );
        }
        //% for n in 0..4
        ss[{n}u * 64u + l] = s[{n}];
        //% end
        workgroupBarrier();
        // four invocations, one a query, make weights of the block's scores
        if (l < 4u) {
            var top = best[l];
            for (var j = 0u; j < here; j++) { top = max(top, ss[l * 64u + j]); }
            let k = exp(best[l] - top);
            var total = sum[l] * k;
            for (var j = 0u; j < here; j++) {
                let e = exp(ss[l * 64u + j] - top);
                ss[l * 64u + j] = e;
                total += e;
            }
            keep[l] = k;
            best[l] = top;
            sum[l] = total;
        }
        workgroupBarrier();
        //% for o in 0..OWN
        //% for n in 0..4
        o{o}_{n} = times(o{o}_{n}, keep[{n}]);
        //% end
        //% end
        for (var j = 0u; j < here; j++) {
            let e = vec4<f32>(ss[j], ss[64u + j], ss[128u + j], ss[192u + j]);
            //% for o in 0..OWN
            {
                let x = widen(v[(first + t + j) * D8 + min(l + {o}u * 64u, D8 - 1u)]);
                //% for n in 0..4
                o{o}_{n} = blend(o{o}_{n}, 1.0, x, e[{n}]);
                //% end
            }
            //% end
        }
        workgroupBarrier();
    }
    //% for n in 0..4
    if (query0 + {n}u < p.queries) {
        let to = out_at(problem, head, query0 + {n}u);
        let r = select(0.0, 1.0 / sum[{n}], sum[{n}] > 0.0);
        //% for o in 0..OWN
        store8(to, l + {o}u * 64u, times(o{o}_{n}, r));
        //% end
    }
    //% end
}
