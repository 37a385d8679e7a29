// out[m, n] = finish(Σ_k input[m, k] · weight[n, k])
//
// Portable: no optional feature. A workgroup of 64 makes a 64 × 64 tile, every invocation 8 × 8 of it in
// registers; 16 of k are staged at a time, k-major, 8 KiB in all. Sums are f32 in the order of k.
// Loads m·n·k/32 numbers in all, each output number is stored once, and its tail reads only what it adds or multiplies.
// Rows and columns past the edge are clamped when loaded and never stored.
// Links: `row_at`, `column_at`, `place_at` (where rows come from), `x8`, `wk` (how numbers are stored), `finish2`.
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
    // this invocation stages rows (and columns) l/2 and l/2 + 32, the eight l % 2 of the two
    let sr = l / 2u;
    let se = l % 2u;
    //% for i in 0..2
    let at{i} = row_at(min(row0 + sr + {i}u * 32u, p.m - 1u));
    let wc{i} = min(col0 + sr + {i}u * 32u, p.n - 1u);
    //% end
    //% for i in 0..8
    //% for j in 0..4
    var c{i}_{j} = vec2<f32>(0.0);
    //% end
    //% end
    let k8 = p.taps * p.c8;
    for (var t = 0u; t < k8; t += 2u) {
        let kk = min(t + se, k8 - 1u);
        let whole = t + se < k8;
        let column = column_at(kk);
        //% for i in 0..2
        {
            let place = place_at(at{i}, column.tap);
            let x = kept(x8(u32(max(place, 0)), column.e), place >= 0 && whole);
            let w = kept(wk(wc{i}, kk), whole);
            let d = se * 512u + sr + {i}u * 32u;
            //% for k in 0..4
            sx[d + {k}u * 64u] = x.lo[{k}];
            sx[d + 256u + {k}u * 64u] = x.hi[{k}];
            sw[d + {k}u * 64u] = w.lo[{k}];
            sw[d + 256u + {k}u * 64u] = w.hi[{k}];
            //% end
        }
        //% end
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) {
            //% for j in 0..4
            let w{j} = vec2<f32>(sw[k * 64u + {j}u * 16u + tx * 2u], sw[k * 64u + {j}u * 16u + tx * 2u + 1u]);
            //% end
            //% for i in 0..8
            let x{i} = sx[k * 64u + ty * 8u + {i}u];
            //% for j in 0..4
            c{i}_{j} = fma(vec2<f32>(x{i}), w{j}, c{i}_{j});
            //% end
            //% end
        }
        workgroupBarrier();
    }
    //% for i in 0..8
    if (row0 + ty * 8u + {i}u < p.m) {
        let row = row0 + ty * 8u + {i}u;
        //% for j in 0..4
        if (col0 + {j}u * 16u + tx * 2u < p.n) { finish2(row, col0 + {j}u * 16u + tx * 2u, c{i}_{j}); }
        //% end
    }
    //% end
}
