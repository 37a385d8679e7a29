// out = x / √(mean x² + eps) · weight over each row of [rows, c], f32. One workgroup of WIDTH a row.
// Links: `store2`.
// use lib/grid

struct Params { rows: u32, c: u32, eps: f32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;

var<workgroup> part: array<f32, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) l: u32,
) {
    let row = flat_group(group, groups);
    if (row >= p.rows) { return; }
    let base = row * p.c;
    var square = 0.0;
    for (var e = l; e < p.c; e += WIDTH) {
        let v = x[base + e];
        square = fma(v, v, square);
    }
    part[l] = square;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < WIDTH; i++) { sum += part[i]; }
    let scale = inverseSqrt(sum / f32(p.c) + p.eps);
    for (var e = 2u * l; e < p.c; e += 2u * WIDTH) {
        let second = min(e + 1u, p.c - 1u);
        let value = vec2<f32>(x[base + e] * weight[e], x[base + second] * weight[second]) * scale;
        store2(base + e, value, e < second);
    }
}
