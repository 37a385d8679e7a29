// rotary: angles [place, d/2] as (cos, sin), computed by the host in f64.
@group(0) @binding(3) var<storage, read> angles: array<vec2<f32>>;
fn turned(pair: vec2<f32>, place: u32, j: u32) -> vec2<f32> {
    let a = angles[place * (p.d / 2u) + j];
    return vec2<f32>(pair.x * a.x - pair.y * a.y, pair.y * a.x + pair.x * a.y);
}
