// out = softmax(scale · q·kᵀ + bias) · v with the online softmax (Milakov and Gimelshein 2018), f32.
//
// One query an invocation, keys and values straight from storage: for short sequences in large batches, and
// wherever staging costs more than it saves (software Vulkan). A score of −∞ adds nothing; a query that
// sees no key at all gives zeros.
// Links: `first_key`, `key_count`, `key_problem` (which keys a problem sees), `bias` (added to each score).
// use lib/grid
// use attention/params

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let i = flat_group(group, groups) * 64u + l;
    if (i >= p.problems * p.heads * p.queries) { return; }
    let query = i % p.queries;
    let head = i / p.queries % p.heads;
    let problem = i / (p.queries * p.heads);
    let first = (key_problem(problem) * p.heads + head) * p.keys + first_key(problem);
    let count = key_count(problem);
    //% for i in 0..D4
    let q{i} = q[i * D4 + {i}u] * p.scale;
    var o{i} = vec4<f32>(0.0);
    //% end
    var best = -3.0e38;
    var sum = 0.0;
    for (var j = 0u; j < count; j++) {
        let at = (first + j) * D4;
        var s = bias(head, query, j);
        //% for i in 0..D4
        s += dot(q{i}, k[at + {i}u]);
        //% end
        let top = max(best, s);
        let keep = exp(best - top);
        let e = exp(s - top);
        best = top;
        sum = fma(sum, keep, e);
        //% for i in 0..D4
        o{i} = fma(vec4<f32>(e), v[at + {i}u], o{i} * keep);
        //% end
    }
    let r = select(0.0, 1.0 / sum, sum > 0.0);
    let row = out_row(problem, query);
    //% for i in 0..D4
    store4(row, head, {i}u, o{i} * r);
    //% end
}
