// Eights of rows of any length, number by number.
// Links: `x1` (a number of the row from `first` on, zero past its end).
// use matmul/eight
fn x8(place: u32, eight: u32) -> Eight {
    let first = place * p.c;
    let e = eight * 8u;
    return Eight(
        vec4<f32>(x1(first, e), x1(first, e + 1u), x1(first, e + 2u), x1(first, e + 3u)),
        vec4<f32>(x1(first, e + 4u), x1(first, e + 5u), x1(first, e + 6u), x1(first, e + 7u)),
    );
}
