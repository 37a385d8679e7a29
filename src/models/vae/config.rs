//! Sizes of an Open-Sora VAE checkpoint.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// Both autoencoders of a checkpoint and how they are joined.
/// Source: `OpenSoraVAE_V1_2` in opensora/models/vae/vae.py at tag v1.2.0.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The autoencoder of single frames.
    pub spatial: Spatial,
    /// The autoencoder along time.
    pub temporal: Temporal,
    /// Pixel frames that are coded together; `None`: all of them.
    pub micro_frame_size: Option<usize>,
    /// By channel: decoding starts at `z · scale + shift`.
    pub scale: Vec<f32>,
    /// See `scale`.
    pub shift: Vec<f32>,
}

/// The autoencoder of single frames, as diffusers writes its `config.json`. A field may be missing: then it is that
/// of SDXL's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Spatial {
    /// Channels of the pixels that go in.
    pub in_channels: usize,
    /// Channels of the pixels that come out.
    pub out_channels: usize,
    /// Channels of its latents.
    pub latent_channels: usize,
    /// Width at each resolution, the largest first; each next one has half the rows and columns.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks at each resolution of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of every norm.
    pub norm_num_groups: usize,
    /// The activation.
    pub act_fn: String,
}

impl Default for Spatial {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            norm_num_groups: 32,
            act_fn: "silu".into(),
        }
    }
}

/// The autoencoder along time. A field may be missing: then it is that of `VAE_Temporal_SD`.
/// Source: opensora/models/vae/vae_temporal.py at tag v1.2.0.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Temporal {
    /// Channels of the spatial latents that go in and come out.
    pub in_out_channels: usize,
    /// Channels between encoder or decoder and the pointwise convolutions around the latents.
    pub latent_embed_dim: usize,
    /// Channels of the latents.
    pub embed_dim: usize,
    /// Unit of the widths.
    pub filters: usize,
    /// Residual blocks of each level, and of the middle.
    pub num_res_blocks: usize,
    /// Width of each level in units of `filters`.
    pub channel_multipliers: Vec<usize>,
    /// Whether time halves after each level but the last.
    pub temporal_downsample: Vec<bool>,
    /// Groups of every norm.
    pub num_groups: usize,
    /// The activation.
    pub activation_fn: String,
}

impl Default for Temporal {
    fn default() -> Self {
        Self {
            in_out_channels: 4,
            latent_embed_dim: 4,
            embed_dim: 4,
            filters: 128,
            num_res_blocks: 4,
            channel_multipliers: vec![1, 2, 2, 4],
            temporal_downsample: vec![false, true, true],
            num_groups: 32,
            activation_fn: "swish".into(),
        }
    }
}

/// Scale and shift of the published checkpoint, used where neither it nor its config say otherwise.
const SCALE: [f32; 4] = [3.85, 2.32, 2.33, 3.06];
const SHIFT: [f32; 4] = [-0.10, 0.34, 0.27, 0.98];

impl Default for Config {
    fn default() -> Self {
        Self {
            spatial: Spatial::default(),
            temporal: Temporal::default(),
            micro_frame_size: Some(17),
            scale: SCALE.into(),
            shift: SHIFT.into(),
        }
    }
}

