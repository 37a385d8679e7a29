//! Sizes of an STDiT3 checkpoint.

use std::path::Path;

use crate::cache::{Axis, Branch, Part};
use crate::error::{Error, Result};

/// The fields of `config.json` that decide the network. A field may be missing: then it is that of STDiT3-XL/2.
/// Source: `STDiT3Config` in opensora/models/stdit/stdit3.py at tag v1.2.0.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct Config {
    /// Channels of a token, C.
    pub hidden_size: usize,
    /// Spatial blocks, and as many temporal ones.
    pub depth: usize,
    /// Attention heads; C / heads is the head dimension.
    pub num_heads: usize,
    /// Width of the MLP in units of C.
    pub mlp_ratio: f64,
    /// Latent channels.
    pub in_channels: usize,
    /// Latent frames, rows and columns of a token.
    pub patch_size: [usize; 3],
    /// Width of the text encoder's output.
    pub caption_channels: usize,
    /// Longest caption in tokens.
    pub model_max_length: usize,
    /// Side in pixels at which positions have unit spacing.
    pub input_sq_size: usize,
    /// Whether the output holds a second, unused half.
    pub pred_sigma: bool,
    /// Whether queries and keys are normalised.
    pub qk_norm: bool,
    /// Captions arrive projected and packed. Not supported.
    pub skip_y_embedder: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self::xl_2()
    }
}

impl Config {
    /// STDiT3-XL/2, the published Open-Sora v1.2 checkpoint.
    pub fn xl_2() -> Self {
        Self {
            hidden_size: 1152,
            depth: 28,
            num_heads: 16,
            mlp_ratio: 4.0,
            in_channels: 4,
            patch_size: [1, 2, 2],
            caption_channels: 4096,
            model_max_length: 300,
            input_sq_size: 512,
            pred_sigma: true,
            qk_norm: true,
            skip_y_embedder: false,
        }
    }

    /// Reads and checks `config.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Checkpoint`] naming the field that is wrong.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let config: Self =
            serde_json::from_str(&text).map_err(|e| Error::checkpoint(&path, format!("is no STDiT3 config: {e}")))?;
        config.check().map_err(|problem| Error::checkpoint(&path, problem))?;
        Ok(config)
    }

    /// Channels of the output: velocity, and with `pred_sigma` as many unused ones.
    pub fn out_channels(&self) -> usize {
        self.in_channels * if self.pred_sigma { 2 } else { 1 }
    }

    /// Numbers of one channel in a patch.
    pub fn patch(&self) -> usize {
        self.patch_size.iter().product()
    }

    /// Width of the MLP.
    pub fn mlp_width(&self) -> usize {
        (self.hidden_size as f64 * self.mlp_ratio) as usize
    }

    /// The branches of a pair of blocks and the operations of their products over `[B, T, S]` tokens. What is made once
    /// a prompt, and the keys of a caption of unknown length, are not counted.
    pub fn pair(&self, [batch, frames, patches]: [usize; 3]) -> Vec<Part> {
        let (tokens, c) = ((batch * frames * patches) as f64, self.hidden_size as f64);
        let product = |from: f64, to: f64| 2.0 * tokens * from * to;
        let of = |axis: Axis| {
            let keys = if axis == Axis::Spatial { patches } else { frames } as f64;
            let flops = [
                (Branch::SelfAttn, product(c, 4.0 * c) + product(c, 2.0 * keys)),
                (Branch::Cross, product(c, 2.0 * c)),
                (Branch::Mlp, product(c, 2.0 * self.mlp_width() as f64)),
            ];
            flops.map(|(branch, flops)| Part { axis, branch, flops })
        };
        [of(Axis::Spatial), of(Axis::Temporal)].concat()
    }

    fn check(&self) -> std::result::Result<(), String> {
        let within = |name: &str, value: usize, most: usize| match value {
            v if (1..=most).contains(&v) => Ok(()),
            v => Err(format!("{name} is {v}, expected 1 to {most}")),
        };
        within("hidden_size", self.hidden_size, 1 << 16)?;
        within("depth", self.depth, 1024)?;
        within("num_heads", self.num_heads, 1024)?;
        within("in_channels", self.in_channels, 1024)?;
        within("caption_channels", self.caption_channels, 1 << 16)?;
        within("model_max_length", self.model_max_length, 1 << 16)?;
        within("input_sq_size", self.input_sq_size, 1 << 16)?;
        self.patch_size.iter().try_for_each(|&p| within("patch_size", p, 64))?;
        let c = self.hidden_size;
        if !c.is_multiple_of(4) {
            return Err(format!("hidden_size is {c}, expected a multiple of 4 (two sinusoids for each axis)"));
        }
        if !c.is_multiple_of(self.num_heads) || !(c / self.num_heads).is_multiple_of(2) {
            return Err(format!("hidden_size {c} does not divide into {} heads of even size", self.num_heads));
        }
        if !(self.mlp_ratio.is_finite() && (0.01..=64.0).contains(&self.mlp_ratio)) || self.mlp_width() == 0 {
            return Err(format!("mlp_ratio is {}, expected 0.01 to 64", self.mlp_ratio));
        }
        if self.skip_y_embedder {
            return Err("skip_y_embedder is true: checkpoints without a caption projection are not supported".into());
        }
        Ok(())
    }
}
