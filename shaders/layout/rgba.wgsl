// Pixels [3, t, h, w] in [−1, 1] → bytes RGBA [t, h, stride], alpha 255.
// byte = trunc(clamp((clamp(x, −1, 1) + 1) / 2 · 255 + 0.5, 0, 255)), as upstream's `save_sample` does it.
// use lib/each

struct Params { count: u32, plane: u32, w: u32, stride: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<u32>;

fn byte(v: f32) -> u32 {
    return u32(clamp((clamp(v, -1.0, 1.0) + 1.0) / 2.0 * 255.0 + 0.5, 0.0, 255.0));
}

fn each(i: u32) {
    let column = min(i % p.stride, p.w - 1u);
    let at = i / p.stride * p.w + column;
    out[i] = byte(x[at]) | (byte(x[at + p.plane]) << 8u) | (byte(x[at + 2u * p.plane]) << 16u) | 0xff000000u;
}
