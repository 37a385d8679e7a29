// w: f32, rows of whole eights.
// use matmul/eight
@group(0) @binding(2) var<storage, read> w: array<vec4<f32>>;
fn w8(place: u32, e: u32) -> Eight {
    let i = (place * p.c8 + e) * 2u;
    return Eight(w[i], w[i + 1u]);
}

// The eight kk of a whole row: taps one after the other.
fn wk(column: u32, kk: u32) -> Eight { return w8(column * p.taps, kk); }
