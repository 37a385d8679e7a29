// x: packed halves, rows of any length: they may start in the middle of a word. What is missing from the last eight is zero.
// use matmul/x_ones
@group(0) @binding(1) var<storage, read> x: array<u32>;
fn x1(first: u32, e: u32) -> f32 {
    let i = first + min(e, p.c - 1u);
    return select(0.0, unpack2x16float(x[i / 2u])[i % 2u], e < p.c);
}
