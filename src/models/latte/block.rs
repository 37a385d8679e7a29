//! One transformer block, and the final layer.

use super::Config;
use crate::cache::{Axis, Branch, ResidualCache, Site};
use crate::error::Result;
use crate::nn::{CrossAttention, Linear, Mlp, Seen, SelfAttention, Tap, TextKeys};
use crate::ops::{self, Gate, Modulate, Sequences, Store, Target};
use crate::tensor::{Tensor, Weights};

/// ε of the last norm, whatever the config says of the others.
const LAST_EPS: f32 = 1e-6;

/// What a block needs to know about its surroundings.
pub(super) struct Around<'a> {
    /// `[B, 6C]`: shift, scale, gate for attention, then for the MLP, before the block's own offsets.
    pub time: &'a Tensor,
    /// Latent frames and tokens of a frame.
    pub frames: usize,
    pub patches: usize,
    /// First token and length of each sample's caption.
    pub spans: &'a Tensor,
    /// Patches that spatial attention sees, if not all.
    pub seen: Option<&'a Seen>,
}

/// One transformer block over a single axis: patches of a frame, or one patch through time. Only the former reads text.
pub(super) struct Block {
    depth: usize,
    axis: Axis,
    attn: SelfAttention,
    cross: Option<CrossAttention>,
    mlp: Mlp,
    /// `[6, C]`: learned offsets of shift, scale, gate for attention, then for the MLP.
    table: Tensor,
    width: usize,
    eps: f32,
}

impl Block {
    pub fn load(w: &Weights, c: &Config, depth: usize, axis: Axis) -> Result<Self> {
        let (width, heads) = (c.width(), c.num_attention_heads);
        let reads_text = axis == Axis::Spatial;
        let cross = || CrossAttention::separate(&w.at("attn2"), width, heads, c.attention_bias);
        Ok(Self {
            depth,
            axis,
            attn: SelfAttention::separate(&w.at("attn1"), width, heads, c.attention_bias)?,
            cross: reads_text.then(cross).transpose()?,
            mlp: Mlp::named(&w.at("ff"), ["net.0.proj", "net.2"], [width, 4 * width, width])?,
            table: w.get("scale_shift_table", [6, width])?,
            width,
            eps: c.norm_eps as f32,
        })
    }

    /// Keys and values of the caption, made once for all steps; `None` where the block reads no text.
    pub fn text_keys(&self, text: &Tensor) -> Option<TextKeys> {
        self.cross.as_ref().map(|cross| cross.keys(text))
    }

    /// What self-attention reads, in f32; time: `[B, 6C]`.
    pub fn input(&self, x: &Tensor, time: &Tensor) -> Tensor {
        let [_, tokens, _] = x.sizes();
        let table = ops::add(time, &self.table);
        let modulate = Modulate { table: &table, shift_at: 0, scale_at: self.width, rows: tokens };
        ops::layer_norm(x, self.eps, Some(modulate), Store::Full)
    }

    /// x: `[B, T·S, C]` → same.
    pub fn forward(
        &self,
        x: &Tensor,
        text: Option<&TextKeys>,
        at: &Around<'_>,
        cache: &mut ResidualCache,
        tap: &mut Tap<'_>,
    ) -> Tensor {
        let tokens = at.frames * at.patches;
        let table = ops::add(at.time, &self.table);
        let modulate = |first: usize| Modulate {
            table: &table,
            shift_at: first * self.width,
            scale_at: (first + 1) * self.width,
            rows: tokens,
        };
        let gate = |index: usize| Gate { table: &table, at: index * self.width, rows: tokens };

        let x = cache.add(self.site(Branch::SelfAttn), x, |_, onto| {
            let h = ops::layer_norm(x, self.eps, Some(modulate(0)), Store::Operand);
            tap.see(|| self.name("attn_in"), || h.clone());
            tap.see(|| self.name("attn"), || self.attend(&h, at, Target::Plain));
            self.attend(&h, at, Target::gated_onto(gate(2), onto))
        });
        let y = cache.add(self.site(Branch::CrossMlp), &x, |cache, onto| {
            let told = match self.cross.as_ref().zip(text) {
                None => x.clone(),
                // the stream itself asks: neither normalised nor gated
                Some((cross, text)) => cache.add(self.site(Branch::Cross), &x, |_, onto| {
                    tap.see(|| self.name("cross_attn"), || cross.forward(&x, text, at.spans, None));
                    cross.forward(&x, text, at.spans, onto)
                }),
            };
            let thought = cache.add(self.site(Branch::Mlp), &told, |_, onto| {
                let h = ops::layer_norm(&told, self.eps, Some(modulate(3)), Store::Operand);
                tap.see(|| self.name("mlp_in"), || h.clone());
                tap.see(|| self.name("mlp"), || self.mlp.forward(&h, Target::Plain));
                self.mlp.forward(&h, Target::gated_onto(gate(5), onto))
            });
            if onto.is_some() { thought } else { ops::sub(&thought, &x) }
        });
        tap.see(|| self.name(""), || y.clone());
        y
    }

    fn attend(&self, h: &Tensor, at: &Around<'_>, target: Target<'_>) -> Tensor {
        match (self.axis, at.seen) {
            (Axis::Spatial, None) => self.attn.forward(h, Sequences { len: at.patches, inner: 1 }, None, target),
            (Axis::Spatial, Some(seen)) => {
                self.attn.forward_seeing(h, Sequences { len: at.patches, inner: 1 }, seen, target)
            }
            (Axis::Temporal, _) => self.attn.forward(h, Sequences { len: at.frames, inner: at.patches }, None, target),
        }
    }

    fn site(&self, branch: Branch) -> Site {
        Site { depth: self.depth, axis: self.axis, branch }
    }

    fn name(&self, part: &str) -> String {
        let axis = match self.axis {
            Axis::Spatial => "spatial",
            Axis::Temporal => "temporal",
        };
        let dot = if part.is_empty() { "" } else { "." };
        format!("{axis}_{}{dot}{part}", self.depth)
    }
}

/// Norm, modulation and projection to the patches of the output.
pub(super) struct FinalLayer {
    linear: Linear,
    /// `[2, C]`: shift, scale.
    table: Tensor,
    width: usize,
}

impl FinalLayer {
    pub fn load(w: &Weights, c: &Config) -> Result<Self> {
        Ok(Self {
            linear: Linear::load(&w.at("proj_out"), c.width(), c.patch_size * c.patch_size * c.out_channels)?,
            table: w.get("scale_shift_table", [2, c.width()])?,
            width: c.width(),
        })
    }

    /// x: `[B, T·S, C]`, t: `[B, C]`, the timestep's own vector → `[B, T·S, patch·out]`.
    pub fn forward(&self, x: &Tensor, t: &Tensor, tap: &mut Tap<'_>) -> Tensor {
        let [samples, tokens, _] = x.sizes();
        let twice: Vec<u32> = (0..samples as u32).flat_map(|i| [i, i]).collect();
        let table = ops::add(&ops::rows(t, &twice).reshape([samples, 2 * self.width]), &self.table);
        let modulate = Modulate { table: &table, shift_at: 0, scale_at: self.width, rows: tokens };
        tap.see(|| "final_norm".into(), || ops::layer_norm(x, LAST_EPS, None, Store::Full));
        let h = ops::layer_norm(x, LAST_EPS, Some(modulate), Store::Operand);
        tap.see(|| "final_in".into(), || h.clone());
        self.linear.forward(&h)
    }
}
