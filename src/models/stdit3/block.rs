//! One transformer block, and the final layer.

use super::Config;
use crate::cache::{Axis, Branch, ResidualCache, Site};
use crate::error::Result;
use crate::nn::{CrossAttention, Linear, Mlp, SelfAttention, Tap, TextKeys};
use crate::ops::{self, Gate, Modulate, Sequences, Store, Target};
use crate::tensor::{Tensor, Weights};

/// ε of the parameterless layer norms.
const EPS: f32 = 1e-6;

/// Conditioning vectors, one row for every `tokens` tokens: a sample's, or (with frames held fixed) a frame's.
pub(super) struct Conditioning<'a> {
    /// `[rows, 6C]`
    pub vectors: &'a Tensor,
    /// Tokens that share a row.
    pub tokens: usize,
}

/// What a block needs to know about its surroundings.
pub(super) struct Around<'a> {
    pub time: Conditioning<'a>,
    /// Latent frames and tokens of a frame.
    pub frames: usize,
    pub patches: usize,
    /// Rotary angles by frame, `[frames, d/2, 2]`.
    pub angles: &'a Tensor,
    /// First token and length of each sample's caption.
    pub spans: &'a Tensor,
}

/// One transformer block over a single axis: patches of a frame, or one patch through time.
pub(super) struct Block {
    depth: usize,
    axis: Axis,
    attn: SelfAttention,
    cross: CrossAttention,
    mlp: Mlp,
    /// `[6, C]`: learned offsets of shift, scale, gate for attention, then for the MLP.
    table: Tensor,
    width: usize,
}

impl Block {
    pub fn load(w: &Weights, c: &Config, depth: usize, axis: Axis) -> Result<Self> {
        let width = c.hidden_size;
        Ok(Self {
            depth,
            axis,
            attn: SelfAttention::load(&w.at("attn"), width, c.num_heads, c.qk_norm)?,
            cross: CrossAttention::load(&w.at("cross_attn"), width, c.num_heads)?,
            mlp: Mlp::load(&w.at("mlp"), width, c.mlp_width(), width)?,
            table: Self::table(w, c)?,
            width,
        })
    }

    /// Keys and values of the caption, made once for all steps.
    pub fn text_keys(&self, text: &Tensor) -> TextKeys {
        self.cross.keys(text)
    }

    /// The learned offsets of a block, to look at what it reads without the rest of it.
    pub fn table(w: &Weights, c: &Config) -> Result<Tensor> {
        w.get("scale_shift_table", [6, c.hidden_size])
    }

    /// What self-attention of the block with these offsets reads, in f32.
    pub fn input(x: &Tensor, table: &Tensor, time: &Conditioning<'_>) -> Tensor {
        let (table, width) = (ops::add(time.vectors, table), x.as_rows()[1]);
        let modulate = Modulate { table: &table, shift_at: 0, scale_at: width, rows: time.tokens };
        ops::layer_norm(x, EPS, Some(modulate), Store::Full)
    }

    /// x: `[B, T·S, C]` → same.
    pub fn forward(
        &self,
        x: &Tensor,
        text: &TextKeys,
        at: &Around<'_>,
        cache: &mut ResidualCache,
        tap: &mut Tap<'_>,
    ) -> Tensor {
        let table = ops::add(at.time.vectors, &self.table);
        let modulate = |first: usize| Modulate {
            table: &table,
            shift_at: first * self.width,
            scale_at: (first + 1) * self.width,
            rows: at.time.tokens,
        };
        let gate = |index: usize| Gate { table: &table, at: index * self.width, rows: at.time.tokens };
        let (seq, rotary) = match self.axis {
            Axis::Spatial => (Sequences { len: at.patches, inner: 1 }, None),
            Axis::Temporal => (Sequences { len: at.frames, inner: at.patches }, Some(at.angles)),
        };

        let x = cache.add(self.site(Branch::SelfAttn), x, |_, onto| {
            let h = ops::layer_norm(x, EPS, Some(modulate(0)), Store::Operand);
            self.look(&h, seq, rotary, tap);
            self.attn.forward(&h, seq, rotary, Target::gated_onto(gate(2), onto))
        });
        let y = cache.add(self.site(Branch::CrossMlp), &x, |cache, onto| {
            let told = cache.add(self.site(Branch::Cross), &x, |_, onto| {
                tap.see(|| self.name("cross_attn"), || self.cross.forward(&x, text, at.spans, None));
                self.cross.forward(&x, text, at.spans, onto)
            });
            let thought = cache.add(self.site(Branch::Mlp), &told, |_, onto| {
                let h = ops::layer_norm(&told, EPS, Some(modulate(3)), Store::Operand);
                tap.see(|| self.name("mlp"), || self.mlp.forward(&h, Target::Plain));
                self.mlp.forward(&h, Target::gated_onto(gate(5), onto))
            });
            if onto.is_some() { thought } else { ops::sub(&thought, &x) }
        });
        tap.see(|| self.name(""), || y.clone());
        y
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

    /// Shows the inside of self-attention to whoever looks.
    fn look(&self, h: &Tensor, seq: Sequences, rotary: Option<&Tensor>, tap: &mut Tap<'_>) {
        tap.see(|| self.name("q_normed"), || self.attn.queries(h, seq, None));
        if rotary.is_some() {
            tap.see(|| self.name("q_rope"), || self.attn.queries(h, seq, rotary));
            tap.see(|| self.name("k_rope"), || self.attn.keys(h, seq, rotary));
        }
        tap.see(|| self.name("attn"), || self.attn.forward(h, seq, rotary, Target::Plain));
    }
}

/// Norm, modulation and projection to the patches of the velocity.
pub(super) struct FinalLayer {
    linear: Linear,
    /// `[2, C]`: shift, scale.
    table: Tensor,
    width: usize,
}

impl FinalLayer {
    pub fn load(w: &Weights, c: &Config) -> Result<Self> {
        Ok(Self {
            linear: Linear::load(&w.at("linear"), c.hidden_size, c.patch() * c.out_channels())?,
            table: w.get("scale_shift_table", [2, c.hidden_size])?,
            width: c.hidden_size,
        })
    }

    /// x: `[B, T·S, C]`, t: `[B, C]`. With frames held fixed, `fixed` is their conditioning `[B, C]` and the
    /// words `[B, T]` that are 0 for them. → `[B, T·S, patch·out]`.
    pub fn forward(&self, x: &Tensor, t: &Tensor, fixed: Option<(&Tensor, &Tensor)>) -> Tensor {
        let store = if fixed.is_some() { Store::Full } else { Store::Operand };
        let o = self.modulated(x, t, store);
        let o = match fixed {
            None => o,
            // Upstream normalises what is already modulated a second time for frames held fixed; sampling
            // throws their velocity away, but the forward pass is to give the same numbers.
            Some((t0, mask)) => ops::choose(mask, &o, &self.modulated(&o, t0, store)),
        };
        self.linear.forward(&o)
    }

    fn modulated(&self, x: &Tensor, t: &Tensor, store: Store) -> Tensor {
        let [samples, tokens, _] = x.sizes();
        let twice: Vec<u32> = (0..samples as u32).flat_map(|i| [i, i]).collect();
        let table = ops::add(&ops::rows(t, &twice).reshape([samples, 2 * self.width]), &self.table);
        let modulate = Modulate { table: &table, shift_at: 0, scale_at: self.width, rows: tokens };
        ops::layer_norm(x, EPS, Some(modulate), store)
    }
}
