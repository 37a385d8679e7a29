// affine: value · (1 + scale) + shift, one pair of vectors for every `mod_rows` rows.
@group(0) @binding(2) var<storage, read> modulation: array<Num>;
// Where scale and shift of a row start: asked once a row, for a division costs as much as ten numbers of it.
fn vectors_of(row: u32) -> vec2<u32> {
    return row / p.mod_rows * p.mod_stride + vec2<u32>(p.scale_at, p.shift_at);
}
fn affine(vectors: vec2<u32>, e: u32, value: Num) -> Num {
    return fma(value, 1.0 + modulation[vectors.x + e], modulation[vectors.y + e]);
}
