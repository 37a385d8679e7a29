// out = affine((x − mean) / √(var + eps)) over each row of [rows, c]; biased variance, in two passes, f32.
//
// One workgroup of WIDTH a row; partial sums are added in the order of the invocations, so the same adapter
// gives the same bits. Links: `affine`, `store2`.
// use lib/grid

struct Params { rows: u32, c: u32, eps: f32, mod_rows: u32, mod_stride: u32, shift_at: u32, scale_at: u32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;

var<workgroup> part: array<f32, 2u * WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let row = flat_group(group, groups);
    if (row >= p.rows) { return; }
    let base = row * p.c;
    var sum = 0.0;
    for (var e = l; e < p.c; e += WIDTH) { sum += x[base + e]; }
    part[l] = sum;
    workgroupBarrier();
    var mean = 0.0;
    for (var i = 0u; i < WIDTH; i++) { mean += part[i]; }
    mean /= f32(p.c);
    var square = 0.0;
    for (var e = l; e < p.c; e += WIDTH) {
        let d = x[base + e] - mean;
        square = fma(d, d, square);
    }
    part[WIDTH + l] = square;
    workgroupBarrier();
    var variance = 0.0;
    for (var i = 0u; i < WIDTH; i++) { variance += part[WIDTH + i]; }
    let scale = inverseSqrt(variance / f32(p.c) + p.eps);
    for (var e = 2u * l; e < p.c; e += 2u * WIDTH) {
        let second = min(e + 1u, p.c - 1u);
        let value = vec2<f32>(
            affine(row, e, (x[base + e] - mean) * scale),
            affine(row, second, (x[base + second] - mean) * scale),
        );
        store2(base + e, value, e < second);
    }
}
