// Eights of rows of any length, number by number.
// Links: `w1` (a number of the row from `first` on, zero past its end).
// use matmul/eight
// use lib/quotient
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
