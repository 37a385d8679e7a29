//! Convolutions and group norm on channels-last data, `[images, T, H, W, C]`; a still image has T = 1.

use crate::error::Result;
use crate::ops::{self, Activation, Geometry, Store, Target};
use crate::tensor::{Tensor, Weights};

/// A convolution over images or over video that sees no later frame, padded with zeros.
pub struct Conv {
    weight: Tensor, // [outputs, taps · inputs], tap-major
    bias: Option<Tensor>,
    kernel: [usize; 3],
    pad: [usize; 3],
    stride: [usize; 2],
    upsample: usize,
    store: Store,
}

impl Conv {
    /// A square kernel on every image for itself: `weight` `[outputs, inputs, k, k]` and `bias`.
    /// k is odd; the output has the size of the input.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if either is missing or mis-shaped.
    pub fn image(w: &Weights, inputs: usize, outputs: usize, k: usize) -> Result<Self> {
        let weight = tap_major(w, &[outputs, inputs, k, k])?;
        Ok(Self::new(weight, Some(w.get("bias", [outputs])?), [1, k, k], [0, k / 2, k / 2]))
    }

    /// A cubic kernel whose time axis ends at its own frame: `weight` `[outputs, inputs, k, k, k]` and `bias`.
    ///
    /// # Errors
    /// As [`Conv::image`].
    pub fn causal(w: &Weights, inputs: usize, outputs: usize, k: usize) -> Result<Self> {
        Ok(Self { bias: Some(w.get("bias", [outputs])?), ..Self::causal_bare(w, inputs, outputs, k)? })
    }

    /// [`Conv::causal`] without a bias.
    ///
    /// # Errors
    /// As [`Conv::image`].
    pub fn causal_bare(w: &Weights, inputs: usize, outputs: usize, k: usize) -> Result<Self> {
        let weight = tap_major(w, &[outputs, inputs, k, k, k])?;
        Ok(Self::new(weight, None, [k; 3], [k - 1, k / 2, k / 2]))
    }

    /// A kernel of one tap, which is a linear layer over the channels: `weight` `[outputs, inputs]`, or the same with
    /// axes of size 1 behind, and `bias`.
    ///
    /// # Errors
    /// As [`Conv::image`].
    pub fn pointwise(w: &Weights, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self { bias: Some(w.get("bias", [outputs])?), ..Self::pointwise_bare(w, inputs, outputs)? })
    }

    /// [`Conv::pointwise`] without a bias.
    ///
    /// # Errors
    /// As [`Conv::image`].
    pub fn pointwise_bare(w: &Weights, inputs: usize, outputs: usize) -> Result<Self> {
        let mut stored = vec![outputs, inputs];
        let axes = w.shape_of("weight").map_or(2, |shape| shape.len());
        stored.resize(axes.clamp(2, 5), 1);
        let weight = w.matrix("weight", stored)?.reshape([outputs, inputs]);
        Ok(Self::new(weight, None, [1; 3], [0; 3]))
    }

    fn new(weight: Tensor, bias: Option<Tensor>, kernel: [usize; 3], pad: [usize; 3]) -> Self {
        Self { weight, bias, kernel, pad, stride: [1, 1], upsample: 1, store: Store::Full }
    }

    /// The same kernel of one tap, its output kept as [`crate::gpu::Gpu::operands`] are: it only feeds products.
    pub fn feeding_products(self) -> Self {
        Self { store: Store::Operand, ..self }
    }

    /// The same kernel on the image enlarged twice by nearest neighbour.
    pub fn upsampling(self) -> Self {
        Self { upsample: 2, ..self }
    }

    /// The same kernel at every second row and column, reaching past the right and bottom edge only.
    pub fn halving_space(self) -> Self {
        Self { pad: [self.pad[0], 0, 0], stride: [self.stride[0], 2], ..self }
    }

    /// The same kernel at every second frame, with one frame of zeros less in front.
    pub fn halving_time(self) -> Self {
        Self { pad: [self.pad[0] - 1, self.pad[1], self.pad[2]], stride: [2, self.stride[1]], ..self }
    }

    /// x: `[images, T, H, W, inputs]` → `[images, T', H', W', outputs]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.forward_into(x, Target::Plain)
    }

    /// [`Conv::forward`], added to something on the way out.
    pub fn forward_into(&self, x: &Tensor, target: Target<'_>) -> Tensor {
        let [_, t, h, w, _] = x.sizes();
        if self.kernel == [1; 3] {
            return ops::linear(x, &self.weight, self.bias.as_ref(), Activation::None, target, self.store);
        }
        let [every, step] = self.stride;
        let along = |n: usize| n * self.upsample / step;
        let out = [(t + self.pad[0] - self.kernel[0]) / every + 1, along(h), along(w)];
        let (kernel, pad, stride, upsample) = (self.kernel, self.pad, self.stride, self.upsample);
        ops::conv(x, &self.weight, self.bias.as_ref(), &Geometry { kernel, pad, stride, upsample, out }, target)
    }
}

/// `weight` from `[outputs, inputs, taps..]` to `[outputs, taps · inputs]`: channels are neighbours in x as well.
fn tap_major(w: &Weights, stored: &[usize]) -> Result<Tensor> {
    let (outputs, inputs, taps) = (stored[0], stored[1], stored[2..].iter().product::<usize>());
    let arrange = |x: &[f32]| {
        let mut out = Vec::with_capacity(x.len());
        for filter in x.chunks_exact(inputs * taps) {
            for tap in 0..taps {
                out.extend((0..inputs).map(|channel| filter[channel * taps + tap]));
            }
        }
        out
    };
    w.arranged("weight", stored, arrange, [outputs, taps * inputs])
}

/// Group normalisation with a weight and bias for every channel; statistics over all positions of one image (or video).
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f32,
}

impl GroupNorm {
    /// Loads `weight` and `bias`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if either is missing or mis-shaped.
    pub fn load(w: &Weights, channels: usize, groups: usize, eps: f32) -> Result<Self> {
        Ok(Self { weight: w.get("weight", [channels])?, bias: w.get("bias", [channels])?, groups, eps })
    }

    /// x: `[images, .., C]` → same.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        ops::group_norm(x, self.groups, self.eps, &self.weight, &self.bias, false, Store::Operand)
    }

    /// The norm with SiLU behind it.
    pub fn silu(&self, x: &Tensor) -> Tensor {
        ops::group_norm(x, self.groups, self.eps, &self.weight, &self.bias, true, Store::Operand)
    }
}
