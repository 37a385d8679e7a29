//! Convolutions of the autoencoders. Shapes: frames, height, width of the output, inputs, outputs, taps.

use residua::gpu::DType;
use residua::ops::{self, Geometry, Target};

use super::{Case, LATENT, Ready, Sample, bytes};
use crate::cli::bench::numbers::{Numbers, some};
use crate::cli::bench::reference::conv::{Conv, conv_at};
use crate::cli::bench::reference::matmul::{Tail, Then, finish};

pub fn cases(full: bool) -> Vec<Case> {
    let [h, w] = LATENT;
    // frames, rows and columns of the output
    let image = |times: usize, small: usize| if full { [1, times * h, times * w] } else { [1, small, small] };
    let video = |frames: usize, small: [usize; 3]| if full { [frames, h, w] } else { small };
    vec![
        case("vae.conv3x3.64x64.128", [1, 128, 128], [64, 64], [1, 3, 3], 1),
        case("vae.spatial.conv3x3.512", image(1, 16), [512, 512], [1, 3, 3], 1),
        case("vae.spatial.upsample.512", image(2, 16), [512, 512], [1, 3, 3], 2),
        case("vae.spatial.conv3x3.256", image(4, 32), [256, 256], [1, 3, 3], 1),
        case("vae.spatial.conv3x3.128", image(8, 64), [128, 128], [1, 3, 3], 1),
        case("vae.spatial.conv_out", image(8, 64), [128, 3], [1, 3, 3], 1),
        case("vae.temporal.conv3x3x3.512", video(5, [2, 8, 8]), [512, 512], [3, 3, 3], 1),
        case("vae.temporal.conv3x3x3.128", video(20, [4, 16, 16]), [128, 128], [3, 3, 3], 1),
    ]
}

fn case(name: &'static str, out: [usize; 3], [c, n]: [usize; 2], kernel: [usize; 3], upsample: usize) -> Case {
    let taps: usize = kernel.iter().product();
    let k = taps * c;
    let flops = 2.0 * (out.iter().product::<usize>() * n * k) as f64;
    let [t, h, w] = [out[0], out[1] / upsample, out[2] / upsample];
    // time looks back only
    let pad = [kernel[0] - 1, kernel[1] / 2, kernel[2] / 2];
    let prepare = move |gpu: &residua::gpu::Gpu, set: usize| {
        let stream = 8 * set;
        let x = Numbers::new(stream, t * h * w * c, gpu.operands());
        let weight = Numbers::new(stream + 1, n * k, gpu.operands());
        let bias = Numbers::new(stream + 2, n, DType::F32);
        let (x_there, w_there) = (x.upload(gpu, [1, t, h, w, c]), weight.upload(gpu, [n, k]));
        let bias_there = bias.upload(gpu, [n]);
        let reads = bytes(&[&x_there, &w_there, &bias_there]);
        let geometry = Geometry { kernel, pad, stride: [1, 1], upsample, out };
        let launch = move || ops::conv(&x_there, &w_there, Some(&bias_there), &geometry, Target::Plain);
        let sample = move || {
            let conv =
                Conv { images: 1, input: [t, h, w, c], channels_out: n, kernel, pad, stride: [1; 3], upsample, out };
            let (places, channels) = (some(stream, 16, out.iter().product()), some(stream + 1, 8, n));
            let (mut at, mut sums, mut biases) = (Vec::new(), Vec::new(), Vec::new());
            for (place, &channel) in places.iter().flat_map(|p| channels.iter().map(move |c| (p, c))) {
                let [oh, ow] = [out[1], out[2]];
                let to = [place / (oh * ow), place / ow % oh, place % ow];
                sums.push(conv_at(|i| x.at(i), |i| weight.at(i), &conv, 0, to, channel));
                at.push(place * n + channel);
                biases.push(bias.at(channel));
            }
            let tail = Tail { bias: Some(&biases), then: Then::Nothing, gate: None, plus: None, times: None };
            let count = sums.len();
            Sample { at, expected: finish(sums, count, k, &tail) }
        };
        Ready { launch: Box::new(launch), reads, sample: Box::new(sample) }
    };
    Case { name, shape: vec![out[0], out[1], out[2], c, n, taps], flops, prepare: Box::new(prepare) }
}
