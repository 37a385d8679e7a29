//! The rectified-flow schedule of Open-Sora v1.2: which timesteps a run visits, and how far each step goes.
//!
//! Pure numbers. A timestep runs from 1000 (noise) to 0 (data); `x_t = (1 − t/1000)·x + (t/1000)·noise`, and the model
//! predicts the velocity from noise to data, so a step is `z += velocity · dt`.
//!
//! Source: opensora/schedulers/rf (`RFLOW.sample`, `timestep_transform`) at tag v1.2.0.

use half::bf16;

/// Timestep of pure noise, and the number of training steps.
pub const NOISE: f64 = 1000.0;

/// A plan of sampling steps, evenly spaced and then optionally bent towards noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RectifiedFlow {
    /// Denoising steps, 30 by default upstream.
    pub steps: usize,
    /// Bends the steps towards noise for large videos; always on in the released v1.2 configurations.
    pub transform: Option<TimestepTransform>,
}

impl RectifiedFlow {
    /// Timesteps of a run in visiting order: the first is 1000 (see [`TimestepTransform`] for rounding), the last is
    /// above 0. Empty without steps.
    pub fn timesteps(&self) -> Vec<f64> {
        (0..self.steps).map(|i| self.timestep(i)).collect()
    }

    fn timestep(&self, i: usize) -> f64 {
        let t = (1.0 - i as f64 / self.steps as f64) * NOISE;
        self.transform.map_or(t, |transform| transform.apply(t))
    }
}

/// How far step `i` (0-based) of a run over `timesteps` goes, as a fraction of the whole way: the gap to the next timestep,
/// over 1000; what is left of the way for the last step. The sum over all steps is 1.
///
/// # Panics
/// If there is no such step.
pub fn step_size(timesteps: &[f64], i: usize) -> f64 {
    (timesteps[i] - timesteps.get(i + 1).copied().unwrap_or(0.0)) / NOISE
}

/// Bends timesteps by the amount of data: larger and longer videos spend more of their steps near noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimestepTransform {
    /// Height of the video in pixels.
    pub height: usize,
    /// Width of the video in pixels.
    pub width: usize,
    /// Frames of the video (pixel frames, not latent frames); 1 is an image.
    pub num_frames: usize,
    /// Rounding of the sizes on the way.
    pub rounding: Rounding,
}

/// How upstream holds the video's sizes while it computes the transform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// No rounding: the default of this engine.
    #[default]
    Exact,
    /// Every intermediate result is a bfloat16, as in the released pipeline. Differs by about 0.001 to 0.05 (4 for
    /// small images, where the first timestep then exceeds 1000).
    Bf16,
}

impl TimestepTransform {
    /// `t` in 0…1000 to the timestep used instead, also 0…1000. Images below 512² bend the other way.
    pub fn apply(&self, t: f64) -> f64 {
        let ratio = self.ratio();
        let u = t / NOISE;
        NOISE * ratio * u / (1.0 + self.round(ratio - 1.0) * u)
    }

    /// `sqrt(height·width / 512²) · sqrt(f)`; 1 changes nothing.
    pub fn ratio(&self) -> f64 {
        let area = self.round(self.round(self.height as f64) * self.round(self.width as f64));
        let space = self.round(self.round(area / (512.0 * 512.0)).sqrt());
        // upstream's own estimate of the latent length: differs from it where num_frames % 17 != 0
        let frames = self.round(self.num_frames as f64);
        let frames = if frames == 1.0 { 1.0 } else { self.round((frames / 17.0).floor() * 5.0) };
        self.round(space * self.round(frames.sqrt()))
    }

    fn round(&self, x: f64) -> f64 {
        match self.rounding {
            Rounding::Exact => x,
            // torch computes in f32 and rounds that
            Rounding::Bf16 => bf16::from_f32(x as f32).to_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transform(height: usize, width: usize, num_frames: usize) -> TimestepTransform {
        TimestepTransform { height, width, num_frames, rounding: Rounding::Exact }
    }

    #[test]
    fn ratios_of_the_paper_sizes() {
        assert!((transform(480, 854, 51).ratio() - 4.843).abs() < 1e-3);
        assert!((transform(720, 1280, 51).ratio() - 7.262).abs() < 1e-3);
        assert_eq!(transform(1024, 1024, 1).ratio(), 2.0);
        assert_eq!(transform(512, 512, 60).ratio(), 15f64.sqrt(), "floor(60/17)·5, not the latent length 18");
    }

    #[test]
    fn steps_go_the_whole_way() {
        for transform in [None, Some(transform(480, 854, 51)), Some(transform(144, 256, 1))] {
            for steps in [1, 2, 30, 100] {
                let flow = RectifiedFlow { steps, transform };
                let t = flow.timesteps();
                assert_eq!(t.len(), steps);
                assert!((t[0] - 1000.0).abs() < 1e-9 && t.windows(2).all(|w| w[1] < w[0]) && t[steps - 1] > 0.0);
                assert!(((0..steps).map(|i| step_size(&t, i)).sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn no_steps_and_no_frames() {
        assert!(RectifiedFlow { steps: 0, transform: None }.timesteps().is_empty());
        // fewer than 17 frames count as none upstream: every timestep but the first collapses to 0
        assert_eq!(transform(480, 854, 16).ratio(), 0.0);
    }
}
