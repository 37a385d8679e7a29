// out = x / (1 + e^(−x))
// use lib/each
// use lib/activation

struct Params { count: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;

fn each(i: u32) {
    out[i] = silu_of(x[i]);
}
