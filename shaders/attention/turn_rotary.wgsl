// rotary: queries and keys, by angles [place, d/2] as (cos, sin), computed by the host in f64.
@group(0) @binding(3) var<storage, read> angles: array<vec2<f32>>;
fn turn(pair: vec2<f32>, place: u32, j: u32) -> vec2<f32> {
    let half = p.c / 2u;
    let a = angles[place * half + min(j, half - 1u)];
    return vec2<f32>(pair.x * a.x - pair.y * a.y, pair.y * a.x + pair.x * a.y);
}
fn turned(part: u32, place: u32, e: u32, v: Eight) -> Eight {
    if (part > 1u) { return v; }
    let j = e * 4u;
    return Eight(
        vec4<f32>(turn(v.lo.xy, place, j), turn(v.lo.zw, place, j + 1u)),
        vec4<f32>(turn(v.hi.xy, place, j + 2u), turn(v.hi.zw, place, j + 3u)),
    );
}
