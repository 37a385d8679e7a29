//! The two-layer perceptron of a transformer block.

use super::Linear;
use crate::error::Result;
use crate::ops::{Activation, Target};
use crate::tensor::{Tensor, Weights};

/// fc2(gelu(fc1(x))), GELU in its tanh form.
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    /// Loads `fc1` and `fc2`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn load(w: &Weights, inputs: usize, hidden: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            fc1: Linear::load(&w.at("fc1"), inputs, hidden)?.then(Activation::GeluTanh).feeding_products(),
            fc2: Linear::load(&w.at("fc2"), hidden, outputs)?,
        })
    }

    /// x: `[.., in]` → `[.., out]`, into `target`.
    pub fn forward(&self, x: &Tensor, target: Target<'_>) -> Tensor {
        self.fc2.forward_into(&self.fc1.forward(x), target)
    }
}
