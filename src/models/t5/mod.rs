//! The encoder of T5 v1.1, which turns a caption into the conditioning of a diffusion model.
//! n tokens, the end marker among them and no padding: masked keys would have weight 0 and positions are relative, so
//! the rows of real tokens are the same without it. d channels of a token.
//! Source: `T5Stack` in transformers 4.39, models/t5/modeling_t5.py (encoder, `gated-gelu`).
//!
//! differs: blocks are on the device one after the other, not all at once. XXL has 9.3 GB in halves; one block has
//! 0.4 GB, and a caption is encoded once.

mod config;

use std::path::Path;
use std::sync::Arc;

pub use config::Config;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::{Linear, Tap};
use crate::ops::{self, Activation, Keys, Sequences, Store, Target};
use crate::tensor::{Checkpoint, Tensor, Weights};

/// The two names of the embedding; a file may hold either or both.
pub const EMBEDDING: [&str; 2] = ["shared.weight", "encoder.embed_tokens.weight"];

/// Tensors of a published checkpoint that the encoder has no use for: a whole T5 holds a decoder, its head and (under a
/// third name) its embedding. The published encoders hold none of them.
pub const UNUSED: [&str; 2] = ["decoder.", "lm_head."];

/// T5 v1.1, encoder only.
pub struct T5Encoder {
    weights: Weights,
    config: Config,
    embedding: &'static str,
    bias: Vec<f32>, // [buckets, heads]
    final_norm: RmsNorm,
}

impl T5Encoder {
    /// Reads `config.json` of a folder and opens its checkpoint; every tensor's name and shape is checked.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Checkpoint`] if either cannot be read or is wrong.
    pub fn load(gpu: &Gpu, folder: &Path) -> Result<Self> {
        let config = Config::read(folder)?;
        let checkpoint = Arc::new(Checkpoint::open(folder)?);
        Self::from_weights(Weights::new(gpu, checkpoint, "is this a T5 v1.1 encoder with its own config.json?"), config)
    }

    /// The encoder over a checkpoint that is open already.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn from_weights(weights: Weights, config: Config) -> Result<Self> {
        let c = &config;
        let embedding = EMBEDDING.into_iter().find(|n| weights.has(n)).unwrap_or(EMBEDDING[0]);
        for name in EMBEDDING.into_iter().filter(|&n| n == embedding || weights.has(n)) {
            weights.rows(name, [c.vocab_size, c.d_model], &[])?;
        }
        for i in 0..c.num_layers {
            Block::load(&weights.dry(), c, i)?;
        }
        let encoder = weights.at("encoder");
        let bias = encoder.at("block.0.layer.0.SelfAttention.relative_attention_bias");
        let bias = bias.host("weight", [c.relative_attention_num_buckets, c.num_heads])?;
        let final_norm = RmsNorm::load(&encoder.at("final_layer_norm"), c)?;
        weights.tell_unasked(&UNUSED);
        Ok(Self { weights, config, embedding, bias, final_norm })
    }

    /// The device it runs on.
    pub fn gpu(&self) -> &Gpu {
        self.weights.gpu()
    }

    /// Its sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// ids of one text, the end marker last and no padding → `[n, d]`.
    ///
    /// # Errors
    /// As [`T5Encoder::forward_all`].
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        Ok(self.forward_all(&[ids], &mut Tap::Off)?.swap_remove(0))
    }

    /// Several texts, each for itself, while every block is loaded only once. A device of our own is waited for after each
    /// block, so that no more than two of them are in memory.
    ///
    /// # Errors
    /// [`Error::Request`] if a text has no token or one outside the vocabulary; [`Error::Checkpoint`] if numbers cannot
    /// be read; what [`Gpu::end_step`] returns.
    pub fn forward_all(&self, texts: &[&[u32]], tap: &mut Tap<'_>) -> Result<Vec<Tensor>> {
        let c = &self.config;
        let gpu = self.weights.gpu();
        let mut x = texts.iter().map(|ids| self.embed(ids)).collect::<Result<Vec<_>>>()?;
        x.iter().for_each(|x| see(tap, "shared", x));
        let bias: Vec<Tensor> = texts.iter().map(|ids| self.relative_bias(ids.len())).collect();
        let mut next = Some(Block::load(&self.weights, c, 0)?);
        for i in 0..c.num_layers {
            let Some(block) = next.take() else { break };
            for (x, bias) in x.iter_mut().zip(&bias) {
                *x = block.forward(x, bias, &format!("encoder.block.{i}"), tap);
            }
            gpu.submit()?;
            // the next block is read while this one runs
            next = (i + 1 < c.num_layers).then(|| Block::load(&self.weights, c, i + 1)).transpose()?;
            gpu.end_step()?;
        }
        let out: Vec<Tensor> = x.iter().map(|x| self.final_norm.forward(x, Store::Full)).collect();
        out.iter().for_each(|x| see(tap, "encoder.final_layer_norm", x));
        gpu.submit()?;
        Ok(out)
    }

    /// Rows of the embedding: gathered on the host, for the table alone is larger than what many devices bind.
    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let Config { vocab_size, d_model, .. } = self.config;
        if ids.is_empty() {
            return Err(Error::request("prompt", "has no token; even an empty text has its end marker"));
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            let problem = format!(
                "has token {id}, but the text encoder knows {vocab_size}; do tokenizer and encoder belong together?"
            );
            return Err(Error::request("prompt", problem));
        }
        let rows = self.weights.rows(self.embedding, [vocab_size, d_model], ids)?;
        Ok(self.weights.gpu().upload(&rows, [ids.len(), d_model]))
    }

    /// What is added to the scores of n tokens, by head and by key − query: `[heads, 2n − 1]`, middle = same place.
    fn relative_bias(&self, n: usize) -> Tensor {
        self.weights.gpu().upload(&self.relative_table(n), [self.config.num_heads, 2 * n - 1])
    }

    /// The same on the host.
    pub fn relative_table(&self, n: usize) -> Vec<f32> {
        let heads = self.config.num_heads;
        let last = n as isize - 1;
        let buckets: Vec<usize> = (-last..=last).map(|distance| self.config.bucket(distance)).collect();
        (0..heads).flat_map(|h| buckets.iter().map(move |b| (b, h))).map(|(b, h)| self.bias[b * heads + h]).collect()
    }
}

