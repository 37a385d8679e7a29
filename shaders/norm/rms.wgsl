// out = x / √(mean x² + eps) · weight over each row of [rows, c], f32. One workgroup of WIDTH a row.
//
// Moves 4 bytes a number in and 4 (halves: 2) out, the least there is: the second look finds the row in the cache.
// Links: `Num` (lib/ones, pairs, fours; c counts these), `across`, `store`.
// use lib/grid

struct Params { rows: u32, c: u32, eps: f32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Num>;
@group(0) @binding(2) var<storage, read> weight: array<Num>;

alias Part = f32;
const SLOTS: u32 = 1u;

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
    var square = Num(0.0);
    for (var e = l; e < c; e += WIDTH) {
        let v = x[base + e];
        square = fma(v, v, square);
    }
    let scale = inverseSqrt(across(l, 0u, sum_of(square)) / f32(c * LANES) + p.eps);
    for (var e = l; e < c; e += WIDTH) { store(base + e, x[base + e] * weight[e] * scale); }
}
