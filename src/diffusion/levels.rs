//! How much noise a training step meant, for networks that were taught to name the noise in a latent.

use crate::error::{Error, Result};

/// Steps of the training.
const TRAINED: usize = 1000;

/// ᾱ of every training step: the share of the latent's variance that is still picture.
///
/// Source: `DDIMScheduler.__init__` (beta_schedule "linear", 0.0001 to 0.02) in
/// src/diffusers/schedulers/scheduling_ddim.py of diffusers at tag v0.30.0.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseLevels {
    kept: Vec<f64>,
}

impl Default for NoiseLevels {
    fn default() -> Self {
        Self::linear()
    }
}

impl NoiseLevels {
    /// β from 10⁻⁴ to 0.02 in 1000 equal steps.
    pub fn linear() -> Self {
        // torch rounds β and 1 − β to f32 and multiplies in f64; networks learned with those numbers
        let (first, last) = (0.0001f32, 0.02f32);
        let step = (last - first) / (TRAINED - 1) as f32;
        let beta = |t: usize| match t < TRAINED / 2 {
            true => step.mul_add(t as f32, first),
            false => (-step).mul_add((TRAINED - 1 - t) as f32, last),
        };
        let mut product = 1.0;
        let mut keep = |t: usize| {
            product *= f64::from(1.0 - beta(t));
            f64::from(product as f32)
        };
        Self { kept: (0..TRAINED).map(&mut keep).collect() }
    }

    /// ᾱ of a training step, from 0.
    pub fn at(&self, timestep: usize) -> f64 {
        self.kept[timestep]
    }

    /// ᾱ of a training step that may lie before the first: 1 there, all picture.
    pub fn at_or_clean(&self, timestep: Option<usize>) -> f64 {
        timestep.map_or(1.0, |t| self.kept[t])
    }
}

/// Training steps between two of `steps` sampling steps, which stand at 0, r, 2r … (spacing "leading", offset 0).
///
/// # Errors
/// [`Error::Request`] unless `steps` is between `least` and 1000.
pub fn leading_stride(steps: usize, least: usize) -> Result<usize> {
    if (least..=TRAINED).contains(&steps) {
        return Ok(TRAINED / steps);
    }
    Err(Error::request("steps", format!("is {steps}, expected {least} to {TRAINED}")))
}
