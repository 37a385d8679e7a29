// x: f32, rows of whole eights.
// use matmul/eight
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
fn x8(place: u32, e: u32) -> Eight {
    let i = (place * p.c8 + e) * 2u;
    return Eight(x[i], x[i + 1u]);
}
