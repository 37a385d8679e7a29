// norm: RMS over the head, with a weight.
@group(0) @binding(2) var<storage, read> weight: array<f32>;
fn norm_scale(row: u32, head: u32) -> f32 {
    var sum = 0.0;
    for (var e = 0u; e < p.d; e++) {
        let z = element(row, head, e);
        sum = fma(z, z, sum);
    }
    return inverseSqrt(sum / f32(p.d) + 1e-6);
}
fn normed(row: u32, head: u32, e: u32, scale: f32) -> f32 { return element(row, head, e) * scale * weight[e]; }
