//! Passes over every number that no neighbouring kernel could have done.

use bytemuck::{Pod, Zeroable};

use super::{Lanes, Parts, Source, contract, empty_f32, groups_of_64};
use crate::gpu::{Dispatch, Program, shader};
use crate::tensor::Tensor;

/// x + y, with y repeated along the outer axes of x.
///
/// # Panics
/// If the length of y does not divide that of x.
#[track_caller]
pub fn add(x: &Tensor, y: &Tensor) -> Tensor {
    add_scaled(x, y, 1.0)
}

/// x − y, with y repeated along the outer axes of x.
///
/// # Panics
/// As [`add`].
#[track_caller]
pub fn sub(x: &Tensor, y: &Tensor) -> Tensor {
    add_scaled(x, y, -1.0)
}

/// x + factor · y, with y repeated along the outer axes of x.
///
/// # Panics
/// As [`add`].
#[track_caller]
pub fn add_scaled(x: &Tensor, y: &Tensor, factor: f32) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        count: u32,
        period: u32,
        factor: f32,
        pad: u32,
    }
    contract!(x.count().is_multiple_of(y.count().max(1)), "add: {} and {}", x.shape(), y.shape());
    let out = empty_f32(x.gpu(), x.shape().clone());
    let lanes = Lanes::of(&[x.count(), y.count()]);
    let (all, period) = (x.count(), y.count());
    let parts = Parts::of(all).groups_of(if period == all { 1 } else { period }).sharing_bytes(4);
    for part in parts.cut(x.gpu()) {
        // y repeats in every part of several periods, and is cut as well where a part lies in one
        let first = part.start % period.max(1);
        let y = if part.len() < period { y.part(period, &(first..first + part.len())) } else { y.clone() };
        let count = lanes.steps(part.len());
        Dispatch::new(x.gpu(), add_program(lanes, y.count() < part.len()))
            .bind("x", &x.part(all, &part))
            .bind("y", &y)
            .bind("out", &out.part(all, &part))
            .params(&Params { count, period: lanes.steps(y.count()), factor, pad: 0 })
            .over(groups_of_64(count as usize))
            .record();
    }
    out
}

/// x · sigmoid(x).
pub fn silu(x: &Tensor) -> Tensor {
    let out = empty_f32(x.gpu(), x.shape().clone());
    let (lanes, all) = (Lanes::of(&[x.count()]), x.count());
    for part in Parts::of(all).sharing_bytes(4).cut(x.gpu()) {
        let count = lanes.steps(part.len());
        Dispatch::new(x.gpu(), program(shader::ELEMENTWISE_SILU, lanes))
            .bind("x", &x.part(all, &part))
            .bind("out", &out.part(all, &part))
            .params(&[count, 0, 0, 0])
            .over(groups_of_64(count as usize))
            .record();
    }
    out
}

/// x · scale + shift by channel. x: `[.., C, inner]`, `table`: `[C, 2]` as (scale, shift).
///
/// # Panics
/// If the channels do not fit.
#[track_caller]
pub fn affine_channels(x: &Tensor, table: &Tensor, inner: usize) -> Tensor {
    let c = table.count() / 2;
    contract!(x.count().is_multiple_of(c * inner), "affine: {} with {c} channels of {inner}", x.shape());
    let out = empty_f32(x.gpu(), x.shape().clone());
    Dispatch::new(x.gpu(), Program::of(shader::ELEMENTWISE_AFFINE))
        .bind("x", x)
        .bind("table", table)
        .bind("out", &out)
        .params(&[x.count() as u32, inner as u32, c as u32, 0])
        .over(groups_of_64(x.count()))
        .record();
    out
}

/// x where the mask is not 0, else y. x, y: same shape; mask: words, each for an equal run of numbers.
///
/// # Panics
/// If the shapes do not fit.
#[track_caller]
pub fn choose(mask: &Tensor, x: &Tensor, y: &Tensor) -> Tensor {
    let fits = x.dims() == y.dims() && x.count().is_multiple_of(mask.count());
    contract!(fits, "choose: {} or {} by {}", x.shape(), y.shape(), mask.shape());
    let out = empty_f32(x.gpu(), x.shape().clone());
    let (all, span) = (x.count(), x.count() / mask.count());
    let lanes = Lanes::of(&[span]);
    // the words of 64 spans are 256 bytes; a part is so many, or all
    for part in Parts::of(all).grain(64 * span).sharing_bytes(4).cut(x.gpu()) {
        let count = lanes.steps(part.len());
        Dispatch::new(x.gpu(), program(shader::ELEMENTWISE_CHOOSE, lanes))
            .bind("x", &x.part(all, &part))
            .bind("y", &y.part(all, &part))
            .bind("mask", &mask.part(mask.count(), &(part.start / span..part.end / span)))
            .bind("out", &out.part(all, &part))
            .params(&[count, lanes.steps(span), 0, 0])
            .over(groups_of_64(count as usize))
            .record();
    }
    out
}

