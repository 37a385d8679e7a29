// out[m, n] = finish(Σ_k input[m, k] · weight[n, k])
//
// For adapters whose subgroup is exactly 8 (software Vulkan): one subgroup a workgroup, no barrier. There a
// load costs the same whatever its addresses, so one load spreads 32 of k over the lanes, and shuffles hand
// them round. Every lane owns COLUMNS columns, 8 apart; ROWS rows are shared by all. f32 sums.
// Links: `row_at`, `column_at`, `input4`, `weight4`, `finish` as in matmul/tiled.
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
    let col0 = group.x * COLUMNS * 8u + l;
    //% for i in 0..ROWS
    let at{i} = row_at(min(row0 + {i}u, p.m - 1u));
    //% end
    //% for j in 0..COLUMNS
    let wc{j} = min(col0 + {j}u * 8u, p.n - 1u);
    //% for i in 0..ROWS
    var c{i}_{j} = 0.0;
    //% end
    //% end
    for (var t = 0u; t < p.k4; t += 8u) {
        let column = column_at(t + l);
        //% for i in 0..ROWS
        let a{i} = input4(at{i}, column);
        //% end
        // stays a loop: as fast as eight copies, at an eighth of the compile time
        for (var q = 0u; q < 8u; q++) {
            //% for j in 0..COLUMNS
            let w{j} = weight4(wc{j}, t + q);
            //% end
            //% for i in 0..ROWS
            let x{i} = subgroupShuffle(a{i}, q);
            //% for j in 0..COLUMNS
            c{i}_{j} += dot(x{i}, w{j});
            //% end
            //% end
        }
    }
    //% for i in 0..ROWS
    if (row0 + {i}u < p.m) {
        //% for j in 0..COLUMNS
        if (col0 + {j}u * 8u < p.n) { finish(row0 + {i}u, col0 + {j}u * 8u, c{i}_{j}); }
        //% end
    }
    //% end
}
