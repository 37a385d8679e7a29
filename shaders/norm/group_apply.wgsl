// Group normalisation, last part: out = activate((x − mean) · rstd · weight + bias), elementwise on [n, positions, c].
// Links: `activate` (matmul/act_none, matmul/act_silu).
// use lib/each

struct Params { count: u32, per_image: u32, c: u32, groups: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;

fn each(i: u32) {
    let channel = i % p.c;
    let s = stats[i / p.per_image * p.groups + channel / (p.c / p.groups)];
    out[i] = activate(fma((x[i] - s.x) * s.y, weight[channel], bias[channel]));
}
