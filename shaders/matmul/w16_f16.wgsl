// w: halves, eight a load.
@group(0) @binding(2) var<storage, read> w: array<mat2x4<f16>>;
fn w16(eight: u32) -> mat2x4<f16> { return w[eight]; }
