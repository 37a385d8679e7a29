//! Convolutions: the same products over the matrix of patches.

use residua::gpu::Gpu;
use residua::ops::{self, Geometry, Target};

use super::device::{halves, multiplied, on_each, rounded};
use super::judge::Judge;
use super::random::Random;
use super::reference::conv::{Conv, conv};
use super::reference::matmul::{Tail, Then, finish};

#[derive(Clone, Copy, Debug)]
struct Case {
    conv: Conv,
    /// Whether x and the weight are halves.
    halves: [bool; 2],
    bias: bool,
    residual: bool,
}

impl Case {
    fn run(self, judge: &mut Judge<'_>, gpu: &Gpu, random: &mut Random) {
        let Conv { images, input, channels_out: n, kernel, pad, stride, upsample, out } = self.conv;
        let [t, h, wide, c] = input;
        let k = kernel.iter().product::<usize>() * c;
        let x = random.numbers(images * input.iter().product::<usize>());
        let w = random.numbers(n * k);
        let [x_half, w_half] = self.halves;
        let x = if x_half { rounded(x) } else { x };
        let w = if w_half { rounded(w) } else { w };
        let (bias, onto) = (random.numbers(n), random.numbers(images * out.iter().product::<usize>() * n));
        let tail = Tail {
            bias: self.bias.then_some(&bias[..]),
            then: Then::Nothing,
            gate: None,
            plus: self.residual.then_some(&onto[..]),
            times: None,
        };
        let seen = if x_half || !w_half { x.clone() } else { multiplied(gpu, x.clone(), c) };
        let expected = finish(conv(&seen, &w, &self.conv), n, k, &tail);

        let shape = [images, t, h, wide, c];
        let x = if x_half { halves(gpu, &x, [x.len() / c, c]).reshape(shape) } else { gpu.upload(&x, shape) };
        let w = if w_half { halves(gpu, &w, [n, k]) } else { gpu.upload(&w, [n, k]) };
        let bias = self.bias.then(|| gpu.upload(&bias, [n]));
        let onto = self.residual.then(|| gpu.upload(&onto, [images, out[0], out[1], out[2], n]));
        assert_eq!(stride[1], stride[2], "height and width step alike");
        let geometry = Geometry { kernel, pad, stride: [stride[0], stride[1]], upsample, out };
        let launch = || ops::conv(&x, &w, bias.as_ref(), &geometry, Target::onto(onto.as_ref()));
        judge.case(format!("{self:?}"), launch, &expected);
    }
}

/// The kinds of convolution in the models.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// 1×1(×1), no padding.
    Point,
    /// 3×3 in a frame, same size.
    Frame,
    /// 3×3 with stride 2 and zeros only behind (the image encoder's way of halving).
    Halve,
    /// 3×3 on an image enlarged by nearest neighbour.
    Double,
    /// 3×3×3, looking back in time only.
    Causal,
    /// 3×3×3 looking back, every second frame.
    CausalHalve,
    /// Time only, every second frame, zeros in front.
    Time,
    /// Patches of 1×2×2 that do not overlap, cut off at odd edges.
    Patch,
}

const KINDS: [Kind; 8] =
    [Kind::Point, Kind::Frame, Kind::Halve, Kind::Double, Kind::Causal, Kind::CausalHalve, Kind::Time, Kind::Patch];

impl Kind {
    fn of(self, images: usize, [t, h, w]: [usize; 3], c: usize, n: usize) -> Conv {
        let (kernel, pad, stride, upsample, out) = match self {
            Kind::Point => ([1, 1, 1], [0, 0, 0], [1, 1], 1, [t, h, w]),
            Kind::Frame => ([1, 3, 3], [0, 1, 1], [1, 1], 1, [t, h, w]),
            Kind::Halve => (
                [1, 3, 3],
                [0, 0, 0],
                [1, 2],
                1,
                [t, (h + 1).saturating_sub(3) / 2 + 1, (w + 1).saturating_sub(3) / 2 + 1],
            ),
            Kind::Double => ([1, 3, 3], [0, 1, 1], [1, 1], 2, [t, 2 * h, 2 * w]),
            Kind::Causal => ([3, 3, 3], [2, 1, 1], [1, 1], 1, [t, h, w]),
            Kind::CausalHalve => ([3, 3, 3], [2, 1, 1], [2, 1], 1, [t.div_ceil(2), h, w]),
            Kind::Time => ([3, 1, 1], [2, 0, 0], [2, 1], 1, [t.div_ceil(2), h, w]),
            Kind::Patch => ([1, 2, 2], [0, 0, 0], [1, 2], 1, [t, h.div_ceil(2), w.div_ceil(2)]),
        };
        let input = [t, h, w, c];
        Conv { images, input, channels_out: n, kernel, pad, stride: [stride[0], stride[1], stride[1]], upsample, out }
    }
}

#[test]
fn kinds_and_shapes() {
    on_each("conv", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "conv"), Random::new("conv"));
        for kind in KINDS {
            // channels by eights, and not (then k may still be a multiple of 8, as with 2×2 taps)
            for (channels, halves) in [
                ([8, 16, 24], [false; 2]),
                ([8, 24, 72], [true; 2]),
                ([1, 3, 6], [false; 2]),
                ([8, 16, 40], [false, true]),
                ([2, 4, 5], [false, true]),
                ([3, 10, 12], [true, false]),
            ] {
                for _ in 0..2 {
                    let images = random.pick(&[1, 2]);
                    let size = [random.pick(&[1, 2, 5]), random.pick(&[1, 2, 7, 8]), random.pick(&[1, 3, 8, 11])];
                    let (c, n) = (random.pick(&channels), random.pick(&[1, 4, 31, 32, 33]));
                    Case { conv: kind.of(images, size, c, n), halves, bias: true, residual: false }.run(
                        &mut judge,
                        gpu,
                        &mut random,
                    );
                }
            }
        }
        for (kind, c) in [(Kind::Frame, 64), (Kind::Causal, 6), (Kind::Double, 3), (Kind::Causal, 8)] {
            let conv = kind.of(1, [3, 9, 7], c, 65);
            Case { conv, halves: [true; 2], bias: false, residual: true }.run(&mut judge, gpu, &mut random);
        }
        judge.finish();
    });
}

/// Zeros on all sides by more than the kernel reaches: outputs that see no input at all are the bias.
#[test]
fn outside_is_zero() {
    on_each("conv outside", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "conv outside"), Random::new("conv outside"));
        for c in [3, 4] {
            let conv = Conv {
                images: 1,
                input: [1, 2, 2, c],
                channels_out: 3,
                kernel: [3, 3, 3],
                pad: [4, 5, 3],
                stride: [1, 1, 1],
                upsample: 1,
                out: [7, 9, 8],
            };
            Case { conv, halves: [false; 2], bias: true, residual: false }.run(&mut judge, gpu, &mut random);
        }
        judge.finish();
    });
}
