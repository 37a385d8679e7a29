// Group normalisation, last part: out = activate((x − mean) · rstd · weight + bias), elementwise on [n, positions, c].
// An invocation takes two numbers. Links: `activate` (matmul/act_none, matmul/act_silu), `store2`.
// use lib/each

struct Params { count: u32, per_image: u32, c: u32, groups: u32, numbers: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;

fn value(i: u32) -> f32 {
    let channel = i % p.c;
    let s = stats[i / p.per_image * p.groups + channel / (p.c / p.groups)];
    return activate(fma((x[i] - s.x) * s.y, weight[channel], bias[channel]));
}

fn each(pair: u32) {
    let i = 2u * pair;
    let second = min(i + 1u, p.numbers - 1u);
    store2(i, vec2<f32>(value(i), value(second)), i < second);
}
