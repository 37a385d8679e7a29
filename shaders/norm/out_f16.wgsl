// out: packed halves; rows are even, so that i is.
// use lib/half
@group(0) @binding(10) var<storage, read_write> out: array<u32>;
fn store2(i: u32, v: vec2<f32>, two: bool) { out[i / 2u] = packed(v); }
