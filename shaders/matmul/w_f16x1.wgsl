// w: packed halves, rows of any length: they may start in the middle of a word. What is missing from the last eight is zero.
// use matmul/eight
// use lib/quotient
@group(0) @binding(2) var<storage, read> w: array<u32>;
fn w1(first: u32, e: u32) -> f32 {
    let i = first + min(e, p.c - 1u);
    return select(0.0, unpack2x16float(w[i / 2u])[i % 2u], e < p.c);
}
fn w8(place: u32, eight: u32) -> Eight {
    let first = place * p.c;
    let e = eight * 8u;
    return Eight(
        vec4<f32>(w1(first, e), w1(first, e + 1u), w1(first, e + 2u), w1(first, e + 3u)),
        vec4<f32>(w1(first, e + 4u), w1(first, e + 5u), w1(first, e + 6u), w1(first, e + 7u)),
    );
}

// The eight kk of a whole row: taps one after the other, each rounded up to eights.
fn wk(column: u32, kk: u32) -> Eight {
    let tap = quotient(kk, p.c8);
    return w8(column * p.taps + tap, kk - tap * p.c8);
}
