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
    pub(crate) fn new(index: usize, timestep: f64, seconds: Duration, evaluated: Evaluated) -> Self {
        let Evaluated { computed, work, branches, signal, changes, rows } = evaluated;
        Self { step: index + 1, timestep, computed, work, branches, seconds, signal, changes, rows }
    }
}

fn seconds<S: serde::Serializer>(d: &Duration, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_f64(d.as_secs_f64())
}

/// A run between two steps.
pub struct Sampler {
    timesteps: Vec<Vec<f64>>,
    guidance: f32,
    mask: Vec<f64>,
    /// Frames that the last step changed, `[n·T]`; before the first those that no step leaves alone.
    active: Vec<bool>,
    z: Tensor,
    done: usize,
}

impl Sampler {
    /// At the latent `z` `[n, ch, T, H, W]`, with `done` steps behind it; the rest as in [`Plan`].
    ///
    /// # Panics
    /// If the lists do not fit `z`, or there are fewer steps.
    pub fn at(z: Tensor, timesteps: Vec<Vec<f64>>, guidance: f32, frame_mask: Option<Vec<f64>>, done: usize) -> Self {
        let [n, _, frames, ..] = z.sizes::<5>();
        let lists = timesteps.len();
        assert!(lists == 1 || lists == n, "{lists} lists of timesteps for {n} samples");
        assert!(done <= timesteps[0].len(), "{done} steps of {}", timesteps[0].len());
        let mask = frame_mask.unwrap_or_else(|| vec![1.0; n * frames]);
        assert_eq!(mask.len(), n * frames, "frame mask");
        let active = mask.iter().map(|&m| m == 1.0).collect();
        let mut sampler = Self { timesteps, guidance, mask, active, z, done };
        if let Some(last) = done.checked_sub(1) {
            sampler.active = sampler.active_at(last);
        }
        sampler
    }

    /// Where it stands.
    pub fn latent(&self) -> &Tensor {
        &self.z
    }

    /// Steps behind it.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Steps of the whole run.
    pub fn count(&self) -> usize {
        self.timesteps[0].len()
    }

    /// Timesteps of a sample.
    fn of(&self, sample: usize) -> &[f64] {
        &self.timesteps[sample % self.timesteps.len()]
    }

    /// Frames that change at a step (from 0). One with mask 1 always does: the transform can put the first timestep a
    /// hair above 1000.
    fn active_at(&self, i: usize) -> Vec<bool> {
        let frames = self.z.dims()[2];
        let up = |(f, &mask): (usize, &f64)| mask == 1.0 || mask * NOISE >= self.of(f / frames)[i];
        self.mask.iter().enumerate().map(up).collect()
    }

    /// Makes the next step; `noise` as in [`Plan`].
    ///
    /// # Errors
    /// Whatever goes wrong on the device.
    ///
    /// # Panics
    /// If there is none.
    pub async fn step(
        &mut self,
        denoiser: &impl Denoiser,
        cache: &mut ResidualCache,
        noise: &mut dyn FnMut(usize) -> Vec<f32>,
    ) -> Result<Step> {
        let (start, i) = (Instant::now(), self.done);
        assert!(i < self.count(), "step {} of {}", i + 1, self.count());
        let [n, _, frames, ..] = self.z.sizes::<5>();
        let gpu = self.z.gpu().clone();
        let up = self.active_at(i);
        if up.iter().zip(&self.active).any(|(now, before)| *now && !before) {
            let level = |f: usize| if up[f] && !self.active[f] { (self.of(f / frames)[i] / NOISE) as f32 } else { 0.0 };
            let levels: Vec<f32> = (0..n * frames).map(level).collect();
            let noise = gpu.upload(&noise(i), self.z.shape().clone());
            self.z = ops::renoise(&self.z, &noise, &gpu.upload(&levels, [n, frames]));
        }
        self.active = up;
        cache.begin_step();
        let timesteps: Vec<f64> = (0..2 * n).map(|s| self.of(s % n)[i]).collect();
        let both: Vec<u32> = (0..n as u32).chain(0..n as u32).collect();
        let stacked = ops::rows(&self.z.reshape([n, self.z.count() / n]), &both);
        let mut shape = self.z.dims().to_vec();
        shape[0] = 2 * n;
        let given = self.active.contains(&false);
        let twice: Vec<bool> = self.active.iter().chain(&self.active).copied().collect();
        let velocity =
            denoiser.velocity(&stacked.reshape(shape), &timesteps, given.then_some(&twice[..]), cache).await?;
        let dt = |f: usize| if self.active[f] { step_size(self.of(f / frames), i) as f32 } else { 0.0 };
        let dts: Vec<f32> = (0..n * frames).map(dt).collect();
        self.z = ops::euler_step(&self.z, &velocity, &gpu.upload(&dts, [n, frames]), self.guidance);
        let evaluated = cache.end_step().await?;
        gpu.end_step()?;
        self.done += 1;
        let step = Step::new(i, self.of(0)[i], start.elapsed(), evaluated);
        log::debug!("step {} of {}: {}", i + 1, self.count(), if step.computed { "computed" } else { "reused" });
        Ok(step)
    }
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
    let mut sampler = Sampler::at(z.clone(), plan.timesteps, plan.guidance, plan.frame_mask, 0);
    let mut steps = Vec::with_capacity(sampler.count());
    while sampler.done() < sampler.count() {
        let step = sampler.step(denoiser, cache, plan.noise).await?;
        let go_on = seen(&step, sampler.latent());
        steps.push(step);
        if !go_on {
            return Err(Error::Cancelled);
        }
    }
    Ok((sampler.z, steps))
}
