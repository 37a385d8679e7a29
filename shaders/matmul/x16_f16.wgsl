// x: halves as they are, eight a load (mat2x4 is only a name for 16 bytes).
@group(0) @binding(1) var<storage, read> x: array<mat2x4<f16>>;
const UNSCALE = 1.0;
fn x16(eight: u32, keep: bool) -> mat2x4<f16> {
    let v = x[eight];
    return mat2x4<f16>(select(vec4<f16>(), v[0], keep), select(vec4<f16>(), v[1], keep));
}
