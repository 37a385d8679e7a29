// out[i₀, …, i₇] = x[Σ iₐ · strideₐ]: any transpose of up to eight axes, bit for bit.
// use lib/each

struct Params {
    sizes_a: vec4<u32>, sizes_b: vec4<u32>,     // of the result, outermost first; unused outer axes are 1
    strides_a: vec4<u32>, strides_b: vec4<u32>, // in x, of the same axes
    count: u32, pad0: u32, pad1: u32, pad2: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(10) var<storage, read_write> out: array<u32>;

fn each(i: u32) {
    var rest = i;
    var at = 0u;
    //% for k in 0..4
    at += rest % p.sizes_b[3u - {k}u] * p.strides_b[3u - {k}u];
    rest /= p.sizes_b[3u - {k}u];
    //% end
    //% for k in 0..4
    at += rest % p.sizes_a[3u - {k}u] * p.strides_a[3u - {k}u];
    rest /= p.sizes_a[3u - {k}u];
    //% end
    out[i] = x[at];
}