/// x + attention(norm(x)), then x + feed-forward(norm(x)).
struct Block {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    mlp_norm: RmsNorm,
    gate: Linear, // wi_0, through GELU
    up: Linear,   // wi_1
    down: Linear, // wo
    heads: [usize; 2],
}

impl Block {
    fn load(w: &Weights, c: &Config, i: usize) -> Result<Self> {
        let w = w.at(format!("encoder.block.{i}"));
        let (attention, mlp) = (w.at("layer.0.SelfAttention"), w.at("layer.1.DenseReluDense"));
        let inner = c.num_heads * c.d_kv;
        Ok(Self {
            attention_norm: RmsNorm::load(&w.at("layer.0.layer_norm"), c)?,
            q: Linear::bare(&attention.at("q"), c.d_model, inner)?.feeding_products(),
            k: Linear::bare(&attention.at("k"), c.d_model, inner)?.feeding_products(),
            v: Linear::bare(&attention.at("v"), c.d_model, inner)?.feeding_products(),
            o: Linear::bare(&attention.at("o"), inner, c.d_model)?,
            mlp_norm: RmsNorm::load(&w.at("layer.1.layer_norm"), c)?,
            gate: Linear::bare(&mlp.at("wi_0"), c.d_model, c.d_ff)?.then(Activation::GeluTanh),
            up: Linear::bare(&mlp.at("wi_1"), c.d_model, c.d_ff)?,
            down: Linear::bare(&mlp.at("wo"), c.d_ff, c.d_model)?,
            heads: [c.num_heads, c.d_kv],
        })
    }

    /// x: `[n, d]` → same. The scores are not divided by √d: T5 folds that into its weights.
    fn forward(&self, x: &Tensor, bias: &Tensor, name: &str, tap: &mut Tap<'_>) -> Tensor {
        let tokens = Sequences { len: x.dims()[0], inner: 1 };
        let normed = self.attention_norm.forward(x, Store::Operand);
        see(tap, format_args!("{name}.layer.0.layer_norm"), &normed);
        let mut heads = |part: &Linear, which: &str| {
            let part = part.forward(&normed);
            see(tap, format_args!("{name}.layer.0.SelfAttention.{which}"), &part);
            let [part] = ops::split_heads(&part, 0, self.heads, tokens, &[], None);
            part
        };
        let (q, k, v) = (heads(&self.q, "q"), heads(&self.k, "k"), heads(&self.v, "v"));
        let mixed = ops::attention(&q, &k, &v, self.heads[1], tokens, Keys::Own, Some(bias), 1.0);
        tap.see(|| format!("{name}.layer.0.SelfAttention.o"), || self.o.forward(&mixed));
        let x = self.o.forward_into(&mixed, Target::Residual(x));
        see(tap, format_args!("{name}.layer.0"), &x);

        let normed = self.mlp_norm.forward(&x, Store::Operand);
        see(tap, format_args!("{name}.layer.1.layer_norm"), &normed);
        let gate = self.gate.forward(&normed);
        see(tap, format_args!("{name}.layer.1.DenseReluDense.act"), &gate);
        tap.see(|| format!("{name}.layer.1.DenseReluDense.wi_1"), || self.up.forward(&normed));
        let h = self.up.forward_into(&normed, Target::Product(&gate));
        tap.see(|| format!("{name}.layer.1.DenseReluDense.wo"), || self.down.forward(&h));
        let x = self.down.forward_into(&h, Target::Residual(&x));
        see(tap, format_args!("{name}.layer.1"), &x);
        see(tap, name, &x);
        x
    }
}

/// x / √(mean x² + eps) · weight.
struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    fn load(w: &Weights, c: &Config) -> Result<Self> {
        Ok(Self { weight: w.get("weight", [c.d_model])?, eps: c.layer_norm_epsilon })
    }

    fn forward(&self, x: &Tensor, store: Store) -> Tensor {
        ops::rms_norm(x, &self.weight, self.eps, store)
    }
}

/// Shows a value to whoever looks.
fn see(tap: &mut Tap<'_>, name: impl std::fmt::Display, x: &Tensor) {
    tap.see(|| name.to_string(), || x.clone());
}
