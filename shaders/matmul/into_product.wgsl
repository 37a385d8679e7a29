// out = onto · value (gated feed-forward)
@group(0) @binding(4) var<storage, read> onto: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;
fn combine(row: u32, column: u32, v: f32) {
    let i = row * p.n + column;
    out[i] = onto[i] * v;
}
