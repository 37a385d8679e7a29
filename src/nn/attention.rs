//! Self- and cross-attention.

use super::Linear;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::{self, Keys, Parts, Sequences, Target};
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

    /// Loads `to_q`, `to_k`, `to_v` and `to_out.0`, as diffusers names them; no norm of q and k.
    ///
    /// # Errors
    /// As [`SelfAttention::load`].
    pub fn separate(w: &Weights, width: usize, heads: usize, bias: bool) -> Result<Self> {
        Ok(Self {
            qkv: Linear::side_by_side(w, &["to_q", "to_k", "to_v"], width, width, bias)?.feeding_products(),
            proj: Linear::load(&w.at("to_out.0"), width, width)?,
            q_norm: None,
            k_norm: None,
            heads,
            d: width / heads,
        })
    }

    /// [`SelfAttention::forward`] without norms and rotary where every row asks, but only `seen` answer.
    pub fn forward_seeing(&self, x: &Tensor, seq: Sequences, seen: &Seen, target: Target<'_>) -> Tensor {
        let qkv = self.qkv.forward(x);
        let [q] = ops::split_heads(&qkv, 0, [self.heads, self.d], seq, &[], None);
        let kept = ops::rows(&qkv, &seen.rows);
        let all = Sequences { len: seen.rows.len(), inner: 1 };
        let [k, v] = ops::split_heads(&kept, 1, [self.heads, self.d], all, &[], None);
        let scale = (self.d as f32).sqrt().recip();
        let mixed =
            ops::attention(&q, &k, &v, self.d, seq, Keys::Packed(&seen.spans, seen.spans.dims()[0]), None, scale);
        self.proj.forward_into(&mixed.reshape(x.shape().clone()), target)
    }

    /// x: `[B, N, C]`, rows forming `seq`; `rotary`: angles by place. → `[B, N, C]` into `target`.
    pub fn forward(&self, x: &Tensor, seq: Sequences, rotary: Option<&Tensor>, target: Target<'_>) -> Tensor {
        let [rows, width] = x.as_rows();
        // what each row costs in the widest tensor, and its scores with all keys of its sequence
        let parts = Parts::of(rows).sharing_bytes(3 * self.heads * self.d * 4);
        let parts = parts.flops(4.0 * (rows * seq.len) as f64 * width as f64);
        if seq.inner > 1 && parts.cut(x.gpu()).len() > 1 {
            let mixed = self.mix_apart(x, seq, rotary);
            return self.proj.forward_into(&mixed.reshape(x.shape().clone()), target);
        }
        let out = self.proj.room_for(x);
        for part in target.grouping(parts).grain(seq.len * seq.inner).sharing(&out).cut(x.gpu()) {
            let mixed = self.mix(&x.part(rows, &part), seq, rotary);
            target.on(rows, &part, |target| self.proj.forward_onto(&mixed, target, &out.part(rows, &part)));
        }
        out
    }

    /// Attention of whole sequences, heads joined, before the projection: x `[rows, C]` → same.
    fn mix(&self, x: &Tensor, seq: Sequences, rotary: Option<&Tensor>) -> Tensor {
        let qkv = self.qkv.forward(x);
        let [q, k, v] = ops::split_heads(&qkv, 0, [self.heads, self.d], seq, &self.norms(), rotary);
        let scale = (self.d as f32).sqrt().recip();
        ops::attention(&q, &k, &v, self.d, seq, Keys::Own, None, scale)
    }

    /// [`SelfAttention::mix`] of sequences whose rows lie apart, some at a time: a stretch of places is copied out of every
    /// frame, and back.
    fn mix_apart(&self, x: &Tensor, seq: Sequences, rotary: Option<&Tensor>) -> Tensor {
        let ([rows, width], Sequences { len, inner }) = (x.as_rows(), seq);
        let flops = 4.0 * (rows * len) as f64 * width as f64;
        let parts = Parts::of(inner).sharing_bytes(len * 3 * width * 4).flops(flops);
        let mut mixed: Option<Tensor> = None;
        for sample in 0..rows / (len * inner) {
            for part in parts.cut(x.gpu()) {
                let some = part.len();
                let first = |frame: usize| (sample * len + frame) * inner + part.start;
                let of = |frame: usize| frame * some..(frame + 1) * some;
                let own = x.gpu().empty([len * some, width], x.dtype());
                for frame in 0..len {
                    ops::copy_rows(x, first(frame)..first(frame) + some, &own, frame * some);
                }
                let made = self.mix(&own, Sequences { len, inner: some }, rotary);
                let mixed = mixed.get_or_insert_with(|| x.gpu().empty([rows, width], made.dtype()));
                for frame in 0..len {
                    ops::copy_rows(&made, of(frame), mixed, first(frame));
                }
            }
        }
        mixed.unwrap_or_else(|| x.clone())
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

/// The rows that serve as keys where some do not: by number, and which of them each sequence sees.
pub struct Seen {
    rows: Vec<u32>,
    /// `[sequences, 2]` words: first and count among `rows`.
    spans: Tensor,
}

impl Seen {
    /// From one flag a row, sequences of `len` neighbours. A sequence without any key sees all of its rows, as if
    /// all were pushed down alike.
    pub fn new(gpu: &Gpu, flags: &[bool], len: usize) -> Self {
        let (mut rows, mut spans) = (Vec::new(), Vec::new());
        for (i, sequence) in flags.chunks_exact(len).enumerate() {
            let first = rows.len() as u32;
            let none = !sequence.contains(&true);
            rows.extend((0..len).filter(|&j| none || sequence[j]).map(|j| (i * len + j) as u32));
            spans.extend([first, rows.len() as u32 - first]);
        }
        let spans = gpu.upload_words(&spans, [spans.len() / 2, 2]);
        Self { rows, spans }
    }
}

/// Attention over packed text of different lengths. No norm, no rotary, no gate.
pub struct CrossAttention {
    q: Linear,
    text: TextProjection,
    proj: Linear,
    heads: usize,
    d: usize,
}

/// The part of [`CrossAttention`] that reads the text.
pub struct TextProjection {
    kv: Linear,
    heads: usize,
    d: usize,
}

/// Keys and values of one layer over a packed text: they depend on the caption only, so they are made once.
pub struct TextKeys {
    k: Tensor,
    v: Tensor,
}

impl TextProjection {
    /// Loads `kv_linear`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn load(w: &Weights, width: usize, heads: usize) -> Result<Self> {
        let kv = Linear::load(&w.at("kv_linear"), width, 2 * width)?.feeding_products();
        Ok(Self { kv, heads, d: width / heads })
    }

    /// text: `[tokens, C]`, all captions one after the other.
    pub fn keys(&self, text: &Tensor) -> TextKeys {
        let kv = self.kv.forward(text);
        let seq = Sequences { len: text.as_rows()[0], inner: 1 };
        let [k, v] = ops::split_heads(&kv, 0, [self.heads, self.d], seq, &[], None);
        TextKeys { k, v }
    }
}

