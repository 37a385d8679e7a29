//! The autoencoder of single frames: SDXL's AutoencoderKL, 8 × 8 pixels to one latent.
//! n frames · H W rows and columns · C channels; frames are samples, so nothing mixes them.
//! Source: `AutoencoderKL` of diffusers 0.27, as `VideoAutoencoderKL` in opensora/models/vae/vae.py v1.2.0 calls it.

use super::config::Spatial;
use super::resnet::Resnet;
use super::see;
use crate::error::Result;
use crate::nn::{Conv, GroupNorm, Tap};
use crate::ops::{self, Keys, Sequences, Target};
use crate::tensor::{Tensor, Weights};

/// Added to every variance.
pub(super) const EPS: f32 = 1e-6;

/// Latents to pixels.
pub struct Decoder {
    post_quant_conv: Conv,
    conv_in: Conv,
    /// The blocks at the smallest resolution.
    pub mid: Middle,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv,
}

struct UpBlock {
    resnets: Vec<Resnet>,
    upsampler: Option<Conv>,
}

impl Decoder {
    /// Loads `post_quant_conv` and `decoder`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn load(w: &Weights, c: &Spatial) -> Result<Self> {
        let (latent, groups) = (c.latent_channels, c.norm_num_groups);
        let post_quant_conv = Conv::pointwise(&w.at("post_quant_conv"), latent, latent)?;
        let w = w.at("decoder");
        let (first, top) = (c.block_out_channels[0], c.block_out_channels[c.block_out_channels.len() - 1]);
        let mut width = top;
        let mut up_blocks = Vec::new();
        for (i, &level) in c.block_out_channels.iter().rev().enumerate() {
            let w = w.at(format!("up_blocks.{i}"));
            let mut resnets = Vec::new();
            for j in 0..=c.layers_per_block {
                resnets.push(Resnet::spatial(&w.at(format!("resnets.{j}")), [width, level], groups)?);
                width = level;
            }
            let last = i + 1 == c.block_out_channels.len();
            let upsampler = || Conv::image(&w.at("upsamplers.0.conv"), width, width, 3).map(Conv::upsampling);
            up_blocks.push(UpBlock { resnets, upsampler: (!last).then(upsampler).transpose()? });
        }
        Ok(Self {
            post_quant_conv,
            conv_in: Conv::image(&w.at("conv_in"), latent, top, 3)?,
            mid: Middle::load(&w.at("mid_block"), top, groups)?,
            up_blocks,
            conv_norm_out: GroupNorm::load(&w.at("conv_norm_out"), first, groups, EPS)?,
            conv_out: Conv::image(&w.at("conv_out"), first, c.out_channels, 3)?,
        })
    }

    /// z: `[n, 1, h, w, 4]`, divided by the scaling factor → `[n, 1, 8h, 8w, 3]`, nominally in [−1, 1].
    pub fn forward(&self, z: &Tensor, tap: &mut Tap<'_>) -> Tensor {
        let z = self.post_quant_conv.forward(z);
        see(tap, "post_quant_conv", &z);
        let x = self.conv_in.forward(&z);
        see(tap, "decoder.conv_in", &x);
        let mut x = self.mid.forward(&x, "decoder.mid_block", tap);
        for (i, block) in self.up_blocks.iter().enumerate() {
            for (j, resnet) in block.resnets.iter().enumerate() {
                x = resnet.forward(&x);
                see(tap, format_args!("decoder.up_blocks.{i}.resnets.{j}"), &x);
            }
            if let Some(upsampler) = &block.upsampler {
                x = upsampler.forward(&x);
                see(tap, format_args!("decoder.up_blocks.{i}.upsamplers.0"), &x);
            }
            see(tap, format_args!("decoder.up_blocks.{i}"), &x);
        }
        tap.see(|| "decoder.conv_norm_out".into(), || self.conv_norm_out.forward(&x));
        let x = self.conv_norm_out.silu(&x);
        let x = self.conv_out.forward(&x);
        see(tap, "decoder.conv_out", &x);
        x
    }
}

/// Pixels to the mean and log variance of latents.
pub struct Encoder {
    conv_in: Conv,
    down_blocks: Vec<DownBlock>,
    mid: Middle,
    conv_norm_out: GroupNorm,
    conv_out: Conv,
    quant_conv: Conv,
}

struct DownBlock {
    resnets: Vec<Resnet>,
    downsampler: Option<Conv>,
}