impl Config {
    /// Reads and checks `config.json` of a model folder, and the spatial part's own config: that of `spatial`, its folder
    /// if it is stored apart, else where the model folder has it.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Checkpoint`] naming the field that is wrong.
    pub fn read(folder: &Path, spatial: Option<&Path>) -> Result<Self> {
        let path = folder.join("config.json");
        let top = json(&path)?;
        let wrong = |problem: String| Error::checkpoint(&path, problem);
        match top.get("model_type").and_then(Value::as_str) {
            Some("VideoAutoencoderPipeline") => {}
            Some(other) => return Err(wrong(format!("model_type is `{other}`, expected `VideoAutoencoderPipeline`"))),
            None => return Err(wrong("has no model_type, expected `VideoAutoencoderPipeline`".into())),
        }
        let mut config = Self::default();
        if let Some(frames) = top.get("micro_frame_size") {
            config.micro_frame_size = parse(frames, &path, "micro_frame_size")?;
        }
        if let Some(scale) = top.get("scale") {
            config.scale = parse(scale, &path, "scale")?;
        }
        if let Some(shift) = top.get("shift") {
            config.shift = parse(shift, &path, "shift")?;
        }
        if let Some(part) = top.get("vae_temporal") {
            let kind = part.get("type").and_then(Value::as_str).unwrap_or("VAE_Temporal_SD");
            match kind {
                "VAE_Temporal_SD" => {}
                "VAE_Temporal" => {
                    for field in SIZES {
                        part.get(field)
                            .ok_or_else(|| wrong(format!("vae_temporal has no {field}, and is no VAE_Temporal_SD")))?;
                    }
                }
                other => {
                    return Err(wrong(format!(
                        "vae_temporal.type is `{other}`; supported are `VAE_Temporal_SD` and `VAE_Temporal`"
                    )));
                }
            }
            config.temporal = parse(part, &path, "vae_temporal")?;
        }
        let kind = top.pointer("/vae_2d/type").and_then(Value::as_str).unwrap_or(SPATIAL_TYPE);
        if kind != SPATIAL_TYPE {
            return Err(wrong(format!("vae_2d.type is `{kind}`; supported is `{SPATIAL_TYPE}`")));
        }
        config.check().map_err(&wrong)?;
        let own = spatial.map(|s| s.join("config.json")).filter(|p| p.is_file());
        if let Some(path) = own.or_else(|| spatial_file(folder, &top)) {
            config.spatial = parse(&json(&path)?, &path, "the config")?;
            config.spatial.check().map_err(|problem| Error::checkpoint(&path, problem))?;
        }
        if config.temporal.in_out_channels != config.spatial.latent_channels {
            return Err(wrong(format!(
                "vae_temporal.in_out_channels is {}, but vae_2d has {} latent_channels",
                config.temporal.in_out_channels, config.spatial.latent_channels
            )));
        }
        Ok(config)
    }

    /// Latent frames, rows and columns of a video; pixels beyond a multiple of the space factor are left out.
    pub fn latent_size(&self, [frames, height, width]: [usize; 3]) -> [usize; 3] {
        let (time, space) = (self.temporal.factor(), self.spatial.factor());
        let latents = match self.micro_frame_size {
            Some(micro) => frames / micro * micro.div_ceil(time) + (frames % micro).div_ceil(time),
            None => frames.div_ceil(time),
        };
        [latents, height / space, width / space]
    }

    /// The pieces a video of so many frames is coded in, each for itself.
    pub(super) fn chunks(&self, frames: usize) -> Vec<Chunk> {
        let time = self.temporal.factor();
        let micro = self.micro_frame_size.unwrap_or(frames).max(1);
        let mut latent = 0;
        (0..frames)
            .step_by(micro)
            .map(|frame| {
                let count = micro.min(frames - frame);
                let chunk = Chunk { frame, frames: count, latent, latents: count.div_ceil(time) };
                latent += chunk.latents;
                chunk
            })
            .collect()
    }

    fn check(&self) -> std::result::Result<(), String> {
        self.temporal.check()?;
        if let Some(frames) = self.micro_frame_size {
            within("micro_frame_size", frames, 1 << 16)?;
        }
        for (name, numbers) in [("scale", &self.scale), ("shift", &self.shift)] {
            if numbers.len() != self.temporal.embed_dim {
                return Err(format!(
                    "{name} has {} numbers for {} latent channels",
                    numbers.len(),
                    self.temporal.embed_dim
                ));
            }
        }
        if !self.scale.iter().chain(&self.shift).all(|v| v.is_finite()) || self.scale.contains(&0.0) {
            return Err("scale and shift must be finite numbers, and no scale 0".into());
        }
        Ok(())
    }
}

