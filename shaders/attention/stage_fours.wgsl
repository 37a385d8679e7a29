// Staged halves in vectors of four: two stores an eight. A stride counts vectors.
const UNIT = 4u;
var<workgroup> staged: array<vec4<f16>, 2u * BC * LD / 4u>;
fn stage(at: u32, v: mat2x4<f16>) {
    staged[at / 4u] = v[0];
    staged[at / 4u + 1u] = v[1];
}