/// One Euler step of rectified flow under guidance: z + dt · (u + scale·(c − u)).
/// z: `[n, ch, T, H, W]`, velocity: `[2n, ≥ ch, T, H, W]` (conditioned half first; its first `ch` channels count),
/// dt: `[n, T]`, 0 for frames that must not move.
///
/// # Panics
/// If the shapes do not fit.
#[track_caller]
pub fn euler_step(z: &Tensor, velocity: &Tensor, dt: &Tensor, scale: f32) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        count: u32,
        ch: u32,
        channels: u32,
        t: u32,
        hw: u32,
        n: u32,
        scale: f32,
        pad: u32,
    }
    let ([n, ch, t, h, w], [n2, channels, vt, vh, vw]) = (z.sizes(), velocity.sizes());
    let fits = n2 == 2 * n && channels >= ch && [vt, vh, vw] == [t, h, w] && dt.count() == n * t;
    contract!(fits, "euler_step: z {}, velocity {}, dt {}", z.shape(), velocity.shape(), dt.shape());
    let out = empty_f32(z.gpu(), z.shape().clone());
    let lanes = Lanes::of(&[h * w]);
    let count = lanes.steps(z.count());
    Dispatch::new(z.gpu(), program(shader::ELEMENTWISE_EULER, lanes))
        .bind("z", z)
        .bind("velocity", velocity)
        .bind("steps", dt)
        .bind("out", &out)
        .params(&Params {
            count,
            ch: ch as u32,
            channels: channels as u32,
            t: t as u32,
            hw: lanes.steps(h * w),
            n: n as u32,
            scale,
            pad: 0,
        })
        .over(groups_of_64(count as usize))
        .record();
    out
}

/// (1 − level)·z + level·noise on frames whose level is above 0, z elsewhere.
/// z, noise: `[n, ch, T, H, W]`; levels: `[n, T]`.
///
/// # Panics
/// If the shapes do not fit.
#[track_caller]
pub fn renoise(z: &Tensor, noise: &Tensor, levels: &Tensor) -> Tensor {
    let [n, ch, t, h, w] = z.sizes();
    let fits = noise.dims() == z.dims() && levels.count() == n * t;
    contract!(fits, "renoise: z {}, noise {}, levels {}", z.shape(), noise.shape(), levels.shape());
    let out = empty_f32(z.gpu(), z.shape().clone());
    let lanes = Lanes::of(&[h * w]);
    let count = lanes.steps(z.count());
    Dispatch::new(z.gpu(), program(shader::ELEMENTWISE_RENOISE, lanes))
        .bind("z", z)
        .bind("noise", noise)
        .bind("levels", levels)
        .bind("out", &out)
        .params(&[count, ch as u32, t as u32, lanes.steps(h * w)])
        .over(groups_of_64(count as usize))
        .record();
    out
}

/// A sample of the Gaussian that an encoder describes: mean + e^(logvar / 2) · noise, logvar within −30 and 20.
/// moments: `[.., 2c]`, means then log variances; noise: `[.., c]` → `[.., c]`.
///
/// # Panics
/// If the shapes do not fit.
#[track_caller]
pub fn posterior(moments: &Tensor, noise: &Tensor) -> Tensor {
    let ([rows, both], [noise_rows, c]) = (moments.as_rows(), noise.as_rows());
    contract!(rows == noise_rows && both == 2 * c, "posterior: {} with noise {}", moments.shape(), noise.shape());
    let out = empty_f32(moments.gpu(), noise.shape().clone());
    let lanes = Lanes::of(&[c]);
    let count = lanes.steps(out.count());
    Dispatch::new(moments.gpu(), program(shader::ELEMENTWISE_POSTERIOR, lanes))
        .bind("x", moments)
        .bind("noise", noise)
        .bind("out", &out)
        .params(&[count, lanes.steps(c), 0, 0])
        .over(groups_of_64(count as usize))
        .record();
    out
}

fn add_program(lanes: Lanes, repeated: bool) -> Program {
    let y = if repeated { shader::ELEMENTWISE_Y_REPEATED } else { shader::ELEMENTWISE_Y_WHOLE };
    program(shader::ELEMENTWISE_ADD, lanes).link(y)
}

fn program(main: Source, lanes: Lanes) -> Program {
    Program::of(main).link(lanes.file())
}

pub(super) fn programs() -> Vec<Program> {
    let by_lanes = [
        shader::ELEMENTWISE_SILU,
        shader::ELEMENTWISE_CHOOSE,
        shader::ELEMENTWISE_EULER,
        shader::ELEMENTWISE_RENOISE,
        shader::ELEMENTWISE_POSTERIOR,
    ];
    let all = by_lanes.into_iter().flat_map(|main| Lanes::ALL.map(|lanes| program(main, lanes)));
    let sums = Lanes::ALL.into_iter().flat_map(|lanes| [false, true].map(|repeated| add_program(lanes, repeated)));
    all.chain(sums).chain([Program::of(shader::ELEMENTWISE_AFFINE)]).collect()
}
