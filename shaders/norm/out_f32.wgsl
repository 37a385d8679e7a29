// out: f32. The second of the two numbers is not there where `two` is false.
@group(0) @binding(10) var<storage, read_write> out: array<f32>;
fn store2(i: u32, v: vec2<f32>, two: bool) {
    out[i] = v.x;
    if (two) { out[i + 1u] = v.y; }
}
