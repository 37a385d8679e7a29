//! The two-layer perceptron of a transformer block.

use super::Linear;
use crate::error::Result;
use crate::ops::{Activation, Parts, Target};
use crate::tensor::{Tensor, Weights};

/// The hidden layer is made and used up in parts of so many bytes: it is the largest of all activations, and nobody
/// needs it as a whole. Enough rows for any device to be busy with.
const HIDDEN: usize = 128 << 20;

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
        Self::named(w, ["fc1", "fc2"], [inputs, hidden, outputs])
    }

    /// Loads two layers of other names; sizes are inputs, hidden, outputs.
    ///
    /// # Errors
    /// As [`Mlp::load`].
    pub fn named(w: &Weights, [first, second]: [&str; 2], [inputs, hidden, outputs]: [usize; 3]) -> Result<Self> {
        Ok(Self {
            fc1: Linear::load(&w.at(first), inputs, hidden)?.then(Activation::GeluTanh).feeding_products(),
            fc2: Linear::load(&w.at(second), hidden, outputs)?,
        })
    }

    /// x: `[.., in]` → `[.., out]`, into `target`.
    pub fn forward(&self, x: &Tensor, target: Target<'_>) -> Tensor {
        let [rows, _] = x.as_rows();
        let (gpu, hidden) = (x.gpu(), self.fc1.bytes_of_row(x.gpu()));
        let whole = Parts::of(rows).sharing(x).sharing_bytes(hidden);
        let out = self.fc2.room_for(x);
        for part in
            target.grouping(whole).sharing(&out).ranges((HIDDEN.min(gpu.largest_tensor() as usize) / hidden).max(1))
        {
            let made = self.fc1.forward(&x.part(rows, &part));
            target.on(rows, &part, |target| self.fc2.forward_onto(&made, target, &out.part(rows, &part)));
        }
        out
    }
}