/// Some frames coded together. In front of them are as many empty ones as fill the last latent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub frame: usize,
    pub frames: usize,
    pub latent: usize,
    pub latents: usize,
}

const SPATIAL_TYPE: &str = "VideoAutoencoderKL";
/// What a `VAE_Temporal` must say about itself.
const SIZES: [&str; 5] = ["filters", "num_res_blocks", "channel_multipliers", "temporal_downsample", "num_groups"];

impl Spatial {
    /// Rows (and columns) of pixels for one of latents.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Numbers in the largest tensor of one frame of so many latents.
    pub fn largest_activation(&self, latents: usize) -> usize {
        let widths = &self.block_out_channels;
        let largest = (0..widths.len()).map(|level| {
            // behind the upsampler the next smaller resolution's width is still there
            let width = widths[level].max(*widths.get(level + 1).unwrap_or(&0));
            (width * latents) << (2 * (widths.len() - 1 - level))
        });
        largest.max().unwrap_or(0)
    }

    fn check(&self) -> std::result::Result<(), String> {
        within("in_channels", self.in_channels, 64)?;
        within("out_channels", self.out_channels, 64)?;
        within("latent_channels", self.latent_channels, 1024)?;
        within("layers_per_block", self.layers_per_block, 64)?;
        within("levels of block_out_channels", self.block_out_channels.len(), 8)?;
        for &width in &self.block_out_channels {
            grouped("block_out_channels", width, "norm_num_groups", self.norm_num_groups)?;
        }
        activation("act_fn", &self.act_fn)
    }
}

impl Temporal {
    /// Frames for one of latents.
    pub fn factor(&self) -> usize {
        1 << self.temporal_downsample.iter().filter(|&&halves| halves).count()
    }

    /// Width of each level.
    pub(super) fn widths(&self) -> Vec<usize> {
        self.channel_multipliers.iter().map(|m| m * self.filters).collect()
    }

    fn check(&self) -> std::result::Result<(), String> {
        within("vae_temporal.in_out_channels", self.in_out_channels, 1024)?;
        within("vae_temporal.latent_embed_dim", self.latent_embed_dim, 1024)?;
        within("vae_temporal.embed_dim", self.embed_dim, 1024)?;
        within("vae_temporal.filters", self.filters, 1 << 14)?;
        within("vae_temporal.num_res_blocks", self.num_res_blocks, 64)?;
        let levels = self.channel_multipliers.len();
        within("levels of vae_temporal.channel_multipliers", levels, 8)?;
        for &m in &self.channel_multipliers {
            within("vae_temporal.channel_multipliers", m, 1 << 10)?;
            grouped("vae_temporal.channel_multipliers · filters", m * self.filters, "num_groups", self.num_groups)?;
        }
        grouped("vae_temporal.filters", self.filters, "num_groups", self.num_groups)?;
        if self.temporal_downsample.len() + 1 != levels {
            let have = self.temporal_downsample.len();
            return Err(format!(
                "vae_temporal.temporal_downsample has {have} entries for {levels} levels, expected one less"
            ));
        }
        activation("vae_temporal.activation_fn", &self.activation_fn)
    }
}

fn within(name: &str, value: usize, most: usize) -> std::result::Result<(), String> {
    if (1..=most).contains(&value) { Ok(()) } else { Err(format!("{name} is {value}, expected 1 to {most}")) }
}

fn grouped(name: &str, width: usize, by: &str, groups: usize) -> std::result::Result<(), String> {
    within(name, width, 1 << 16)?;
    within(by, groups, 1 << 10)?;
    if width.is_multiple_of(groups) {
        Ok(())
    } else {
        Err(format!("{name} has {width}, which {by} {groups} does not divide"))
    }
}

fn activation(name: &str, kind: &str) -> std::result::Result<(), String> {
    if ["silu", "swish"].contains(&kind) { Ok(()) } else { Err(format!("{name} is `{kind}`; supported is `silu`")) }
}

