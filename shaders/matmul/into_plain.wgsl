// out = value
@group(0) @binding(10) var<storage, read_write> out: array<f32>;
fn combine(row: u32, column: u32, v: f32) { out[row * p.n + column] = v; }
