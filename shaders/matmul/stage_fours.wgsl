// Staged halves in vectors of four: two stores an eight. A stride counts vectors.
const UNIT = 4u;
var<workgroup> sx: array<vec4<f16>, BM * LD / 4u>;
var<workgroup> sw: array<vec4<f16>, BN * LD / 4u>;
fn stage_x(at: u32, v: mat2x4<f16>) {
    sx[at / 4u] = v[0];
    sx[at / 4u + 1u] = v[1];
}
fn stage_w(at: u32, v: mat2x4<f16>) {
    sw[at / 4u] = v[0];
    sw[at / 4u + 1u] = v[1];
}
