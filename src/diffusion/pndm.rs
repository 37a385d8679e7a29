//! PNDM: a linear multistep method of order four, started by three Runge-Kutta steps of four evaluations each.
//!
//! Source: `PNDMScheduler` in src/diffusers/schedulers/scheduling_pndm.py of diffusers at tag v0.30.0, with
//! skip_prk_steps false, set_alpha_to_one false, timestep_spacing "leading", steps_offset 0.

use super::guided::Scheduler;
use super::levels::{NoiseLevels, leading_stride};
use crate::error::Result;
use crate::ops;
use crate::tensor::Tensor;

/// Evaluations of the start.
const START: usize = 12;
/// How the newest four predictions are weighed, newest first.
const MULTISTEP: [f64; 4] = [55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0];
/// How the four predictions of a Runge-Kutta step are weighed, oldest first.
const RUNGE_KUTTA: [f64; 4] = [1.0 / 6.0, 2.0 / 6.0, 2.0 / 6.0, 1.0 / 6.0];

/// n steps take n + 9 evaluations. The last changes nothing (it moves from the first training step to itself), but
/// upstream makes it, so that whoever counts evaluations counts it.
pub struct Pndm {
    levels: NoiseLevels,
    timesteps: Vec<usize>,
    stride: usize,
    /// Latent at the beginning of the Runge-Kutta step.
    origin: Option<Tensor>,
    /// Predictions of the Runge-Kutta step.
    stages: Vec<Tensor>,
    /// The newest predictions at whole steps, newest last.
    history: Vec<Tensor>,
}

impl Pndm {
    /// For so many steps.
    ///
    /// # Errors
    /// [`crate::Error::Request`] unless there are 4 to 1000.
    pub fn new(steps: usize) -> Result<Self> {
        let stride = leading_stride(steps, 4)?;
        let start = (steps - 3..steps).rev().flat_map(|i| {
            let (from, to) = (i * stride, (i - 1) * stride);
            let middle = to + stride / 2;
            [from, middle, middle, to]
        });
        let timesteps = start.chain((0..steps - 3).rev().map(|i| i * stride)).collect();
        let levels = NoiseLevels::linear();
        Ok(Self { levels, timesteps, stride, origin: None, stages: Vec::new(), history: Vec::new() })
    }

    /// From which timestep to which an evaluation (from 0) moves: from that of its Runge-Kutta step during the start.
    /// `None` lies before the first training step.
    pub fn span(&self, i: usize) -> (usize, Option<usize>) {
        let t = self.timesteps[i];
        match (i < START, i % 2) {
            (false, _) => (t, t.checked_sub(self.stride)),
            (true, 0) => (self.timesteps[i / 4 * 4], t.checked_sub(self.stride / 2)),
            (true, _) => (self.timesteps[i / 4 * 4], Some(t)),
        }
    }

    /// What moving from one timestep to another takes of the latent and of the noise in it: x ← a·x + b·ε.
    pub fn coefficients(&self, (from, to): (usize, Option<usize>)) -> [f64; 2] {
        let now = self.levels.at(from);
        let next = self.levels.at(to.unwrap_or(0));
        let scale = now * (1.0 - next).sqrt() + (now * (1.0 - now) * next).sqrt();
        [(next / now).sqrt(), -(next - now) / scale]
    }
}

fn weighed(parts: &[&Tensor], weights: &[f64]) -> Tensor {
    let mut sum = ops::mix(weights[0] as f32, parts[0], weights[1] as f32, parts[1]);
    for (part, &weight) in parts.iter().zip(weights).skip(2) {
        sum = ops::mix(1.0, &sum, weight as f32, part);
    }
    sum
}

impl Scheduler for Pndm {
    fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    fn step(&mut self, i: usize, x: &Tensor, noise: &Tensor) -> Tensor {
        if i == 0 {
            self.history.clear();
        }
        if i >= START || i.is_multiple_of(4) {
            self.history.push(noise.clone());
            let surplus = self.history.len().saturating_sub(4);
            self.history.drain(..surplus);
        }
        let (origin, direction) = if i < START {
            if i.is_multiple_of(4) {
                self.stages.clear();
                self.origin = Some(x.clone());
            }
            self.stages.push(noise.clone());
            let stages: Vec<&Tensor> = self.stages.iter().collect();
            let direction = if stages.len() == 4 { weighed(&stages, &RUNGE_KUTTA) } else { noise.clone() };
            (self.origin.as_ref().unwrap_or(x), direction)
        } else {
            let newest: Vec<&Tensor> = self.history.iter().rev().collect();
            (x, weighed(&newest, &MULTISTEP))
        };
        let [a, b] = self.coefficients(self.span(i));
        ops::mix(a as f32, origin, b as f32, &direction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations() {
        let pndm = Pndm::new(150).unwrap();
        let want = [894, 891, 891, 888, 888, 885, 885, 882, 882, 879, 879, 876, 876, 870];
        assert_eq!((pndm.timesteps[..14].to_vec(), pndm.timesteps.len()), (want.to_vec(), 159));
        assert_eq!(pndm.coefficients(pndm.span(158)), [1.0, 0.0], "the last changes nothing");
        // an odd stride puts the two middles of a step one apart
        let odd = Pndm::new(200).unwrap();
        assert_eq!((odd.span(0), odd.span(1)), ((995, Some(993)), (995, Some(992))));
        for steps in [4, 5, 999, 1000] {
            assert_eq!(Pndm::new(steps).unwrap().timesteps.len(), steps + 9);
        }
        assert!(Pndm::new(3).is_err() && Pndm::new(1001).is_err());
    }

    /// A latent whose noise is known comes out as clean as the first training step is.
    #[test]
    fn known_noise_is_removed() {
        let pndm = Pndm::new(50).unwrap();
        let (picture, noise) = (0.7, -1.3);
        let level = |t: usize| pndm.levels.at(t).sqrt() * picture + (1.0 - pndm.levels.at(t)).sqrt() * noise;
        for i in 0..59 {
            let (from, to) = pndm.span(i);
            let [a, b] = pndm.coefficients((from, to));
            assert!((a * level(from) + b * noise - level(to.unwrap_or(0))).abs() < 1e-9, "evaluation {i}");
        }
    }
}
