// out = softmax(scale · q·kᵀ + bias) · v with the online softmax (Milakov and Gimelshein 2018), f32.
//
// For adapters whose subgroup is exactly 8 (software Vulkan): one subgroup a workgroup, no barrier. There a load
// costs the same whatever its addresses, so one load brings an eight of 8 keys, one key a lane, and shuffles hand
// them round. Every lane owns QUERIES queries, 8 apart, in registers. Of the two exponentials that a step of the
// online softmax needs, one is always of 0; the other is e^−|score − best|.
// A score of −∞ adds nothing; a query that sees no key at all gives zeros.
// Refuses: nothing, but compile time grows with d; the host takes attention/lanes_wide for wide heads, and an error
// for more keys than such a driver can loop over.
// Moves: q and out once; k and v once for every 8 · QUERIES queries, from the cache when the keys of a head fit it.
// Links: `first_key`, `key_count`, `key_problem` (which keys a problem sees), `bias` (added to each score), `widen`
// (how q, k, v are stored), `store8`.
// use lib/grid
// use attention/params
// use attention/operands

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let flat = flat_group(group, groups);
    let blocks = (p.queries + 8u * QUERIES - 1u) / (8u * QUERIES);
    if (flat >= blocks * p.heads * p.problems) { return; }
    let head = flat / blocks % p.heads;
    let problem = flat / (blocks * p.heads);
    let first = (key_problem(problem) * p.heads + head) * p.keys + first_key(problem);
    let count = key_count(problem);
    //% for n in 0..QUERIES
    let own{n} = (flat % blocks * QUERIES + {n}u) * 8u + l;
    let query{n} = min(own{n}, p.queries - 1u);
    let start{n} = ((problem * p.heads + head) * p.queries + query{n}) * D8;
    var best{n} = -3.0e38;
    var sum{n} = 0.0;
    //% for i in 0..D8
    let q{n}_{i} = times(widen(q[start{n} + {i}u]), p.scale);
    var o{n}_{i} = ZERO;
    //% end
    //% end
    for (var t = 0u; t < count; t += 8u) {
        let at = (first + min(t + l, count - 1u)) * D8;
        //% for i in 0..D8
        let k{i} = widen(k[at + {i}u]);
        let v{i} = widen(v[at + {i}u]);
        //% end
        let here = min(8u, count - t);
        for (var j = 0u; j < here; j++) {
            //% for n in 0..QUERIES
            var s{n} = bias(head, query{n}, t + j);
            //% end
            //% for i in 0..D8
            let kj{i} = Eight(subgroupShuffle(k{i}.lo, j), subgroupShuffle(k{i}.hi, j));
            //% for n in 0..QUERIES
            s{n} += dot8(q{n}_{i}, kj{i});
            //% end
            //% end
            //% for n in 0..QUERIES
            let less{n} = exp(-abs(s{n} - best{n}));
            let rises{n} = s{n} > best{n};
            let keep{n} = select(1.0, less{n}, rises{n});
            let e{n} = select(less{n}, 1.0, rises{n});
            best{n} = max(best{n}, s{n});
            sum{n} = sum{n} * keep{n} + e{n};
            //% end
            //% for i in 0..D8
            let vj{i} = Eight(subgroupShuffle(v{i}.lo, j), subgroupShuffle(v{i}.hi, j));
            //% for n in 0..QUERIES
            o{n}_{i} = blend(o{n}_{i}, keep{n}, vj{i}, e{n});
            //% end
            //% end
        }
    }
    //% for n in 0..QUERIES
    if (own{n} < p.queries) {
        let to = out_at(problem, head, query{n});
        let r = select(0.0, 1.0 / sum{n}, sum{n} > 0.0);
        //% for i in 0..D8
        store8(to, {i}u, times(o{n}_{i}, r));
        //% end
    }
    //% end
}
