//! The residual block both autoencoders are made of.

use crate::error::Result;
use crate::nn::{Conv, GroupNorm};
use crate::ops::Target;
use crate::tensor::{Tensor, Weights};

/// x + conv2(silu(norm2(conv1(silu(norm1(x)))))), with a pointwise convolution on x where the width changes.
pub struct Resnet {
    norm1: GroupNorm,
    conv1: Conv,
    norm2: GroupNorm,
    conv2: Conv,
    shortcut: Option<Conv>,
}

impl Resnet {
    /// The form for single frames: 3 × 3 kernels with biases.
    pub(super) fn spatial(w: &Weights, [inputs, outputs]: [usize; 2], groups: usize) -> Result<Self> {
        let shortcut = || Conv::pointwise(&w.at("conv_shortcut"), inputs, outputs);
        Ok(Self {
            norm1: GroupNorm::load(&w.at("norm1"), inputs, groups, super::spatial::EPS)?,
            conv1: Conv::image(&w.at("conv1"), inputs, outputs, 3)?,
            norm2: GroupNorm::load(&w.at("norm2"), outputs, groups, super::spatial::EPS)?,
            conv2: Conv::image(&w.at("conv2"), outputs, outputs, 3)?,
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    /// The form along time: causal 3 × 3 × 3 kernels without biases.
    pub(super) fn temporal(w: &Weights, [inputs, outputs]: [usize; 2], groups: usize) -> Result<Self> {
        let shortcut = || Conv::pointwise_bare(&w.at("conv3.conv"), inputs, outputs);
        Ok(Self {
            norm1: GroupNorm::load(&w.at("norm1"), inputs, groups, super::temporal::EPS)?,
            conv1: Conv::causal_bare(&w.at("conv1.conv"), inputs, outputs, 3)?,
            norm2: GroupNorm::load(&w.at("norm2"), outputs, groups, super::temporal::EPS)?,
            conv2: Conv::causal_bare(&w.at("conv2.conv"), outputs, outputs, 3)?,
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    /// x: `[images, T, H, W, inputs]` → `[images, T, H, W, outputs]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        // temporaries end with their line: at full resolution each is the largest thing in memory
        let h = self.conv1.forward(&self.norm1.silu(x));
        let h = self.norm2.silu(&h);
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_into(&h, Target::Residual(&shortcut.forward(x))),
            None => self.conv2.forward_into(&h, Target::Residual(x)),
        }
    }
}
