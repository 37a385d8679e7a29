//! A number as a vector: sinusoids computed on the host, because shader `sin` and `cos` are not specified as far
//! out as a timestep of 1000 reaches, then two linear layers.

use super::Linear;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::Activation;
use crate::tensor::{Tensor, Weights};

/// Length of the sinusoid in front of the timestep and fps embedders.
pub const SINUSOID: usize = 256;

/// [cos(v·f₀) … cos(v·f₁₂₇), sin(v·f₀) … sin(v·f₁₂₇)], fₖ = 10000^(−k/128).
///
/// Source: `TimestepEmbedder.timestep_embedding` in opensora/models/layers/blocks.py at tag v1.2.0;
/// `get_timestep_embedding` of diffusers gives the same numbers.
pub fn sinusoid(value: f64) -> Vec<f32> {
    let half = SINUSOID / 2;
    // Frequencies and angles are rounded to f32 as upstream's are: at a timestep of 1000 that moves an angle by up to
    // 6e-5, and the networks learned with it.
    let frequency = |k: usize| f64::from(-(10_000f64.ln() as f32) * k as f32 / half as f32).exp() as f32;
    let angle = |k: usize| f64::from(value as f32 * frequency(k));
    (0..half).map(|k| angle(k).cos() as f32).chain((0..half).map(|k| angle(k).sin() as f32)).collect()
}

/// Sinusoid, two linear layers: of a timestep or a frame rate.
pub struct ScalarEmbedder {
    first: Linear,
    second: Linear,
}

impl ScalarEmbedder {
    /// Loads two layers of these names.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn load(w: &Weights, [first, second]: [&str; 2], width: usize) -> Result<Self> {
        Ok(Self {
            first: Linear::load(&w.at(first), SINUSOID, width)?.then(Activation::Silu),
            second: Linear::load(&w.at(second), width, width)?,
        })
    }

    /// One row for each value → `[values, width]`.
    pub fn forward(&self, gpu: &Gpu, values: &[f64]) -> Tensor {
        let rows: Vec<f32> = values.iter().flat_map(|&v| sinusoid(v)).collect();
        self.second.forward(&self.first.forward(&gpu.upload(&rows, [values.len(), SINUSOID])))
    }
}
