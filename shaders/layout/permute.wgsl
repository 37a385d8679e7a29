// out[i₀, i₁, …] = x[Σ iₐ · strideₐ]: any transpose, bit for bit, once the host has joined the axes that stay neighbours.
//
// One invocation a `Word` of the result, and one division for each axis but the outermost.
// Links: `Word` (lib/ones, pairs, fours; count and the innermost size count these), `take`.
// use lib/each

struct Params {
    sizes: array<vec4<u32>, 2>,   // of the result, innermost first
    strides: array<vec4<u32>, 2>, // in x, of the same axes; of the innermost one from a `Word` to the next
    count: u32, step: u32, pad0: u32, pad1: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(10) var<storage, read_write> out: array<Word>;

fn each(i: u32) {
    var rest = i;
    var at = 0u;
    //% for k in 0..INNER
    let up{k} = rest / p.sizes[{k}u / 4u][{k}u % 4u];
    at += (rest - up{k} * p.sizes[{k}u / 4u][{k}u % 4u]) * p.strides[{k}u / 4u][{k}u % 4u];
    rest = up{k};
    //% end
    out[i] = take(at + rest * p.strides[INNER / 4u][INNER % 4u]);
}
