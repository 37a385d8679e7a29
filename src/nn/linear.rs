//! The linear layer.

use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::{self, Activation, Store, Target};
use crate::tensor::{Shape, Tensor, Weights};

/// y = activation(x · wᵀ + b), stored as `weight` `[out, in]` and perhaps `bias` `[out]`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    then: Activation,
    store: Store,
}

impl Linear {
    /// Loads `weight` and `bias`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if either is missing or mis-shaped.
    pub fn load(w: &Weights, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = Some(w.get("bias", [outputs])?);
        Ok(Self { weight: w.matrix("weight", [outputs, inputs])?, bias, then: Activation::None, store: Store::Full })
    }

    /// Loads a layer that has no bias.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if the weight is missing or mis-shaped.
    pub fn bare(w: &Weights, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            weight: w.matrix("weight", [outputs, inputs])?,
            bias: None,
            then: Activation::None,
            store: Store::Full,
        })
    }

    /// Loads a layer whose weight is stored under another shape of the same order, such as a convolution
    /// whose stride is its kernel.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if either tensor is missing or mis-shaped.
    pub fn flat(w: &Weights, stored: impl Into<Shape>, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = w.matrix("weight", stored)?.reshape([outputs, inputs]);
        Ok(Self { weight, bias: Some(w.get("bias", [outputs])?), then: Activation::None, store: Store::Full })
    }

    /// Loads layers that are stored apart and read the same input as one layer, their outputs side by side.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn side_by_side(w: &Weights, names: &[&str], inputs: usize, each: usize, bias: bool) -> Result<Self> {
        let weights: Vec<String> = names.iter().map(|n| format!("{n}.weight")).collect();
        let weight = w.stacked(&weights, [each, inputs])?;
        let mut numbers = Vec::with_capacity(names.len() * each);
        for name in names.iter().filter(|_| bias) {
            numbers.extend(w.at(name).host("bias", [each])?);
        }
        let bias = bias.then(|| w.gpu().upload(&numbers, [numbers.len()]));
        Ok(Self { weight, bias, then: Activation::None, store: Store::Full })
    }

    /// The same layer with an activation behind it.
    pub fn then(mut self, activation: Activation) -> Self {
        self.then = activation;
        self
    }

    /// The same layer, its output kept as [`crate::gpu::Gpu::operands`] are: for layers whose output only feeds products.
    pub fn feeding_products(mut self) -> Self {
        self.store = Store::Operand;
        self
    }

    /// x: `[.., in]` → `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_into(x, Target::Plain)
    }

    /// x: `[.., in]` → `[.., out]`, gated or added to something on the way out.
    pub fn forward_into(&self, x: &Tensor, target: Target<'_>) -> Tensor {
        ops::linear(x, &self.weight, self.bias.as_ref(), self.then, target, self.store)
    }

    /// Memory for the output of [`Linear::forward`]: filled in parts, by [`Linear::forward_onto`].
    pub(super) fn room_for(&self, x: &Tensor) -> Tensor {
        let [outputs, _] = self.weight.sizes();
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        x.gpu().empty(shape, self.store.dtype(x.gpu(), outputs))
    }

    /// [`Linear::forward_into`], of some rows into their part of [`Linear::room_for`] all.
    pub(super) fn forward_onto(&self, x: &Tensor, target: Target<'_>, out: &Tensor) {
        ops::linear_into(x, &self.weight, self.bias.as_ref(), self.then, target, out);
    }

    /// Bytes of a row of the output.
    pub(super) fn bytes_of_row(&self, gpu: &Gpu) -> usize {
        let [outputs, _] = self.weight.sizes();
        outputs * self.store.dtype(gpu, outputs).size()
    }
}
