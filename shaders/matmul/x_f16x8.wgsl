// x: packed halves, rows of whole eights. No device feature is needed to unpack them.
// use matmul/eight
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
fn x8(place: u32, e: u32) -> Eight { return halves8(x[place * p.c8 + e]); }
