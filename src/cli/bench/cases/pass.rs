//! Passes over whole tensors. Shapes: rows, channels; of the sampler's step channels, frames, rows, columns.

use residua::gpu::DType;
use residua::ops::{self, Difference, Power};

use super::{Case, FRAMES, LATENT, PATCHES, Ready, Sample, TOKENS, WIDTH, bytes};
use crate::cli::bench::numbers::{Numbers, some};
use crate::cli::bench::reference::Expected;
use crate::cli::bench::reference::elementwise::euler;
use crate::cli::bench::reference::reduce;

pub fn cases(full: bool) -> Vec<Case> {
    let rows = if full { TOKENS } else { PATCHES };
    vec![add(rows), metric(rows), step()]
}

/// A cached residual added to the stream: all that a skipped block does.
fn add(rows: usize) -> Case {
    let count = rows * WIDTH;
    let prepare = move |gpu: &residua::gpu::Gpu, set: usize| {
        let stream = 8 * set;
        let [x, y] = [0, 1].map(|i| Numbers::new(stream + i, count, DType::F32));
        let [x_there, y_there] = [x, y].map(|n| n.upload(gpu, [rows, WIDTH]));
        let reads = bytes(&[&x_there, &y_there]);
        let launch = move || ops::add(&x_there, &y_there);
        let sample = move || {
            let at = some(stream, 4096, count);
            let expected = Expected::exactly(at.iter().map(|&i| x.at(i) + y.at(i)));
            Sample { at, expected }
        };
        Ready { launch: Box::new(launch), reads, sample: Box::new(sample) }
    };
    Case { name: "stdit3.480p.add", shape: vec![rows, WIDTH], flops: 0.0, prepare: Box::new(prepare) }
}

/// AdaCache's distance between the residuals of two steps.
fn metric(rows: usize) -> Case {
    let count = rows * WIDTH;
    let prepare = move |gpu: &residua::gpu::Gpu, set: usize| {
        let stream = 8 * set;
        let [x, y] = [0, 1].map(|i| Numbers::new(stream + i, count, DType::F32));
        let [x_there, y_there] = [x, y].map(|n| n.upload(gpu, [rows, WIDTH]));
        let reads = bytes(&[&x_there, &y_there]);
        let which = Difference { segments: 1, len: count, x_at: 0, y_at: 0 };
        let launch = move || ops::difference(&x_there, &y_there, which, Power::One);
        let sample = move || Sample {
            at: (0..4).collect(),
            expected: reduce::difference((0..count).map(|i| (x.at(i), y.at(i))), 1),
        };
        Ready { launch: Box::new(launch), reads, sample: Box::new(sample) }
    };
    Case { name: "stdit3.480p.adacache.metric", shape: vec![rows, WIDTH], flops: 0.0, prepare: Box::new(prepare) }
}

/// The sampler's step under guidance.
fn step() -> Case {
    const CHANNELS: usize = 4;
    const SCALE: f32 = 7.0;
    let [h, w] = LATENT;
    let volume = FRAMES * h * w;
    let prepare = move |gpu: &residua::gpu::Gpu, set: usize| {
        let stream = 8 * set;
        let z = Numbers::new(stream, CHANNELS * volume, DType::F32);
        let velocity = Numbers::new(stream + 1, 4 * CHANNELS * volume, DType::F32);
        let dt = Numbers::new(stream + 2, FRAMES, DType::F32);
        let z_there = z.upload(gpu, [1, CHANNELS, FRAMES, h, w]);
        let velocity_there = velocity.upload(gpu, [2, 2 * CHANNELS, FRAMES, h, w]);
        let dt_there = dt.upload(gpu, [1, FRAMES]);
        // half of the network's channels count
        let reads = z_there.bytes() + velocity_there.bytes() / 2;
        let launch = move || ops::euler_step(&z_there, &velocity_there, &dt_there, SCALE);
        let sample = move || {
            let at = some(stream, 4096, CHANNELS * volume);
            let mut expected = Expected::default();
            for &i in &at {
                let (told, untold) = (velocity.at(i), velocity.at(2 * CHANNELS * volume + i));
                let (value, bound) = euler(z.at(i), told, untold, dt.at(i % volume / (h * w)), SCALE);
                expected.push(value, bound);
            }
            Sample { at, expected }
        };
        Ready { launch: Box::new(launch), reads, sample: Box::new(sample) }
    };
    Case { name: "sampler.480p.euler", shape: vec![CHANNELS, FRAMES, h, w], flops: 0.0, prepare: Box::new(prepare) }
}
