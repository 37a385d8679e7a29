//! Sizes of a Latte checkpoint.

use std::path::Path;

use serde::{Deserialize, Deserializer};

use crate::cache::{Axis, Branch, Part};
use crate::error::{Error, Result};

/// The fields of `transformer/config.json` that decide the network. A field may be missing: then it is that of Latte-1.
/// Source: `LatteTransformer3DModel` in src/diffusers/models/transformers/latte_transformer_3d.py of diffusers at
/// tag v0.30.0.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Channels of a head; heads · this is the width C of a token.
    pub attention_head_dim: usize,
    /// Spatial blocks, and as many temporal ones.
    pub num_layers: usize,
    /// Latent channels.
    pub in_channels: usize,
    /// Channels of the output: predicted noise, then its variance.
    pub out_channels: usize,
    /// Latent rows and columns of a token.
    pub patch_size: usize,
    /// Side of the latent at which positions are whole numbers (a list's first number where it is a list).
    #[serde(deserialize_with = "side")]
    pub sample_size: usize,
    /// Latent frames, T.
    pub video_length: usize,
    /// Width of the text encoder's output.
    pub caption_channels: usize,
    /// Width of a projected caption; must be C.
    pub cross_attention_dim: usize,
    /// Whether queries, keys and values have a bias.
    pub attention_bias: bool,
    /// Must be `gelu-approximate`.
    pub activation_fn: String,
    /// Must be `ada_norm_single`.
    pub norm_type: String,
    /// Must be false.
    pub norm_elementwise_affine: bool,
    /// ε of the blocks' norms.
    pub norm_eps: f64,
    /// How frames are numbered: not in the file, but what tells the networks of this family apart.
    #[serde(skip)]
    pub frames: FramePositions,
}

/// How the positions of frames are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FramePositions {
    /// Frames are numbered in steps of 1 / this.
    pub scale: f64,
    /// Whether a single frame gets a position as well.
    pub for_one_frame: bool,
}

impl Default for FramePositions {
    fn default() -> Self {
        Self { scale: 1.0, for_one_frame: false }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::latte_1()
    }
}

impl Config {
    /// The published Latte-1.
    pub fn latte_1() -> Self {
        Self {
            num_attention_heads: 16,
            attention_head_dim: 72,
            num_layers: 28,
            in_channels: 4,
            out_channels: 8,
            patch_size: 2,
            sample_size: 64,
            video_length: 16,
            caption_channels: 4096,
            cross_attention_dim: 1152,
            attention_bias: true,
            activation_fn: "gelu-approximate".into(),
            norm_type: "ada_norm_single".into(),
            norm_elementwise_affine: false,
            norm_eps: 1e-6,
            frames: FramePositions::default(),
        }
    }

    /// Reads and checks `config.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Checkpoint`] naming the field that is wrong.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::parse(&folder.join("config.json"))
    }

    /// Reads and checks a file of this form.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn parse(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let config: Self =
            serde_json::from_str(&text).map_err(|e| Error::checkpoint(path, format!("is no Latte config: {e}")))?;
        config.check().map_err(|problem| Error::checkpoint(path, problem))?;
        Ok(config)
    }

    /// Width of a token, C.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// The branches of a pair of blocks and the operations of their products over `[B, T, S]` tokens; temporal blocks
    /// read no text. What is made once a prompt, and the keys of a caption of unknown length, are not counted.
    pub fn pair(&self, [batch, frames, patches]: [usize; 3]) -> Vec<Part> {
        let (tokens, c) = ((batch * frames * patches) as f64, self.width() as f64);
        let product = |from: f64, to: f64| 2.0 * tokens * from * to;
        let attention = |keys: usize| product(c, 4.0 * c) + product(c, 2.0 * keys as f64);
        let part = |axis, branch, flops| Part { axis, branch, flops };
        vec![
            part(Axis::Spatial, Branch::SelfAttn, attention(patches)),
            part(Axis::Spatial, Branch::Cross, product(c, 2.0 * c)),
            part(Axis::Spatial, Branch::Mlp, product(c, 8.0 * c)),
            part(Axis::Temporal, Branch::SelfAttn, attention(frames)),
            part(Axis::Temporal, Branch::Mlp, product(c, 8.0 * c)),
        ]
    }

    /// What is wrong with it, if anything is.
    pub(in crate::models) fn check(&self) -> std::result::Result<(), String> {
        let within = |name: &str, value: usize, most: usize| match value {
            v if (1..=most).contains(&v) => Ok(()),
            v => Err(format!("{name} is {v}, expected 1 to {most}")),
        };
        within("num_attention_heads", self.num_attention_heads, 1024)?;
        within("attention_head_dim", self.attention_head_dim, 1024)?;
        within("num_layers", self.num_layers, 1024)?;
        within("in_channels", self.in_channels, 1024)?;
        within("out_channels", self.out_channels, 1024)?;
        within("patch_size", self.patch_size, 64)?;
        within("sample_size", self.sample_size, 1 << 16)?;
        within("video_length", self.video_length, 1 << 16)?;
        within("caption_channels", self.caption_channels, 1 << 16)?;
        let c = self.width();
        let must = |holds: bool, problem: String| if holds { Ok(()) } else { Err(problem) };
        must(c.is_multiple_of(4), format!("the width is {c}, expected a multiple of 4 (two sinusoids for each axis)"))?;
        must(
            self.cross_attention_dim == c,
            format!("cross_attention_dim is {}, but captions are projected to {c}", self.cross_attention_dim),
        )?;
        must(
            self.sample_size >= self.patch_size,
            format!("sample_size {} is below patch_size {}", self.sample_size, self.patch_size),
        )?;
        must(
            self.activation_fn == "gelu-approximate",
            format!("activation_fn is {:?}, only \"gelu-approximate\" is supported", self.activation_fn),
        )?;
        must(
            self.norm_type == "ada_norm_single",
            format!("norm_type is {:?}, only \"ada_norm_single\" is supported", self.norm_type),
        )?;
        must(!self.norm_elementwise_affine, "norm_elementwise_affine is true: not supported".into())?;
        must(
            self.norm_eps.is_finite() && self.norm_eps > 0.0,
            format!("norm_eps is {}, expected a small positive number", self.norm_eps),
        )
    }
}

/// A side, or the first of a list of sides.
fn side<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Sides {
        One(usize),
        Many(Vec<usize>),
    }
    match Sides::deserialize(from)? {
        Sides::One(side) => Ok(side),
        Sides::Many(sides) => {
            sides.first().copied().ok_or_else(|| serde::de::Error::custom("sample_size is an empty list"))
        }
    }
}
