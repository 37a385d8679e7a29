// out = mean + e^(clamp(logvar, −30, 20) / 2) · noise: a sample of the Gaussian an autoencoder's encoder describes.
// x [rows, 2c] holds the means, then the log variances; noise and out are [rows, c].
// Source: DiagonalGaussianDistribution in opensora/models/vae/utils.py at tag v1.2.0.
// Links: `Num` (lib/ones, pairs, fours; count and c count these).
// use lib/each

struct Params { count: u32, c: u32, pad0: u32, pad1: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<Num>;
@group(0) @binding(2) var<storage, read> noise: array<Num>;
@group(0) @binding(10) var<storage, read_write> out: array<Num>;

fn each(i: u32) {
    let at = i + i / p.c * p.c;
    out[i] = fma(exp(0.5 * clamp(x[at + p.c], Num(-30.0), Num(20.0))), noise[i], x[at]);
}
