// out = u + s·(c − u): classifier-free guidance.
//
// x [2n, channels, ..] with the conditioned half first; out [n, ch, ..] takes the first ch channels. `part` numbers of
// x make one sample's channels, `own` numbers of out.
// use lib/each

struct Params { count: u32, own: u32, part: u32, n: u32, scale: f32, pad0: u32, pad1: u32, pad2: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;

fn each(i: u32) {
    let sample = i / p.own;
    let at = sample * p.part + (i - sample * p.own);
    let null_ = x[p.n * p.part + at];
    out[i] = fma(p.scale, x[at] - null_, null_);
}
