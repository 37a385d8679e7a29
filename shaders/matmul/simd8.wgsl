// out[m, n] = finish(Σ_k input[m, k] · weight[n, k])
//
// For adapters whose subgroup is exactly 8 (software Vulkan): one subgroup a workgroup, no barrier. There a
// load costs the same whatever its addresses, so one load spreads 64 of k over the lanes, eight to each, and
// shuffles hand them round. Every lane owns PAIRS pairs of neighbouring columns, 16 apart; ROWS rows are
// shared by all. f32 sums.
// Links: `row_at`, `column_at`, `place_at`, `x8`, `wk`, `finish2` as in matmul/tiled.
// use matmul/params
// use matmul/finish

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let row0 = (group.y + group.z * groups.y) * ROWS;
    if (row0 >= p.m) { return; }
    let col0 = group.x * PAIRS * 16u + 2u * l;
    //% for i in 0..ROWS
    let at{i} = row_at(min(row0 + {i}u, p.m - 1u));
    //% end
    //% for j in 0..PAIRS
    let wa{j} = min(col0 + {j}u * 16u, p.n - 1u);
    let wb{j} = min(col0 + {j}u * 16u + 1u, p.n - 1u);
    //% for i in 0..ROWS
    var c{i}_{j} = vec2<f32>(0.0);
    //% end
    //% end
    let k8 = p.taps * p.c8;
    for (var t = 0u; t < k8; t += 8u) {
        // lanes past the end load the last eight again; nobody asks for it
        let column = column_at(min(t + l, k8 - 1u));
        //% for i in 0..ROWS
        let place{i} = place_at(at{i}, column.tap);
        let a{i} = kept(x8(u32(max(place{i}, 0)), column.e), place{i} >= 0);
        //% end
        // stays a loop: as fast as eight copies, at an eighth of the compile time
        let here = min(8u, k8 - t);
        for (var q = 0u; q < here; q++) {
            //% for j in 0..PAIRS
            let u{j} = wk(wa{j}, t + q);
            let v{j} = wk(wb{j}, t + q);
            //% end
            //% for i in 0..ROWS
            let x{i} = subgroupShuffle(a{i}.lo, q);
            let y{i} = subgroupShuffle(a{i}.hi, q);
            //% for j in 0..PAIRS
            c{i}_{j} += vec2<f32>(
                dot(x{i}, u{j}.lo) + dot(y{i}, u{j}.hi),
                dot(x{i}, v{j}.lo) + dot(y{i}, v{j}.hi),
            );
            //% end
            //% end
        }
    }
    // one copy of the tail, not one a sum: they would take most of the compile time
    var sums: array<vec2<f32>, ROWS * PAIRS>;
    //% for i in 0..ROWS
    //% for j in 0..PAIRS
    sums[{i}u * PAIRS + {j}u] = c{i}_{j};
    //% end
    //% end
    for (var i = 0u; i < ROWS * PAIRS; i++) {
        let row = row0 + i / PAIRS;
        let column = col0 + i % PAIRS * 16u;
        if (row < p.m && column < p.n) { finish2(row, column, sums[i]); }
    }
}
