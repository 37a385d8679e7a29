// out = a · x + b · y
// use lib/each

struct Params { count: u32, a: f32, b: f32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;

fn each(i: u32) {
    out[i] = fma(p.a, x[i], p.b * y[i]);
}
