//! Self- and cross-attention.

use super::Linear;
use crate::error::Result;
use crate::ops::{self, Keys, Sequences, Target};
use crate::tensor::{Tensor, Weights};

/// Attention of a sequence over itself: one projection to q, k and v, RMS norm of q and k, rotary if given.
pub struct SelfAttention {
    qkv: Linear,
    proj: Linear,
    q_norm: Option<Tensor>,
    k_norm: Option<Tensor>,
    heads: usize,
    d: usize,
}

impl SelfAttention {
    /// Loads `qkv`, `proj` and, with `qk_norm`, `q_norm` and `k_norm`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn load(w: &Weights, width: usize, heads: usize, qk_norm: bool) -> Result<Self> {
        let d = width / heads;
        let norm = |name: &str| qk_norm.then(|| w.at(name).get("weight", [d])).transpose();
        Ok(Self {
            qkv: Linear::load(&w.at("qkv"), width, 3 * width)?.feeding_products(),
            proj: Linear::load(&w.at("proj"), width, width)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            heads,
            d,
        })
    }

    /// x: `[B, N, C]`, rows forming `seq`; `rotary`: angles by place. → `[B, N, C]` into `target`.
    pub fn forward(&self, x: &Tensor, seq: Sequences, rotary: Option<&Tensor>, target: Target<'_>) -> Tensor {
        let qkv = self.qkv.forward(x);
        let [q, k, v] = ops::split_heads(&qkv, 0, [self.heads, self.d], seq, &self.norms(), rotary);
        let scale = (self.d as f32).sqrt().recip();
        let mixed = ops::attention(&q, &k, &v, self.d, seq, Keys::Own, None, scale);
        self.proj.forward_into(&mixed.reshape(x.shape().clone()), target)
    }

    /// The queries alone, for inspection: `[problems, heads, len, padded]`.
    pub fn queries(&self, x: &Tensor, seq: Sequences, rotary: Option<&Tensor>) -> Tensor {
        self.part(x, 0, self.q_norm.as_ref(), seq, rotary)
    }

    /// The keys alone, for inspection: `[problems, heads, len, padded]`.
    pub fn keys(&self, x: &Tensor, seq: Sequences, rotary: Option<&Tensor>) -> Tensor {
        self.part(x, 1, self.k_norm.as_ref(), seq, rotary)
    }

    fn norms(&self) -> Vec<&Tensor> {
        self.q_norm.iter().chain(&self.k_norm).collect()
    }

    fn part(&self, x: &Tensor, at: usize, norm: Option<&Tensor>, seq: Sequences, rotary: Option<&Tensor>) -> Tensor {
        let norm: Vec<&Tensor> = norm.into_iter().collect();
        let [part] = ops::split_heads(&self.qkv.forward(x), at, [self.heads, self.d], seq, &norm, rotary);
        part
    }
}

/// Attention over packed text of different lengths. No norm, no rotary, no gate.
pub struct CrossAttention {
    q: Linear,
    kv: Linear,
    proj: Linear,
    heads: usize,
    d: usize,
}

/// Keys and values of one layer over a packed text: they depend on the caption only, so they are made once.
pub struct TextKeys {
    k: Tensor,
    v: Tensor,
}

impl CrossAttention {
    /// Loads `q_linear`, `kv_linear` and `proj`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn load(w: &Weights, width: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            q: Linear::load(&w.at("q_linear"), width, width)?.feeding_products(),
            kv: Linear::load(&w.at("kv_linear"), width, 2 * width)?.feeding_products(),
            proj: Linear::load(&w.at("proj"), width, width)?,
            heads,
            d: width / heads,
        })
    }

    /// text: `[tokens, C]`, all captions one after the other.
    pub fn keys(&self, text: &Tensor) -> TextKeys {
        let kv = self.kv.forward(text);
        let seq = Sequences { len: text.as_rows()[0], inner: 1 };
        let [k, v] = ops::split_heads(&kv, 0, [self.heads, self.d], seq, &[], None);
        TextKeys { k, v }
    }

    /// x: `[B, N, C]`; `spans`: first token and length of each sample's caption. → `[B, N, C]`.
    pub fn forward(&self, x: &Tensor, text: &TextKeys, spans: &Tensor, onto: Option<&Tensor>) -> Tensor {
        let [_, tokens, _] = x.sizes();
        let seq = Sequences { len: tokens, inner: 1 };
        let [q] = ops::split_heads(&self.q.forward(x), 0, [self.heads, self.d], seq, &[], None);
        let scale = (self.d as f32).sqrt().recip();
        let mixed = ops::attention(&q, &text.k, &text.v, self.d, seq, Keys::Packed(spans), None, scale);
        self.proj.forward_into(&mixed.reshape(x.shape().clone()), Target::onto(onto))
    }
}
