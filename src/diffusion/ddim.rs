//! DDIM without added noise, and DDPM with a learned variance: two walks over the same timesteps.

use super::guided::Scheduler;
use super::levels::{NoiseLevels, leading_stride};
use crate::error::Result;
use crate::ops;
use crate::tensor::Tensor;

/// Timesteps (n − 1)·r … r, 0 with the levels on both sides of each step.
#[derive(Clone, Debug)]
struct Grid {
    levels: NoiseLevels,
    timesteps: Vec<usize>,
    stride: usize,
}

impl Grid {
    fn new(steps: usize) -> Result<Self> {
        let stride = leading_stride(steps, 1)?;
        Ok(Self { levels: NoiseLevels::linear(), timesteps: (0..steps).rev().map(|i| i * stride).collect(), stride })
    }

    /// ᾱ before the step and after it.
    fn around(&self, i: usize) -> [f64; 2] {
        let t = self.timesteps[i];
        [self.levels.at(t), self.levels.at_or_clean(t.checked_sub(self.stride))]
    }
}

/// DDIM with η = 0: the same latent always leads to the same video.
///
/// Source: `DDIMScheduler.step` in src/diffusers/schedulers/scheduling_ddim.py of diffusers at tag v0.30.0, with
/// clip_sample false, set_alpha_to_one true, timestep_spacing "leading", steps_offset 0.
#[derive(Clone, Debug)]
pub struct Ddim(Grid);

impl Ddim {
    /// For so many steps.
    ///
    /// # Errors
    /// [`crate::Error::Request`] unless there are 1 to 1000.
    pub fn new(steps: usize) -> Result<Self> {
        Grid::new(steps).map(Self)
    }

    /// What step i (from 0) takes of the latent and of the noise in it: x ← a·x + b·ε.
    pub fn coefficients(&self, i: usize) -> [f64; 2] {
        let [now, next] = self.0.around(i);
        let clean = (next / now).sqrt(); // √ᾱ'·x0, x0 = (x − √(1−ᾱ)·ε) / √ᾱ
        [clean, (1.0 - next).sqrt() - clean * (1.0 - now).sqrt()]
    }
}

impl Scheduler for Ddim {
    fn timesteps(&self) -> &[usize] {
        &self.0.timesteps
    }

    fn step(&mut self, i: usize, x: &Tensor, noise: &Tensor) -> Tensor {
        let [a, b] = self.coefficients(i);
        ops::mix(a as f32, x, b as f32, noise)
    }
}

/// DDPM whose network says where between its two bounds the log variance of the fresh noise lies.
///
/// Source: `DDPMScheduler.step` in src/diffusers/schedulers/scheduling_ddpm.py of diffusers at tag v0.30.0, with
/// variance_type "learned_range", clip_sample false, timestep_spacing "leading", steps_offset 0.
pub struct LearnedDdpm<'a> {
    grid: Grid,
    noise: &'a mut dyn FnMut(usize) -> Vec<f32>,
}

impl<'a> LearnedDdpm<'a> {
    /// For so many steps; `noise` gives normal numbers, as many as the latent has, for a step (from 0) but the last.
    ///
    /// # Errors
    /// [`crate::Error::Request`] unless there are 1 to 1000.
    pub fn new(steps: usize, noise: &'a mut dyn FnMut(usize) -> Vec<f32>) -> Result<Self> {
        Ok(Self { grid: Grid::new(steps)?, noise })
    }

    /// What step i (from 0) takes of the latent and of the noise in it: mean = a·x + b·ε.
    pub fn coefficients(&self, i: usize) -> [f64; 2] {
        let [now, next] = self.grid.around(i);
        let alpha = now / next; // of this step alone
        let clean = next.sqrt() * (1.0 - alpha) / (1.0 - now);
        let kept = alpha.sqrt() * (1.0 - next) / (1.0 - now);
        [kept + clean / now.sqrt(), -clean * (1.0 - now).sqrt() / now.sqrt()]
    }

    /// The bounds of ln σ² at step i.
    pub fn range(&self, i: usize) -> [f64; 2] {
        let [now, next] = self.grid.around(i);
        let beta = 1.0 - now / next;
        [((1.0 - next) / (1.0 - now) * beta).max(1e-20).ln(), beta.ln()]
    }
}

impl Scheduler for LearnedDdpm<'_> {
    fn timesteps(&self) -> &[usize] {
        &self.grid.timesteps
    }

    fn reads_variance(&self) -> bool {
        true
    }

    fn step(&mut self, i: usize, x: &Tensor, predicted: &Tensor) -> Tensor {
        let [a, b] = self.coefficients(i);
        let noise = ops::window(predicted, &vec![0; x.dims().len()], x.dims());
        let mean = ops::mix(a as f32, x, b as f32, &noise);
        if self.grid.timesteps[i] == 0 {
            return mean;
        }
        let fresh = x.gpu().upload(&(self.noise)(i), x.shape().clone());
        ops::ranged_noise(&mean, predicted, &fresh, self.range(i).map(|v| v as f32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A latent whose noise is known comes out clean, whatever the number of steps.
    #[test]
    fn known_noise_is_removed() {
        let (picture, noise) = (0.7, -1.3);
        for steps in [1, 3, 20, 50, 1000] {
            let ddim = Ddim::new(steps).unwrap();
            let first = ddim.0.levels.at(ddim.timesteps()[0]);
            let mut x = first.sqrt() * picture + (1.0 - first).sqrt() * noise;
            for i in 0..steps {
                let [a, b] = ddim.coefficients(i);
                x = a * x + b * noise;
            }
            assert!((x - picture).abs() < 1e-9, "{steps} steps: {x}");
        }
        assert_eq!(Ddim::new(50).unwrap().timesteps()[..3], [980, 960, 940]);
        assert!(Ddim::new(0).is_err() && Ddim::new(1001).is_err());
    }

    /// The posterior's mean keeps the marginals: with x0 and ε given, mean is √ᾱ'·x0 plus the noise that is left.
    #[test]
    fn the_posterior_keeps_the_picture() {
        let mut none = |_: usize| Vec::new();
        let ddpm = LearnedDdpm::new(20, &mut none).unwrap();
        for i in 0..20 {
            let [now, next] = ddpm.grid.around(i);
            let [a, b] = ddpm.coefficients(i);
            let picture = a * now.sqrt();
            assert!((picture - next.sqrt()).abs() < 1e-12, "step {i}");
            let [low, high] = ddpm.range(i);
            // what the mean keeps of the noise and the lower bound of the fresh noise make up 1 − ᾱ'
            let left = a * (1.0 - now).sqrt() + b;
            let spread = if i == 19 { 0.0 } else { low.exp() };
            assert!((left * left + spread - (1.0 - next)).abs() < 1e-9 && low <= high, "step {i}");
        }
    }
}