fn json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| Error::checkpoint(path, format!("is no JSON: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(Error::checkpoint(path, "is no JSON object")) }
}

fn parse<T: serde::de::DeserializeOwned>(value: &Value, path: &Path, field: &str) -> Result<T> {
    T::deserialize(value).map_err(|e| Error::checkpoint(path, format!("{field}: {e}")))
}

/// The spatial part's own config, if the folder holds it; the published checkpoint does not, it is SDXL's.
fn spatial_file(folder: &Path, top: &Value) -> Option<PathBuf> {
    let named = top.pointer("/vae_2d/subfolder").and_then(Value::as_str);
    let plain = named.filter(|n| !n.is_empty() && !n.contains(['/', '\\']) && *n != "..");
    [plain, Some("vae_2d"), Some("vae")]
        .into_iter()
        .flatten()
        .map(|n| folder.join(n).join("config.json"))
        .find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latent_frames() {
        let config = Config::default();
        for (frames, latents) in
            [(1, 1), (8, 2), (17, 5), (20, 6), (34, 10), (51, 15), (102, 30), (204, 60), (408, 120)]
        {
            assert_eq!(config.latent_size([frames, 480, 854]), [latents, 60, 106]);
            let chunks = config.chunks(frames);
            assert_eq!(chunks.iter().map(|c| c.frames).sum::<usize>(), frames);
            assert_eq!(chunks.iter().map(|c| c.latents).sum::<usize>(), latents);
            assert!(chunks.iter().all(|c| c.latent == c.frame / 17 * 5));
        }
    }

    /// A folder with the published config, `field` replaced, read.
    fn with(field: &str, value: Value) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let mut top = serde_json::json!({
            "model_type": "VideoAutoencoderPipeline",
            "micro_frame_size": 17,
            "scale": SCALE, "shift": SHIFT,
            "vae_2d": {"type": "VideoAutoencoderKL", "subfolder": "vae"},
            "vae_temporal": {"type": "VAE_Temporal_SD", "from_pretrained": null},
            "small": {"type": "VAE_Temporal", "filters": 8, "num_res_blocks": 1, "channel_multipliers": [1, 2],
                "temporal_downsample": [true], "num_groups": 2},
        });
        *top.pointer_mut(field).unwrap() = value;
        if field.starts_with("/small") {
            top["vae_temporal"] = top["small"].clone();
        }
        std::fs::write(folder.path().join("config.json"), top.to_string()).unwrap();
        Config::read(folder.path(), None)
    }

    #[test]
    fn published() {
        assert_eq!(with("/micro_frame_size", 17.into()).unwrap(), Config::default());
        assert_eq!(with("/micro_frame_size", Value::Null).unwrap().latent_size([51, 8, 8]), [13, 1, 1]);
    }

    #[test]
    fn refusals_name_the_field() {
        use serde_json::json;
        for (field, value, told) in [
            ("/micro_frame_size", json!(0), "micro_frame_size is 0"),
            ("/micro_frame_size", json!("many"), "micro_frame_size"),
            ("/scale", json!([1.0, 2.0]), "scale has 2 numbers"),
            ("/scale", json!([1.0, 0.0, 1.0, 1.0]), "no scale 0"),
            ("/model_type", json!("CausalVAEModel"), "CausalVAEModel"),
            ("/vae_temporal/type", json!("VAE_Other"), "VAE_Other"),
            ("/vae_2d/type", json!("Other"), "vae_2d.type"),
            ("/small/filters", json!(7), "num_groups 2"),
            ("/small/filters", json!(1u64 << 40), "filters"),
            ("/small/filters", json!(-8), "vae_temporal"),
            ("/small/num_groups", json!(0), "num_groups is 0"),
            ("/small/temporal_downsample", json!([]), "temporal_downsample has 0 entries"),
            ("/small/channel_multipliers", json!([]), "channel_multipliers is 0"),
        ] {
            let error = with(field, value).unwrap_err();
            assert!(matches!(error, Error::Checkpoint { .. }) && error.to_string().contains(told), "{field}: {error}");
        }
    }
}
