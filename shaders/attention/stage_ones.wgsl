// Staged halves one by one, where matrices are loaded through pointers to a half (Metal). A stride counts halves.
const UNIT = 1u;
var<workgroup> staged: array<f16, 2u * BC * LD>;
fn stage(at: u32, v: mat2x4<f16>) {
    //% for i in 0..4
    staged[at + {i}u] = v[0][{i}];
    staged[at + 4u + {i}u] = v[1][{i}];
    //% end
}
