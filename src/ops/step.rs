//! What samplers do with latents between two calls of a network.

use bytemuck::{Pod, Zeroable};

use super::{contract, empty_f32, groups_of_64};
use crate::gpu::{Dispatch, Program, shader};
use crate::tensor::Tensor;

/// Classifier-free guidance, u + scale · (c − u), of the first `channels` channels.
/// x: `[2n, ≥ channels, ..]`, the n conditioned samples first → `[n, channels, ..]`.
///
/// # Panics
/// If x has an odd number of samples or fewer channels.
#[track_caller]
pub fn guide(x: &Tensor, channels: usize, scale: f32) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        count: u32,
        own: u32,
        part: u32,
        n: u32,
        scale: f32,
        pad: [u32; 3],
    }
    let mut shape = x.dims().to_vec();
    let fits = shape.len() >= 2 && shape[0].is_multiple_of(2) && shape[1] >= channels;
    contract!(fits, "guide: {channels} channels of {}", x.shape());
    let part = x.count() / shape[0];
    let own = part / shape[1] * channels;
    (shape[0], shape[1]) = (shape[0] / 2, channels);
    let n = shape[0] as u32;
    let out = empty_f32(x.gpu(), shape);
    Dispatch::new(x.gpu(), Program::of(shader::ELEMENTWISE_GUIDE))
        .bind("x", x)
        .bind("out", &out)
        .params(&Params { count: out.count() as u32, own: own as u32, part: part as u32, n, scale, pad: [0; 3] })
        .over(groups_of_64(out.count()))
        .record();
    out
}

/// a · x + b · y. x, y: same shape.
///
/// # Panics
/// If the shapes differ.
#[track_caller]
pub fn mix(a: f32, x: &Tensor, b: f32, y: &Tensor) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        count: u32,
        a: f32,
        b: f32,
        pad: u32,
    }
    contract!(x.dims() == y.dims(), "mix: {} and {}", x.shape(), y.shape());
    let out = empty_f32(x.gpu(), x.shape().clone());
    Dispatch::new(x.gpu(), Program::of(shader::ELEMENTWISE_MIX))
        .bind("x", x)
        .bind("y", y)
        .bind("out", &out)
        .params(&Params { count: x.count() as u32, a, b, pad: 0 })
        .over(groups_of_64(x.count()))
        .record();
    out
}

/// mean + σ · noise with ln σ² between `low` (where v is −1) and `high` (where v is 1).
/// mean, noise: `[n, ch, ..]`; x: `[n, 2ch, ..]`, v in its second half → `[n, ch, ..]`.
///
/// # Panics
/// If the shapes do not fit.
#[track_caller]
pub fn ranged_noise(mean: &Tensor, x: &Tensor, noise: &Tensor, [low, high]: [f32; 2]) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        count: u32,
        own: u32,
        low: f32,
        high: f32,
    }
    let n = mean.dims()[0];
    let fits = mean.count() == noise.count() && x.dims()[0] == n && x.count() == 2 * mean.count();
    contract!(fits, "ranged_noise: {} with {} and {}", mean.shape(), x.shape(), noise.shape());
    let out = empty_f32(mean.gpu(), mean.shape().clone());
    let (count, own) = (mean.count() as u32, (mean.count() / n.max(1)) as u32);
    Dispatch::new(mean.gpu(), Program::of(shader::ELEMENTWISE_RANGED_NOISE))
        .bind("mean", mean)
        .bind("x", x)
        .bind("noise", noise)
        .bind("out", &out)
        .params(&Params { count, own, low, high })
        .over(groups_of_64(mean.count()))
        .record();
    out
}

pub(super) fn programs() -> Vec<Program> {
    [shader::ELEMENTWISE_GUIDE, shader::ELEMENTWISE_MIX, shader::ELEMENTWISE_RANGED_NOISE].map(Program::of).to_vec()
}
