// affine: value · (1 + scale) + shift, one pair of vectors for every `mod_rows` rows.
@group(0) @binding(2) var<storage, read> modulation: array<f32>;
fn affine(row: u32, e: u32, value: f32) -> f32 {
    let at = row / p.mod_rows * p.mod_stride + e;
    return fma(value, 1.0 + modulation[at + p.scale_at], modulation[at + p.shift_at]);
}
