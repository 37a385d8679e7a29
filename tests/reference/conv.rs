//! Convolution by its definition, channels last.

use super::Sum;

/// Sizes of a convolution; axes are time, height, width.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    pub images: usize,
    /// T, H, W, C
    pub input: [usize; 4],
    pub channels_out: usize,
    pub kernel: [usize; 3],
    pub pad: [usize; 3],
    pub stride: [usize; 3],
    pub upsample: usize,
    pub out: [usize; 3],
}

/// x `[images, T, H, W, C]`, w `[N, kt, kh, kw, C]` → `[images, out.., N]`.
pub fn conv(x: &[f32], w: &[f32], c: &Conv) -> Vec<Sum> {
    let mut out = Vec::new();
    for image in 0..c.images {
        for (t, h, wide) in places(c.out) {
            for n in 0..c.channels_out {
                out.push(conv_at(|i| x[i], |i| w[i], c, image, [t, h, wide], n));
            }
        }
    }
    out
}

/// One number of it: channel `n` of an image at a place of the output.
pub fn conv_at(
    x: impl Fn(usize) -> f32,
    w: impl Fn(usize) -> f32,
    c: &Conv,
    image: usize,
    [ot, oh, ow]: [usize; 3],
    n: usize,
) -> Sum {
    let [t, h, wide, channels] = c.input;
    let [kt, kh, kw] = c.kernel;
    let up = c.upsample;
    let mut sum = Sum::default();
    for (a, b, d) in places(c.kernel) {
        // place in the (enlarged) input, shifted by the zeros in front of it
        let from = [ot * c.stride[0] + a, oh * c.stride[1] + b, ow * c.stride[2] + d];
        let inside = (0..3).all(|i| from[i] >= c.pad[i] && from[i] - c.pad[i] < [t, h * up, wide * up][i]);
        if !inside {
            continue;
        }
        let [it, ih, iw] = [from[0] - c.pad[0], (from[1] - c.pad[1]) / up, (from[2] - c.pad[2]) / up];
        for e in 0..channels {
            let pixel = x((((image * t + it) * h + ih) * wide + iw) * channels + e);
            let weight = w((((n * kt + a) * kh + b) * kw + d) * channels + e);
            sum.add(f64::from(pixel) * f64::from(weight));
        }
    }
    sum
}

/// All index triples below `to`, last axis fastest.
fn places([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}
