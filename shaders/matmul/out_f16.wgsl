// out: packed halves; n is even, so that no word belongs to two invocations.
// use lib/half
@group(0) @binding(10) var<storage, read_write> out: array<u32>;
fn store2(row: u32, column: u32, v: vec2<f32>, two: bool) { out[(row * p.n + column) / 2u] = packed(v); }
