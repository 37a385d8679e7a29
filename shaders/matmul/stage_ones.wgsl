// Staged halves one by one, where matrices are loaded through pointers to a half (Metal). A stride counts halves.
const UNIT = 1u;
var<workgroup> sx: array<f16, BM * LD>;
var<workgroup> sw: array<f16, BN * LD>;
fn stage_x(at: u32, v: mat2x4<f16>) {
    //% for i in 0..4
    sx[at + {i}u] = v[0][{i}];
    sx[at + 4u + {i}u] = v[1][{i}];
    //% end
}
fn stage_w(at: u32, v: mat2x4<f16>) {
    //% for i in 0..4
    sw[at + {i}u] = v[0][{i}];
    sw[at + 4u + {i}u] = v[1][{i}];
    //% end
}
