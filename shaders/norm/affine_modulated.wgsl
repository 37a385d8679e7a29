// affine: value · (1 + scale) + shift, one pair of vectors for every `mod_rows` rows.
@group(0) @binding(2) var<storage, read> modulation: array<Num>;
// Where the vectors of a row start: asked once a row, for a division costs as much as ten numbers of it.
fn vector_of(row: u32) -> u32 { return row / p.mod_rows * p.mod_stride; }
fn affine(vector: u32, e: u32, value: Num) -> Num {
    return fma(value, 1.0 + modulation[vector + p.scale_at + e], modulation[vector + p.shift_at + e]);
}
