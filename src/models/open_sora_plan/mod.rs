//! Open-Sora-Plan v1.1's denoiser: the network of [`super::latte`], with frames numbered on another scale, a list for
//! `sample_size`, and masks over text and latent ([`latte::Grid::seen`](super::latte::Grid::seen)).
//!
//! Source: opensora/models/diffusion/latte/modeling_latte.py at tag v1.1.0.

use std::path::Path;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::models::latte::{self, FramePositions, Latte};

/// The fields of `config.json`: those of Latte and a few more. A field may be missing: then it is that of Latte-1, or of
/// the published model for 65 frames where Latte has no such field.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct Config {
    /// What it shares with Latte.
    #[serde(flatten)]
    pub network: latte::Config,
    /// Latent frames of a token; must be 1.
    pub patch_size_t: usize,
    /// Longest caption in tokens.
    pub model_max_length: usize,
    /// Must be false.
    pub use_rope: bool,
    /// Must be 1.
    pub compress_kv_factor: usize,
    /// Frames are numbered in steps of 1 / this; `None` = by the number of frames.
    pub interpolation_scale_1d: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self::v1_1(65)
    }
}

impl Config {
    /// The published model for videos of `frames` frames of 512×512: 65 or 221.
    pub fn v1_1(frames: usize) -> Self {
        let network = latte::Config { video_length: latent_frames(frames), ..latte::Config::latte_1() };
        Self {
            network,
            patch_size_t: 1,
            model_max_length: 300,
            use_rope: false,
            compress_kv_factor: 1,
            interpolation_scale_1d: None,
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
        let config: Self = serde_json::from_str(&text)
            .map_err(|e| Error::checkpoint(path, format!("is no Open-Sora-Plan config: {e}")))?;
        config.check().map_err(|problem| Error::checkpoint(path, problem))?;
        Ok(config)
    }

    /// The network it describes.
    pub fn network(&self) -> latte::Config {
        let length = self.network.video_length;
        // whole multiples of 16 frames, a first frame of its own not counted
        let scale = ((length - (length % 2).min(length - 1)) / 16).max(1) as f64;
        let frames = FramePositions { scale: self.interpolation_scale_1d.unwrap_or(scale), for_one_frame: true };
        latte::Config { frames, ..self.network.clone() }
    }

    fn check(&self) -> std::result::Result<(), String> {
        self.network.check()?;
        let must = |holds: bool, problem: String| if holds { Ok(()) } else { Err(problem) };
        must(self.patch_size_t == 1, format!("patch_size_t is {}, only 1 is supported", self.patch_size_t))?;
        must(!self.use_rope, "use_rope is true: rotary positions are not supported".into())?;
        must(
            self.compress_kv_factor == 1,
            format!("compress_kv_factor is {}, only 1 is supported", self.compress_kv_factor),
        )?;
        must(
            self.interpolation_scale_1d.is_none_or(|s| s.is_finite() && s > 0.0),
            format!("interpolation_scale_1d is {:?}, expected a positive number", self.interpolation_scale_1d),
        )
    }
}

/// Loads the folder of a checkpoint: `config.json` and its safetensors.
///
/// # Errors
/// [`Error::Checkpoint`] naming the field or tensor that is wrong; [`Error::Io`].
pub fn load(gpu: &Gpu, folder: &Path) -> Result<Latte> {
    Latte::load_as(gpu, folder, Config::read(folder)?.network())
}

/// Latent frames of a video: the first frame is one of its own where the count is odd.
pub fn latent_frames(frames: usize) -> usize {
    if frames % 2 == 1 { (frames - 1).div_ceil(4) + 1 } else { frames.div_ceil(4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_published_and_refused_configs() {
        assert_eq!([65, 221, 513, 1, 64].map(latent_frames), [17, 56, 129, 1, 16]);
        let scale = |length: usize| {
            let network = latte::Config { video_length: length, ..latte::Config::latte_1() };
            Config { network, ..Config::v1_1(65) }.network().frames.scale
        };
        assert_eq!([17, 56, 129, 1, 5, 16].map(scale), [1.0, 3.0, 8.0, 1.0, 1.0, 1.0]);
        let refused = [
            r#"{"use_rope": true}"#,
            r#"{"compress_kv_factor": 2}"#,
            r#"{"patch_size_t": 2}"#,
            r#"{"interpolation_scale_1d": 0}"#,
            r#"{"norm_type": "layer_norm"}"#,
            r#"{"activation_fn": "geglu"}"#,
            r#"{"norm_elementwise_affine": true}"#,
            r#"{"cross_attention_dim": 1024}"#,
        ];
        for text in refused {
            let config: Config = serde_json::from_str(text).unwrap();
            let field = text.split('"').nth(1).unwrap();
            assert!(config.check().is_err_and(|problem| problem.contains(field)), "{text}");
        }
        assert_eq!(Config::v1_1(65).check(), Ok(()));
        let config: Config = serde_json::from_str(r#"{"sample_size": [128, 64], "video_length": 57}"#).unwrap();
        assert_eq!((config.network.sample_size, config.network().frames.scale), (128, 3.0));
    }
}
