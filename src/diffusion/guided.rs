//! The sampling loop of networks that predict noise: guidance, then whatever a scheduler makes of the prediction.

use std::time::Instant;

use super::sampler::Step;
use crate::cache::ResidualCache;
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

/// A network as the loop sees it.
pub trait NoisePredictor {
    /// The noise in a guidance batch: `x` is `[2n, ch, T, H, W]`, the n conditioned samples first; `timesteps` are
    /// theirs, 0 to 999. → `[2n, ≥ ch, T, H, W]`: the noise in the first `ch` channels, and behind it, where the network
    /// learned it, its variance in as many.
    ///
    /// # Errors
    /// Whatever goes wrong on the device, if the cache has to read in the middle.
    fn noise(&self, x: &Tensor, timesteps: &[f64], cache: &mut ResidualCache) -> impl Future<Output = Result<Tensor>>;
}

/// Where latents go from a prediction. One instance serves one run at a time, evaluation by evaluation from 0.
pub trait Scheduler {
    /// The timestep of every evaluation of the network.
    fn timesteps(&self) -> &[usize];

    /// Whether `step` reads the predicted variance as well.
    fn reads_variance(&self) -> bool {
        false
    }

    /// The latent behind evaluation i (from 0). x: `[n, ch, ..]` as the network saw it; `predicted`: the guided noise,
    /// `[n, ch, ..]`, or `[n, 2ch, ..]` with the variance → `[n, ch, ..]`.
    fn step(&mut self, i: usize, x: &Tensor, predicted: &Tensor) -> Tensor;
}

/// Runs all evaluations from the start latent `x` `[n, ch, T, H, W]` under this guidance scale. `seen` gets each with
/// its latent and says whether to go on.
///
/// differs: upstream puts the unconditioned samples first; here the order is that of [`super::sampler`].
///
/// # Errors
/// [`Error::Cancelled`] if `seen` says so; whatever goes wrong on the device.
pub async fn sample(
    network: &impl NoisePredictor,
    x: &Tensor,
    scheduler: &mut dyn Scheduler,
    guidance: f32,
    cache: &mut ResidualCache,
    seen: &mut dyn FnMut(&Step, &Tensor) -> bool,
) -> Result<(Tensor, Vec<Step>)> {
    let (n, ch, gpu) = (x.dims()[0], x.dims()[1], x.gpu().clone());
    let both: Vec<u32> = (0..n as u32).chain(0..n as u32).collect();
    let mut twice = x.dims().to_vec();
    twice[0] = 2 * n;
    let channels = if scheduler.reads_variance() { 2 * ch } else { ch };
    let count = scheduler.timesteps().len();
    let mut x = x.clone();
    let mut steps = Vec::with_capacity(count);
    for i in 0..count {
        let start = Instant::now();
        let timestep = scheduler.timesteps()[i] as f64;
        cache.begin_step();
        let stacked = ops::rows(&x.reshape([n, x.count() / n]), &both).reshape(twice.clone());
        let predicted = network.noise(&stacked, &vec![timestep; 2 * n], cache).await?;
        x = scheduler.step(i, &x, &ops::guide(&predicted, channels, guidance));
        let evaluated = cache.end_step().await?;
        gpu.end_step()?;
        let step = Step::new(i, timestep, start.elapsed(), evaluated);
        log::debug!("evaluation {} of {count}: {}", i + 1, if step.computed { "computed" } else { "reused" });
        let go_on = seen(&step, &x);
        steps.push(step);
        if !go_on {
            return Err(Error::Cancelled);
        }
    }
    Ok((x, steps))
}
