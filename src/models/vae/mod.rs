//! The Open-Sora VAE v1.2: an autoencoder of frames around an autoencoder of time.
//! B batch · F, T frames · Tz latent frames · H W pixels · h w latent rows and columns. 17 frames, coded together,
//! are 5 latent frames; 8 × 8 pixels are one latent. Inside, axes are `[images, T, h, w, C]`, channels last.
//! Source: `VideoAutoencoderPipeline` in opensora/models/vae/vae.py at tag v1.2.0.
//!
//! differs: frames go through the spatial part in groups sized by memory, not in fours; frames do not mix there, so
//! nothing changes.

pub mod config;
mod decode;
mod encode;
mod resnet;
pub mod spatial;
pub mod temporal;

use std::path::Path;
use std::sync::{Arc, OnceLock};

pub use config::Config;
pub use decode::{Decoding, Frames, Take};
pub use encode::{Encoded, Noise};

use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::Tap;
use crate::ops;
use crate::tensor::{Checkpoint, Tensor, Weights};

/// Spatial latents are stored times this. Not the 0.13025 that SDXL's own config names.
const SCALING_FACTOR: f32 = 0.18215;
/// Where a checkpoint keeps the autoencoder of single frames …
pub const SPATIAL: &str = "spatial_vae.module";
/// … and that of time.
const TEMPORAL: &str = "temporal_vae";
/// Tensors of the published checkpoint that nobody reads: none.
pub const UNUSED: [&str; 0] = [];
/// The largest activation a group of more than one frame may have, in bytes.
const GROUP_BYTES: usize = 64 << 20;
/// Most frames that go through the spatial part together.
const GROUP_FRAMES: usize = 17;

/// Both halves of the Open-Sora VAE; each is loaded when first needed.
pub struct OpenSoraVae {
    weights: Weights,
    config: Config,
    scales: Scales,
    decoder: OnceLock<Decoder>,
    encoder: OnceLock<Encoder>,
}

/// Latents to pixels, in two stages.
pub struct Decoder {
    /// Latents to the spatial latents of every frame.
    pub temporal: temporal::Decoder,
    /// Spatial latents to pixels, frame by frame.
    pub spatial: spatial::Decoder,
}

/// Pixels to latents, in two stages.
pub struct Encoder {
    /// Pixels to spatial latents, frame by frame.
    pub spatial: spatial::Encoder,
    /// Spatial latents to latents.
    pub temporal: temporal::Encoder,
}

/// The four changes of scale, each `[C, 2]`: factor and offset of every channel.
struct Scales {
    denormalize: Tensor,
    normalize: Tensor,
    into_spatial: Tensor,
    out_of_spatial: Tensor,
}

impl OpenSoraVae {
    /// Reads the config of a folder and opens its checkpoint. Nothing is put on the device yet. `spatial` is the folder of
    /// the autoencoder of single frames, where it is stored apart as diffusers does.
    ///
    /// # Errors
    /// [`crate::Error::Io`] or [`crate::Error::Checkpoint`] if either cannot be read or is wrong, or if both folders hold
    /// the same tensors.
    pub fn open(gpu: &Gpu, folder: &Path, spatial: Option<&Path>) -> Result<Self> {
        let config = Config::read(folder, spatial)?;
        let mut checkpoint = Checkpoint::open(folder)?;
        if let Some(spatial) = spatial {
            checkpoint = checkpoint.with(SPATIAL, Checkpoint::open(spatial)?)?;
        }
        let weights = Weights::new(gpu, Arc::new(checkpoint), "is this the Open-Sora VAE v1.2?");
        let vae = Self::from_weights(weights, config)?;
        vae.tell_unasked();
        Ok(vae)
    }

    /// Logs what neither half reads.
    fn tell_unasked(&self) {
        if log::log_enabled!(log::Level::Debug) {
            let dry = self.weights.dry();
            // what is wrong with a half is said when it is needed
            let _ = (self.load_decoder(&dry), self.load_encoder(&dry));
            dry.tell_unasked(&UNUSED);
        }
    }

