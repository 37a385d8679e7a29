// out: f32. The second value is past the row where there is no `two`.
@group(0) @binding(10) var<storage, read_write> out: array<f32>;
fn store2(row: u32, column: u32, v: vec2<f32>, two: bool) {
    let i = row * p.n + column;
    out[i] = v.x;
    if (two) { out[i + 1u] = v.y; }
}
