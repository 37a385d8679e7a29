//! The sampling loop of rectified flow, with guidance and frames that are given.
//!
//! Source: `RFLOW.sample` in opensora/schedulers/rf at tag v1.2.0.

use std::time::{Duration, Instant};

use super::schedule::{NOISE, step_size};
use crate::cache::{Change, Evaluated, ResidualCache, Row};
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

/// A network as the loop sees it.
pub trait Denoiser {
    /// The velocity from noise to data on a guidance batch: `z` is `[2n, ch, T, H, W]`, the n conditioned samples first;
    /// `timesteps` are theirs, 0 to 1000; `frame_mask` `[2n·T]` is false for frames that are given.
    /// → `[2n, ≥ ch, T, H, W]`, the velocity in the first `ch` channels.
    ///
    /// # Errors
    /// Whatever goes wrong on the device, if the cache has to read in the middle.
    fn velocity(
        &self,
        z: &Tensor,
        timesteps: &[f64],
        frame_mask: Option<&[bool]>,
        cache: &mut ResidualCache,
    ) -> impl Future<Output = Result<Tensor>>;
}

/// What a run does.
pub struct Plan<'a> {
    /// Timesteps of each step, 1000 first, the same for all samples or one list a sample.
    pub timesteps: Vec<Vec<f64>>,
    /// Guidance scale; 1 is the conditioned velocity alone.
    pub guidance: f32,
    /// `[n·T]`, 1 = generate, 0 = given, between = given, noised to that level and made anew from there.
    pub frame_mask: Option<Vec<f64>>,
    /// Fresh normal noise `[n, ch, T, H, W]` for frames that become active at a step (0-based).
    pub noise: &'a mut dyn FnMut(usize) -> Vec<f32>,
}

/// One step as it went.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Step {
    /// From 1.
    pub step: usize,
    /// Of the first sample.
    pub timestep: f64,
    /// Whether all blocks were computed, perhaps with some branches reused, or residuals of pairs of them reused.
    pub computed: bool,
    /// Share of the blocks' floating point operations that were done.
    pub work: f64,
    /// Residual branches of blocks that were computed; nobody counts them without a cache.
    pub branches: Option<usize>,
    /// Wall time.
    #[serde(serialize_with = "seconds")]
    pub seconds: Duration,
    /// Relative change that a cache policy asked for before it decided.
    pub signal: Option<f64>,
    /// What a cache policy measured …
    #[serde(skip)]
    pub changes: Vec<Change>,
    /// … and concluded.
    pub rows: Vec<Row>,
}

impl Step {
    /// Of the step at `index`, from 0.
    pub(super) fn new(index: usize, timestep: f64, seconds: Duration, evaluated: Evaluated) -> Self {
        let Evaluated { computed, work, branches, signal, changes, rows } = evaluated;
        Self { step: index + 1, timestep, computed, work, branches, seconds, signal, changes, rows }
    }
}

fn seconds<S: serde::Serializer>(d: &Duration, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_f64(d.as_secs_f64())
}

/// Runs all steps from the start latent `z` `[n, ch, T, H, W]`. `seen` gets every step with its latent and says
/// whether to go on.
///
/// # Errors
/// [`Error::Cancelled`] if `seen` says so; whatever goes wrong on the device.
///
/// # Panics
/// If the plan's lists do not fit `z`.
pub async fn sample(
    denoiser: &impl Denoiser,
    z: &Tensor,
    plan: Plan<'_>,
    cache: &mut ResidualCache,
    seen: &mut dyn FnMut(&Step, &Tensor) -> bool,
) -> Result<(Tensor, Vec<Step>)> {
    let [n, _, frames, ..] = z.sizes::<5>();
    let lists = plan.timesteps.len();
    assert!(lists == 1 || lists == n, "{lists} lists of timesteps for {n} samples");
    let of = |sample: usize| &plan.timesteps[sample % lists];
    let count = of(0).len();
    let gpu = z.gpu().clone();
    let both: Vec<u32> = (0..n as u32).chain(0..n as u32).collect();
    let mask = plan.frame_mask.unwrap_or_else(|| vec![1.0; n * frames]);
    assert_eq!(mask.len(), n * frames, "frame mask");
    let mut active: Vec<bool> = mask.iter().map(|&m| m == 1.0).collect();
    let mut z = z.clone();
    let mut steps = Vec::with_capacity(count);
    for i in 0..count {
        let start = Instant::now();
        // A frame with mask 1 is always active: the transform can put the first timestep a hair above 1000.
        let up: Vec<bool> = (0..n * frames).map(|f| mask[f] == 1.0 || mask[f] * NOISE >= of(f / frames)[i]).collect();
        if up.iter().zip(&active).any(|(now, before)| *now && !before) {
            let level = |f: usize| if up[f] && !active[f] { (of(f / frames)[i] / NOISE) as f32 } else { 0.0 };
            let levels: Vec<f32> = (0..n * frames).map(level).collect();
            let noise = gpu.upload(&(plan.noise)(i), z.shape().clone());
            z = ops::renoise(&z, &noise, &gpu.upload(&levels, [n, frames]));
        }
        active = up;
        cache.begin_step();
        let timesteps: Vec<f64> = (0..2 * n).map(|s| of(s % n)[i]).collect();
        let stacked = ops::rows(&z.reshape([n, z.count() / n]), &both);
        let mut shape = z.dims().to_vec();
        shape[0] = 2 * n;
        let given = active.contains(&false);
        let twice: Vec<bool> = active.iter().chain(&active).copied().collect();
        let velocity =
            denoiser.velocity(&stacked.reshape(shape), &timesteps, given.then_some(&twice[..]), cache).await?;
        let dt = |f: usize| if active[f] { step_size(of(f / frames), i) as f32 } else { 0.0 };
        let dts: Vec<f32> = (0..n * frames).map(dt).collect();
        z = ops::euler_step(&z, &velocity, &gpu.upload(&dts, [n, frames]), plan.guidance);
        let evaluated = cache.end_step().await?;
        gpu.end_step()?;
        let step = Step::new(i, of(0)[i], start.elapsed(), evaluated);
        log::debug!("step {} of {count}: {}", i + 1, if step.computed { "computed" } else { "reused" });
        let go_on = seen(&step, &z);
        steps.push(step);
        if !go_on {
            return Err(Error::Cancelled);
        }
    }
    Ok((z, steps))
}
