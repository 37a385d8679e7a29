//! The autoencoder along time: causal 3D convolutions over the spatial latents, 4 frames to one latent frame.
//! T frames · h w rows and columns · C channels. A call sees one chunk, from its own zeros on.
//! Source: opensora/models/vae/vae_temporal.py at tag v1.2.0.

use super::config::Temporal;
use super::resnet::Resnet;
use super::see;
use crate::error::Result;
use crate::nn::{Conv, GroupNorm, Tap};
use crate::ops;
use crate::tensor::{Tensor, Weights};

/// Added to every variance. Not that of the spatial part.
pub(super) const EPS: f32 = 1e-5;

/// Latents to spatial latents.
pub struct Decoder {
    post_quant_conv: Conv,
    conv1: Conv,
    res_blocks: Vec<Resnet>,
    /// Walked from the last to the first.
    levels: Vec<Level>,
    norm1: GroupNorm,
    conv_out: Conv,
}

/// The blocks of one resolution, and the convolution that changes time behind them.
struct Level {
    blocks: Vec<Resnet>,
    resample: Option<Conv>,
}

impl Decoder {
    /// Loads `post_quant_conv` and `decoder`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn load(w: &Weights, c: &Temporal) -> Result<Self> {
        let post_quant_conv = Conv::pointwise(&w.at("post_quant_conv.conv"), c.embed_dim, c.latent_embed_dim)?;
        let w = w.at("decoder");
        let widths = c.widths();
        let mut width = widths[widths.len() - 1];
        let conv1 = Conv::causal(&w.at("conv1.conv"), c.latent_embed_dim, width, 3)?;
        let res_blocks = resnets(&w.at("res_blocks"), c, width, width)?;
        let mut levels = Vec::new();
        for (i, &level) in widths.iter().enumerate().rev() {
            let blocks = resnets(&w.at(format!("block_res_blocks.{i}")), c, width, level)?;
            width = level;
            let doubles = i > 0 && c.temporal_downsample[i - 1];
            let conv = || Conv::causal(&w.at(format!("conv_blocks.{}.conv", i - 1)), width, 2 * width, 3);
            levels.insert(0, Level { blocks, resample: doubles.then(conv).transpose()? });
        }
        Ok(Self {
            post_quant_conv,
            conv1,
            res_blocks,
            levels,
            norm1: GroupNorm::load(&w.at("norm1"), width, c.num_groups, EPS)?,
            conv_out: Conv::causal(&w.at("conv_out.conv"), width, c.in_out_channels, 3)?,
        })
    }

    /// z: `[n, T, h, w, 4]` → `[n, 4T, h, w, 4]`. All frames are made, those that will be dropped too: they count
    /// in the statistics of the norms.
    pub fn forward(&self, z: &Tensor, tap: &mut Tap<'_>) -> Tensor {
        let z = self.post_quant_conv.forward(z);
        see(tap, "post_quant_conv", &z);
        let mut x = self.conv1.forward(&z);
        see(tap, "decoder.conv1", &x);
        for (j, block) in self.res_blocks.iter().enumerate() {
            x = block.forward(&x);
            see(tap, format_args!("decoder.res_blocks.{j}"), &x);
        }
        for (i, level) in self.levels.iter().enumerate().rev() {
            for (j, block) in level.blocks.iter().enumerate() {
                x = block.forward(&x);
                see(tap, format_args!("decoder.block_res_blocks.{i}.{j}"), &x);
            }
            if let Some(conv) = &level.resample {
                x = conv.forward(&x);
                see(tap, format_args!("decoder.conv_blocks.{}", i - 1), &x);
                x = channels_to_time(&x);
            }
        }
        tap.see(|| "decoder.norm1".into(), || self.norm1.forward(&x));
        let x = self.conv_out.forward(&self.norm1.silu(&x));
        see(tap, "decoder.conv_out", &x);
        x
    }
}

/// `[n, T, h, w, 2C]` → `[n, 2T, h, w, C]`: channel 2c + s of frame t becomes channel c of frame 2t + s.
fn channels_to_time(x: &Tensor) -> Tensor {
    let [n, t, h, w, c] = x.sizes();
    ops::permute(&x.reshape([n, t, h, w, c / 2, 2]), &[0, 1, 5, 2, 3, 4]).reshape([n, 2 * t, h, w, c / 2])
}

/// Spatial latents to the mean and log variance of latents.
pub struct Encoder {
    conv_in: Conv,
    levels: Vec<Level>,
    res_blocks: Vec<Resnet>,
    norm1: GroupNorm,
    conv2: Conv,
    quant_conv: Conv,
}

impl Encoder {
    /// Loads `encoder` and `quant_conv`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn load(w: &Weights, c: &Temporal) -> Result<Self> {
        let quant_conv = Conv::pointwise(&w.at("quant_conv.conv"), 2 * c.latent_embed_dim, 2 * c.embed_dim)?;
        let w = w.at("encoder");
        let mut width = c.filters;
        let conv_in = Conv::causal_bare(&w.at("conv_in.conv"), c.in_out_channels, width, 3)?;
        let mut levels = Vec::new();
        for (i, level) in c.widths().into_iter().enumerate() {
            let blocks = resnets(&w.at(format!("block_res_blocks.{i}")), c, width, level)?;
            width = level;
            let halves = c.temporal_downsample.get(i).is_some_and(|&halves| halves);
            let conv = || Conv::causal(&w.at(format!("conv_blocks.{i}.conv")), width, width, 3).map(Conv::halving_time);
            levels.push(Level { blocks, resample: halves.then(conv).transpose()? });
        }
        Ok(Self {
            conv_in,
            levels,
            res_blocks: resnets(&w.at("res_blocks"), c, width, width)?,
            norm1: GroupNorm::load(&w.at("norm1"), width, c.num_groups, EPS)?,
            conv2: Conv::pointwise(&w.at("conv2.conv"), width, 2 * c.latent_embed_dim)?,
            quant_conv,
        })
    }

    /// x: `[n, 4T, h, w, 4]`, with its zeros in front → `[n, T, h, w, 8]`, means then log variances.
    pub fn forward(&self, x: &Tensor, tap: &mut Tap<'_>) -> Tensor {
        let mut x = self.conv_in.forward(x);
        see(tap, "encoder.conv_in", &x);
        for (i, level) in self.levels.iter().enumerate() {
            for (j, block) in level.blocks.iter().enumerate() {
                x = block.forward(&x);
                see(tap, format_args!("encoder.block_res_blocks.{i}.{j}"), &x);
            }
            if let Some(conv) = &level.resample {
                x = conv.forward(&x);
                see(tap, format_args!("encoder.conv_blocks.{i}"), &x);
            }
        }
        for (j, block) in self.res_blocks.iter().enumerate() {
            x = block.forward(&x);
            see(tap, format_args!("encoder.res_blocks.{j}"), &x);
        }
        tap.see(|| "encoder.norm1".into(), || self.norm1.forward(&x));
        let x = self.conv2.forward(&self.norm1.silu(&x));
        see(tap, "encoder.conv2", &x);
        let moments = self.quant_conv.forward(&x);
        see(tap, "quant_conv", &moments);
        moments
    }
}

/// The residual blocks of one level; the first changes the width.
fn resnets(w: &Weights, c: &Temporal, inputs: usize, outputs: usize) -> Result<Vec<Resnet>> {
    (0..c.num_res_blocks)
        .map(|j| Resnet::temporal(&w.at(j), [if j == 0 { inputs } else { outputs }, outputs], c.num_groups))
        .collect()
}
