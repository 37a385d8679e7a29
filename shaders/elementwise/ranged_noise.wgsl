// out = mean + e^(½ · (f · high + (1 − f) · low)) · noise, f = (v + 1) / 2: fresh noise whose log variance a network
// places in a range.
//
// mean, noise, out [n, ch, ..]; x [n, 2ch, ..] holds v in its second ch channels. `own` numbers make one sample of out.
// Source: `DDPMScheduler._get_variance` (variance_type "learned_range") in diffusers at tag v0.30.0.
// use lib/each

struct Params { count: u32, own: u32, low: f32, high: f32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> mean: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> noise: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;

fn each(i: u32) {
    let f = 0.5 * (x[i + (i / p.own + 1u) * p.own] + 1.0);
    out[i] = fma(exp(0.5 * (f * p.high + (1.0 - f) * p.low)), noise[i], mean[i]);
}
