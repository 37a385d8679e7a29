// Parts (q, k, v) of a projection → heads, all in one pass: [rows, parts · heads · d] → PARTS of
// [problem, head, place, 8·d8], padding zero.
//
// Row r of the tokens belongs to problem (r / (len·inner))·inner + r % inner at place (r / inner) % len: with
// inner = 1 sequences are consecutive rows (patches of a frame, text), with inner = S they are S apart (time).
// Optionally z ← z / √(mean z² + 1e-6) · weight over the head, then rotary on interleaved pairs
// (z₂ⱼ, z₂ⱼ₊₁) by the angle of (place, j). One invocation a row, head and part; in f32 whatever is stored.
// Moves the least possible: every number is read once from memory (a normed head a second time, from the cache)
// and written once, 2 bytes each way for halves.
// Links: `x8` of matmul (a head is a row of c numbers, what is missing from its last eight zero), `narrow`,
// `normed` (`norm_none`, `norm_rms`) and `turned` (`turn_none`, `turn_rotary`).
// use lib/grid

struct Params {
    rows: u32, parts: u32, first: u32, heads: u32, // the projection has `parts`, those from `first` on are wanted
    c: u32, c8: u32, d8: u32, pad0: u32,           // numbers of a head, in eights, and in eights as stored
    len: u32, inner: u32, pad1: u32, pad2: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
//% for i in 0..PARTS
@group(0) @binding(1{i}) var<storage, read_write> out{i}: array<Raw>;
//% end

fn put(part: u32, at: u32, v: Raw) {
    //% for i in 0..PARTS
    if (part == {i}u) { out{i}[at] = v; }
    //% end
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let i = flat_group(group, groups) * 64u + l;
    let each = p.rows * p.heads;
    if (i >= PARTS * each) { return; }
    let part = i / each;
    let row = i % each / p.heads;
    let head = i % p.heads;
    let problem = row / (p.len * p.inner) * p.inner + row % p.inner;
    let place = row / p.inner % p.len;
    let to = ((problem * p.heads + head) * p.len + place) * p.d8;
    let source = (row * p.parts + p.first + part) * p.heads + head;
    let scale = norm_scale(part, source);
    for (var e = 0u; e < p.c8; e++) {
        put(part, to + e, narrow(turned(part, place, e, normed(part, e, scale, x8(source, e)))));
    }
    for (var e = p.c8; e < p.d8; e++) { put(part, to + e, narrow(Eight(vec4<f32>(0.0), vec4<f32>(0.0)))); }
}
