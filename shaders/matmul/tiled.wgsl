// out[m, n] = finish(Σ_k input[m, k] · weight[n, k])
//
// Portable: no optional feature. A workgroup of 64 makes a 64 × 64 tile, every invocation 8 × 8 of it in
// registers; 16 of k are staged at a time, k-major, 8 KiB in all. Sums are f32 in the order of k.
// Rows and columns past the edge are clamped when loaded and never stored.
// Links: `row_at`, `column_at`, `input4` (where rows come from), `weight4` (how weights are stored), `finish`.
// use matmul/params
// use matmul/finish

var<workgroup> sx: array<f32, 1024>; // [16 of k][64 rows]
var<workgroup> sw: array<f32, 1024>; // [16 of k][64 columns]

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let row0 = (group.y + group.z * groups.y) * 64u;
    if (row0 >= p.m) { return; } // the folded grid may have a few groups too many
    let col0 = group.x * 64u;
    let ty = l / 8u;
    let tx = l % 8u;
    // this invocation stages rows (and columns) l/4, l/4 + 16, … at quarter l % 4 of the 16
    let sr = l / 4u;
    let sk = l % 4u;
    //% for i in 0..4
    let at{i} = row_at(min(row0 + sr + {i}u * 16u, p.m - 1u));
    let wc{i} = min(col0 + sr + {i}u * 16u, p.n - 1u);
    //% end
    //% for i in 0..8
    //% for j in 0..8
    var c{i}_{j} = 0.0;
    //% end
    //% end
    for (var t = 0u; t < p.k4; t += 4u) {
        let column = column_at(t + sk);
        //% for i in 0..4
        {
            let x = input4(at{i}, column);
            let w = weight4(wc{i}, t + sk);
            let d = sk * 256u + sr + {i}u * 16u;
            sx[d] = x.x; sx[d + 64u] = x.y; sx[d + 128u] = x.z; sx[d + 192u] = x.w;
            sw[d] = w.x; sw[d + 64u] = w.y; sw[d + 128u] = w.z; sw[d + 192u] = w.w;
        }
        //% end
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) {
            //% for j in 0..8
            let w{j} = sw[k * 64u + {j}u * 8u + tx];
            //% end
            //% for i in 0..8
            let x{i} = sx[k * 64u + ty * 8u + {i}u];
            //% for j in 0..8
            c{i}_{j} = fma(x{i}, w{j}, c{i}_{j});
            //% end
            //% end
        }
        workgroupBarrier();
    }
    //% for i in 0..8
    if (row0 + ty * 8u + {i}u < p.m) {
        let row = row0 + ty * 8u + {i}u;
        //% for j in 0..8
        if (col0 + {j}u * 8u + tx < p.n) { finish(row, col0 + {j}u * 8u + tx, c{i}_{j}); }
        //% end
    }
    //% end
}