impl Encoder {
    /// Loads `encoder` and `quant_conv`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn load(w: &Weights, c: &Spatial) -> Result<Self> {
        let (moments, groups) = (2 * c.latent_channels, c.norm_num_groups);
        let quant_conv = Conv::pointwise(&w.at("quant_conv"), moments, moments)?;
        let w = w.at("encoder");
        let mut width = c.block_out_channels[0];
        let conv_in = Conv::image(&w.at("conv_in"), c.in_channels, width, 3)?;
        let mut down_blocks = Vec::new();
        for (i, &level) in c.block_out_channels.iter().enumerate() {
            let w = w.at(format!("down_blocks.{i}"));
            let mut resnets = Vec::new();
            for j in 0..c.layers_per_block {
                resnets.push(Resnet::spatial(&w.at(format!("resnets.{j}")), [width, level], groups)?);
                width = level;
            }
            let last = i + 1 == c.block_out_channels.len();
            let downsampler = || Conv::image(&w.at("downsamplers.0.conv"), width, width, 3).map(Conv::halving_space);
            down_blocks.push(DownBlock { resnets, downsampler: (!last).then(downsampler).transpose()? });
        }
        Ok(Self {
            conv_in,
            down_blocks,
            mid: Middle::load(&w.at("mid_block"), width, groups)?,
            conv_norm_out: GroupNorm::load(&w.at("conv_norm_out"), width, groups, EPS)?,
            conv_out: Conv::image(&w.at("conv_out"), width, moments, 3)?,
            quant_conv,
        })
    }

    /// x: `[n, 1, H, W, 3]` in [−1, 1] → `[n, 1, ⌊H/8⌋, ⌊W/8⌋, 8]`, means then log variances.
    pub fn forward(&self, x: &Tensor, tap: &mut Tap<'_>) -> Tensor {
        let mut x = self.conv_in.forward(x);
        see(tap, "encoder.conv_in", &x);
        for (i, block) in self.down_blocks.iter().enumerate() {
            for (j, resnet) in block.resnets.iter().enumerate() {
                x = resnet.forward(&x);
                see(tap, format_args!("encoder.down_blocks.{i}.resnets.{j}"), &x);
            }
            if let Some(downsampler) = &block.downsampler {
                x = downsampler.forward(&x);
                see(tap, format_args!("encoder.down_blocks.{i}.downsamplers.0"), &x);
            }
            see(tap, format_args!("encoder.down_blocks.{i}"), &x);
        }
        let x = self.mid.forward(&x, "encoder.mid_block", tap);
        tap.see(|| "encoder.conv_norm_out".into(), || self.conv_norm_out.forward(&x));
        let x = self.conv_out.forward(&self.conv_norm_out.silu(&x));
        see(tap, "encoder.conv_out", &x);
        let moments = self.quant_conv.forward(&x);
        see(tap, "quant_conv", &moments);
        moments
    }
}

/// Two residual blocks around attention, at the smallest resolution.
pub struct Middle {
    before: Resnet,
    /// Attention over the positions of a frame.
    pub attention: Attention,
    after: Resnet,
}

impl Middle {
    fn load(w: &Weights, width: usize, groups: usize) -> Result<Self> {
        Ok(Self {
            before: Resnet::spatial(&w.at("resnets.0"), [width, width], groups)?,
            attention: Attention::load(&w.at("attentions.0"), width, groups)?,
            after: Resnet::spatial(&w.at("resnets.1"), [width, width], groups)?,
        })
    }

    fn forward(&self, x: &Tensor, name: &str, tap: &mut Tap<'_>) -> Tensor {
        let x = self.before.forward(x);
        see(tap, format_args!("{name}.resnets.0"), &x);
        let x = self.attention.forward(&x, tap);
        see(tap, format_args!("{name}.attentions.0"), &x);
        let x = self.after.forward(&x);
        see(tap, format_args!("{name}.resnets.1"), &x);
        see(tap, name, &x);
        x
    }
}

/// One head as wide as the tokens, over all positions of a frame: x + out(softmax(q kᵀ / √C) v).
pub struct Attention {
    norm: GroupNorm,
    q: Conv,
    k: Conv,
    v: Conv,
    out: Conv,
    width: usize,
}

impl Attention {
    fn load(w: &Weights, width: usize, groups: usize) -> Result<Self> {
        // older checkpoints of the same network have other names, and may store 1 × 1 convolutions
        let named = |names: [&str; 3]| {
            let known = names.into_iter().find(|n| w.has(&format!("{n}.weight"))).unwrap_or(names[0]);
            Conv::pointwise(&w.at(known), width, width)
        };
        let norm = ["group_norm", "norm"].into_iter().find(|n| w.has(&format!("{n}.weight"))).unwrap_or("group_norm");
        Ok(Self {
            norm: GroupNorm::load(&w.at(norm), width, groups, EPS)?,
            q: named(["to_q", "query", "q"])?.feeding_products(),
            k: named(["to_k", "key", "k"])?.feeding_products(),
            v: named(["to_v", "value", "v"])?.feeding_products(),
            out: named(["to_out.0", "proj_attn", "proj_out"])?,
            width,
        })
    }

    /// x: `[n, 1, h, w, C]` → same.
    pub fn forward(&self, x: &Tensor, tap: &mut Tap<'_>) -> Tensor {
        let [_, _, h, w, c] = x.sizes();
        let tokens = Sequences { len: h * w, inner: 1 };
        let normed = self.norm.forward(x);
        see(tap, "group_norm", &normed);
        let mut heads = |part: &Conv, name: &str| {
            let part = part.forward(&normed);
            see(tap, name, &part);
            let [part] = ops::split_heads(&part, 0, [1, c], tokens, &[], None);
            part
        };
        let (q, k, v) = (heads(&self.q, "to_q"), heads(&self.k, "to_k"), heads(&self.v, "to_v"));
        let scale = (self.width as f32).sqrt().recip();
        let mixed = ops::attention(&q, &k, &v, c, tokens, Keys::Own, None, scale);
        self.out.forward_into(&mixed.reshape(x.shape().clone()), Target::Residual(x))
    }
}