    /// The model over a checkpoint that is open already.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if its scale or shift is wrong.
    pub fn from_weights(weights: Weights, config: Config) -> Result<Self> {
        let scales = Scales::load(&weights, &config)?;
        Ok(Self { weights, config, scales, decoder: OnceLock::new(), encoder: OnceLock::new() })
    }

    /// Its sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The decoder, loaded now if it was not yet.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn decoder(&self) -> Result<&Decoder> {
        if self.decoder.get().is_none() {
            // a loser of a race drops its copy
            let _ = self.decoder.set(self.load_decoder(&self.weights)?);
        }
        Ok(self.decoder.get().expect("set above"))
    }

    /// The encoder, loaded now if it was not yet.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn encoder(&self) -> Result<&Encoder> {
        if self.encoder.get().is_none() {
            let _ = self.encoder.set(self.load_encoder(&self.weights)?);
        }
        Ok(self.encoder.get().expect("set above"))
    }

    fn load_decoder(&self, w: &Weights) -> Result<Decoder> {
        Ok(Decoder {
            temporal: temporal::Decoder::load(&w.at(TEMPORAL), &self.config.temporal)?,
            spatial: spatial::Decoder::load(&w.at(SPATIAL), &self.config.spatial)?,
        })
    }

    fn load_encoder(&self, w: &Weights) -> Result<Encoder> {
        Ok(Encoder {
            spatial: spatial::Encoder::load(&w.at(SPATIAL), &self.config.spatial)?,
            temporal: temporal::Encoder::load(&w.at(TEMPORAL), &self.config.temporal)?,
        })
    }

    /// Latent frames, rows and columns of so many frames of pixels.
    pub fn latent_size(&self, frames: usize, height: usize, width: usize) -> [usize; 3] {
        self.config.latent_size([frames, height, width])
    }

    /// The device it is on.
    pub fn gpu(&self) -> &Gpu {
        self.weights.gpu()
    }

    /// How many frames of so many latents may go through the spatial part together.
    fn frames_together(&self, latents: usize) -> usize {
        let largest = self.config.spatial.largest_activation(latents);
        let room = GROUP_BYTES.min(self.gpu().largest_tensor() as usize);
        (room / (4 * largest.max(1))).clamp(1, GROUP_FRAMES)
    }
}

impl Scales {
    fn load(w: &Weights, c: &Config) -> Result<Self> {
        let channels = c.temporal.embed_dim;
        let stored = |name: &str, else_: &[f32]| {
            if w.has(name) { w.host(name, [1, channels, 1, 1, 1]) } else { Ok(else_.to_vec()) }
        };
        let (scale, shift) = (stored("scale", &c.scale)?, stored("shift", &c.shift)?);
        let table = |pairs: Vec<[f32; 2]>| w.gpu().upload(pairs.as_flattened(), [pairs.len(), 2]);
        let both = || scale.iter().zip(&shift);
        Ok(Self {
            denormalize: table(both().map(|(&by, &to)| [by, to]).collect()),
            normalize: table(both().map(|(&by, &to)| [1.0 / by, -to / by]).collect()),
            into_spatial: table(vec![[1.0 / SCALING_FACTOR, 0.0]; c.spatial.latent_channels]),
            out_of_spatial: table(vec![[SCALING_FACTOR, 0.0]; c.spatial.latent_channels]),
        })
    }
}

/// Some frames of one sample of x `[B, T, h, w, C]`: `[1, count, h, w, C]`.
fn stretch(x: &Tensor, sample: usize, from: usize, count: usize) -> Tensor {
    let [_, _, h, w, c] = x.sizes();
    ops::window(x, &[-(sample as isize), -(from as isize), 0, 0, 0], &[1, count, h, w, c])
}

/// Shows a value to whoever looks.
fn see(tap: &mut Tap<'_>, name: impl std::fmt::Display, x: &Tensor) {
    tap.see(|| name.to_string(), || x.clone());
}
