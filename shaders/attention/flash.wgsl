// out = softmax(scale · q·kᵀ + bias) · v with the online softmax, f32; keys and values staged by blocks.
//
// Portable form for long sequences on real GPUs (after FlashAttention, Dao et al. 2022): one query an
// invocation, 64 a workgroup, BLOCK keys and values in workgroup memory (32·BLOCK·D4 bytes ≤ 16 KiB).
// Links as attention/stream.
// use lib/grid
// use attention/params

var<workgroup> sk: array<vec4<f32>, BLOCK * D4>;
var<workgroup> sv: array<vec4<f32>, BLOCK * D4>;

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
    let start = ((problem * p.heads + head) * p.queries + query) * D4;
    //% for i in 0..D4
    let q{i} = q[start + {i}u] * p.scale;
    var o{i} = vec4<f32>(0.0);
    //% end
    var best = -3.0e38;
    var sum = 0.0;
    for (var t = 0u; t < count; t += BLOCK) {
        let here = min(BLOCK, count - t);
        for (var e = l; e < here * D4; e += 64u) {
            sk[e] = k[(first + t) * D4 + e];
            sv[e] = v[(first + t) * D4 + e];
        }
        workgroupBarrier();
        for (var j = 0u; j < here; j++) {
            var s = bias(head, query, t + j);
            //% for i in 0..D4
            s += dot(q{i}, sk[j * D4 + {i}u]);
            //% end
            let top = max(best, s);
            let keep = exp(best - top);
            let e = exp(s - top);
            best = top;
            sum = fma(sum, keep, e);
            //% for i in 0..D4
            o{i} = fma(vec4<f32>(e), sv[j * D4 + {i}u], o{i} * keep);
            //% end
        }
        workgroupBarrier();
    }
    let r = select(0.0, 1.0 / sum, sum > 0.0);
    let row = out_row(problem, query);
    if (own < p.queries) {
        //% for i in 0..D4
        store4(row, head, {i}u, o{i} * r);
        //% end
    }
}
