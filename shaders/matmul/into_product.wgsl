// out = onto · value (gated feed-forward)
@group(0) @binding(4) var<storage, read> onto: array<f32>;
fn combine(row: u32, column: u32, v: f32) -> f32 { return onto[row * p.n + column] * v; }
