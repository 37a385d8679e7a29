// out = affine((x − mean) / √(var + eps)) over each row of [rows, c]; biased variance, in two passes, f32.
//
// One workgroup of WIDTH a row. Sums run in a fixed order, so the same adapter gives the same bits.
// Moves 4 bytes a number in and 4 (halves: 2) out, which is the least there is: the second and third look at a row
// find it in the cache, and so do all but the first of `mod_rows` rows their modulation.
// Links: `Num` (lib/ones, pairs, fours; c and the places in the modulation count these), `across`, `affine`, `store`.
// use lib/grid

struct Params { rows: u32, c: u32, eps: f32, mod_rows: u32, mod_stride: u32, shift_at: u32, scale_at: u32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Num>;

alias Part = f32;
const SLOTS: u32 = 2u;

@compute @workgroup_size(WIDTH)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let row = flat_group(group, groups);
    if (row >= p.rows) { return; }
    let c = p.c;
    let base = row * c;
    let count = f32(c * LANES);
    var sum = Num(0.0);
    for (var e = l; e < c; e += WIDTH) { sum += x[base + e]; }
    let mean = across(l, 0u, sum_of(sum)) / count;
    var square = Num(0.0);
    for (var e = l; e < c; e += WIDTH) {
        let d = x[base + e] - mean;
        square = fma(d, d, square);
    }
    let scale = inverseSqrt(across(l, 1u, sum_of(square)) / count + p.eps);
    let vectors = vectors_of(row);
    for (var e = l; e < c; e += WIDTH) {
        store(base + e, affine(vectors, e, (x[base + e] - mean) * scale));
    }
}
