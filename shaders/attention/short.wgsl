// out = softmax(scale · q·kᵀ + bias) · v for short sequences in large batches (one patch through time), f32.
//
// Portable form: a workgroup of 64 takes 64 / S problems of up to S queries and S own keys (S = 16, 32, 64), one
// query an invocation. All scores of a query stay in registers, so the softmax is the plain one: maximum, weights,
// sum. Keys, then values, pass through the same workgroup memory, PART eights of every row at a time.
// Rows past the last key repeat it and weigh nothing. A query whose scores are all −∞ gives zeros.
// Refuses: more than S queries or keys, packed keys.
// Moves the least possible: q, k, v and out once. Links as attention/lanes.
// use lib/grid
// use attention/params
// use attention/operands

const TOGETHER = 64u / S;
var<workgroup> rows: array<Raw, 64u * PART>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let first = flat_group(group, groups) * TOGETHER;
    let all = p.problems * p.heads;
    if (first >= all) { return; }
    let flat = min(first + l / S, all - 1u);
    let head = flat % p.heads;
    let query = min(l % S, p.queries - 1u);
    let start = (flat * p.queries + query) * D8;
    let block = l / S * S; // the first staged row of this problem
    //% for j in 0..S
    var s{j} = 0.0;
    //% end
    for (var part0 = 0u; part0 < D8; part0 += PART) {
        let here = min(PART, D8 - part0);
        for (var e = l; e < 64u * PART; e += 64u) {
            let row = e / PART;
            let problem = min(first + row / S, all - 1u);
            let key = min(row % S, p.keys - 1u);
            rows[e] = k[(problem * p.keys + key) * D8 + min(part0 + e % PART, D8 - 1u)];
        }
        workgroupBarrier();
        for (var i = 0u; i < here; i++) {
            let x = times(widen(q[start + part0 + i]), p.scale);
            //% for j in 0..S
            s{j} += dot8(x, widen(rows[(block + {j}u) * PART + i]));
            //% end
        }
        workgroupBarrier();
    }
    var best = -3.0e38;
    //% for j in 0..S
    s{j} = select(-3.0e38, s{j} + bias(head, query, {j}u), {j}u < p.keys);
    best = max(best, s{j});
    //% end
    var sum = 0.0;
    //% for j in 0..S
    s{j} = select(0.0, exp(s{j} - best), {j}u < p.keys);
    sum += s{j};
    //% end
    let r = select(0.0, 1.0 / sum, sum > 0.0);
    let to = out_at(flat / p.heads, head, query);
    let mine = l % S < p.queries && first + l / S < all;
    for (var part0 = 0u; part0 < D8; part0 += PART) {
        let here = min(PART, D8 - part0);
        for (var e = l; e < 64u * PART; e += 64u) {
            let row = e / PART;
            let problem = min(first + row / S, all - 1u);
            let key = min(row % S, p.keys - 1u);
            rows[e] = v[(problem * p.keys + key) * D8 + min(part0 + e % PART, D8 - 1u)];
        }
        workgroupBarrier();
        for (var i = 0u; i < here; i++) {
            var o = ZERO;
            //% for j in 0..S
            o = blend(o, 1.0, widen(rows[(block + {j}u) * PART + i]), s{j});
            //% end
            if (mine) { store8(to, part0 + i, times(o, r)); }
        }
        workgroupBarrier();
    }
}