impl CrossAttention {
    /// Loads `q_linear`, `kv_linear` and `proj`.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn load(w: &Weights, width: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            q: Linear::load(&w.at("q_linear"), width, width)?.feeding_products(),
            text: TextProjection::load(w, width, heads)?,
            proj: Linear::load(&w.at("proj"), width, width)?,
            heads,
            d: width / heads,
        })
    }

    /// Loads `to_q`, `to_k`, `to_v` and `to_out.0`, as diffusers names them.
    ///
    /// # Errors
    /// As [`CrossAttention::load`].
    pub fn separate(w: &Weights, width: usize, heads: usize, bias: bool) -> Result<Self> {
        Ok(Self {
            q: Linear::side_by_side(w, &["to_q"], width, width, bias)?.feeding_products(),
            text: TextProjection {
                kv: Linear::side_by_side(w, &["to_k", "to_v"], width, width, bias)?.feeding_products(),
                heads,
                d: width / heads,
            },
            proj: Linear::load(&w.at("to_out.0"), width, width)?,
            heads,
            d: width / heads,
        })
    }

    /// As [`TextProjection::keys`].
    pub fn keys(&self, text: &Tensor) -> TextKeys {
        self.text.keys(text)
    }

    /// x: `[B, N, C]`; `spans`: first token and length of each sample's caption. → `[B, N, C]`.
    pub fn forward(&self, x: &Tensor, text: &TextKeys, spans: &Tensor, onto: Option<&Tensor>) -> Tensor {
        let [samples, tokens, _] = x.sizes();
        let scale = (self.d as f32).sqrt().recip();
        let (out, target) = (self.proj.room_for(x), Target::onto(onto));
        let rows = samples * tokens;
        let parts = target.grouping(Parts::of(rows)).groups_of(tokens).sharing_bytes(self.heads * self.d * 4);
        for part in parts.sharing(x).sharing(&out).cut(x.gpu()) {
            // whole samples, or some queries of one
            let seq = Sequences { len: tokens.min(part.len()), inner: 1 };
            let own = (part.start / tokens) as u32..part.end.div_ceil(tokens) as u32;
            let spans = if own.len() == samples { spans } else { &ops::rows(spans, &own.collect::<Vec<_>>()) };
            let q = self.q.forward(&x.part(rows, &part));
            let [q] = ops::split_heads(&q, 0, [self.heads, self.d], seq, &[], None);
            let mixed = ops::attention(&q, &text.k, &text.v, self.d, seq, Keys::Packed(spans, samples), None, scale);
            target.on(rows, &part, |target| self.proj.forward_onto(&mixed, target, &out.part(rows, &part)));
        }
        out
    }
}
