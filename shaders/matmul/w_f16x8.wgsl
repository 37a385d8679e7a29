// w: packed halves, rows of whole eights. No device feature is needed to unpack them.
// use matmul/eight
@group(0) @binding(2) var<storage, read> w: array<vec4<u32>>;
fn w8(place: u32, e: u32) -> Eight { return halves8(w[place * p.c8 + e]); }

// The eight kk of a whole row: taps one after the other.
fn wk(column: u32, kk: u32) -> Eight { return w8(column * p.taps, kk); }
