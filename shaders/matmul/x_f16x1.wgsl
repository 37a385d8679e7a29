// x: packed halves, rows of any length: they may start in the middle of a word. What is missing from the last eight is zero.
// use matmul/eight
@group(0) @binding(1) var<storage, read> x: array<u32>;
fn x1(first: u32, e: u32) -> f32 {
    let i = first + min(e, p.c - 1u);
    return select(0.0, unpack2x16float(x[i / 2u])[i % 2u], e < p.c);
}
fn x8(place: u32, eight: u32) -> Eight {
    let first = place * p.c;
    let e = eight * 8u;
    return Eight(
        vec4<f32>(x1(first, e), x1(first, e + 1u), x1(first, e + 2u), x1(first, e + 3u)),
        vec4<f32>(x1(first, e + 4u), x1(first, e + 5u), x1(first, e + 6u), x1(first, e + 7u)),
    );
}
