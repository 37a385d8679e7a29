// out = softmax(scale · q·kᵀ + bias) · v for heads too wide for attention/lanes (the VAE's one head of 512), f32.
//
// For adapters whose subgroup is exactly 8: one subgroup a workgroup, no barrier. Lanes share the head: lane l owns
// its eights l, l + 8, .. (OWN of them) of 8 queries and of their output, so that one load spreads 64 numbers of a
// key or value, and every one of them meets 8 queries. What the lanes summed of a score is gathered so that lane l
// holds that of query l; weights go round by shuffle.
// Moves: q and out once; k and v once for every 8 queries. Links as attention/lanes.
// use lib/grid
// use attention/params
// use attention/operands

// Sums over the lanes: lane l gets that of number l of the eight.
fn gathered(l: u32, v: Eight) -> f32 {
    let a = (l & 4u) != 0u;
    let four = select(v.lo, v.hi, a) + subgroupShuffle(select(v.hi, v.lo, a), l ^ 4u);
    let b = (l & 2u) != 0u;
    let two = select(four.xy, four.zw, b) + subgroupShuffle(select(four.zw, four.xy, b), l ^ 2u);
    let c = (l & 1u) != 0u;
    return select(two.x, two.y, c) + subgroupShuffle(select(two.y, two.x, c), l ^ 1u);
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let flat = flat_group(group, groups);
    let blocks = (p.queries + 7u) / 8u;
    if (flat >= blocks * p.heads * p.problems) { return; }
    let query0 = flat % blocks * 8u;
    let head = flat / blocks % p.heads;
    let problem = flat / (blocks * p.heads);
    let first = (key_problem(problem) * p.heads + head) * p.keys + first_key(problem);
    let count = key_count(problem);
    let query = min(query0 + l, p.queries - 1u);
    //% for n in 0..8
    let start{n} = ((problem * p.heads + head) * p.queries + min(query0 + {n}u, p.queries - 1u)) * D8;
    //% for i in 0..OWN
    // past the head there are zeros in q, so that whatever k has there counts for nothing
    let q{n}_{i} = kept(times(widen(q[start{n} + min({i}u * 8u + l, D8 - 1u)]), p.scale), {i}u * 8u + l < D8);
    var o{n}_{i} = ZERO;
    //% end
    //% end
    var best = -3.0e38;
    var sum = 0.0;
    for (var j = 0u; j < count; j++) {
        let at = (first + j) * D8;
        //% for n in 0..8
        var s{n} = 0.0;
        //% end
        //% for i in 0..OWN
        let k{i} = widen(k[at + min({i}u * 8u + l, D8 - 1u)]);
        //% for n in 0..8
        s{n} += dot8(q{n}_{i}, k{i});
        //% end
        //% end
        let s = gathered(l, Eight(vec4<f32>(s0, s1, s2, s3), vec4<f32>(s4, s5, s6, s7))) + bias(head, query, j);
        let less = exp(-abs(s - best));
        let rises = s > best;
        let keep = select(1.0, less, rises);
        let e = select(less, 1.0, rises);
        best = max(best, s);
        sum = sum * keep + e;
        //% for n in 0..8
        let keep{n} = subgroupShuffle(keep, {n}u);
        let e{n} = subgroupShuffle(e, {n}u);
        //% end
        //% for i in 0..OWN
        let v{i} = widen(v[at + min({i}u * 8u + l, D8 - 1u)]);
        //% for n in 0..8
        o{n}_{i} = blend(o{n}_{i}, keep{n}, v{i}, e{n});
        //% end
        //% end
    }
    let share = select(0.0, 1.0 / sum, sum > 0.0);
    //% for n in 0..8
    let share{n} = subgroupShuffle(share, {n}u);
    if (query0 + {n}u < p.queries) {
        let to = out_at(problem, head, query0 + {n}u);
        //% for i in 0..OWN
        store8(to, {i}u * 8u + l, times(o{n}_{i}, share{n}));
        //% end
    }
    //% end
}
