// x: f32, as halves of a 64th: what is kept in f32 may lie outside of their range. Up to 4.19e6 arrives with the
// eleven bits of a half (larger numbers become that), below 2^-8 steps are 2^-18.
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
const UNSCALE = 64.0;
fn four(v: vec4<f32>, keep: bool) -> vec4<f16> {
    return vec4<f16>(select(vec4<f32>(), clamp(v / UNSCALE, vec4<f32>(-65504.0), vec4<f32>(65504.0)), keep));
}
fn x16(eight: u32, keep: bool) -> mat2x4<f16> {
    return mat2x4<f16>(four(x[2u * eight], keep), four(x[2u * eight + 1u], keep));
}
