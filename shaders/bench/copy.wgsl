// out = x, four numbers an invocation: how fast the memory of this device is.   x, out: [4 · count]
// use lib/each

struct Params { count: u32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> out: array<vec4<f32>>;

fn each(i: u32) {
    out[i] = x[i];
}
