// out = x · scale[c] + shift[c] for x [.., c, inner]; table holds (scale, shift) of each channel.
// use lib/each

struct Params { count: u32, inner: u32, c: u32, pad0: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec2<f32>>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;

fn each(i: u32) {
    let t = table[i / p.inner % p.c];
    out[i] = fma(x[i], t.x, t.y);
}
