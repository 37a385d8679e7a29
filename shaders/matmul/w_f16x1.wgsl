// w: packed halves, rows of any length: they may start in the middle of a word. What is missing from the last eight is zero.
// use matmul/w_ones
@group(0) @binding(2) var<storage, read> w: array<u32>;
fn w1(first: u32, e: u32) -> f32 {
    let i = first + min(e, p.c - 1u);
    return select(0.0, unpack2x16float(w[i / 2u])[i % 2u], e < p.c);
}
