//! The Open-Sora VAE v1.2: an autoencoder of frames around an autoencoder of time.
//! B batch · F, T frames · Tz latent frames · H W pixels · h w latent rows and columns. 17 frames, coded together,
//! are 5 latent frames; 8 × 8 pixels are one latent. Inside, axes are `[images, T, h, w, C]`, channels last.
//! Source: `VideoAutoencoderPipeline` in opensora/models/vae/vae.py at tag v1.2.0.
//!
//! differs: frames go through the spatial part in groups sized by memory, not in fours; frames do not mix there, so
//! nothing changes.

pub mod config;
mod resnet;
pub mod spatial;
pub mod temporal;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, OnceLock};

pub use config::Config;
use config::Chunk;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::Tap;
use crate::ops;
use crate::tensor::{Checkpoint, Tensor, Weights};

/// Spatial latents are stored times this. Not the 0.13025 that SDXL's own config names.
const SCALING_FACTOR: f32 = 0.18215;
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

/// Some finished frames of one sample.
pub struct Frames {
    /// Which sample of the batch.
    pub sample: usize,
    /// The first of these frames in the video.
    pub first: usize,
    /// `[3, frames, H, W]`, nominally in [−1, 1], not clamped.
    pub pixels: Tensor,
}

/// Standard normal numbers for both stages of encoding.
#[derive(Clone, Copy)]
pub struct Noise<'a> {
    /// `[B·T, 4, h, w]`.
    pub spatial: &'a Tensor,
    /// `[B, 4, Tz, h, w]`.
    pub temporal: &'a Tensor,
}

/// A video as latents, with the stages on the way.
pub struct Encoded {
    /// The latents, normalised as the diffusion model sees them: `[B, 4, Tz, h, w]`.
    pub z: Tensor,
    /// Mean, then log variance of every frame's spatial latents: `[B·T, 8, h, w]`.
    pub moments_2d: Tensor,
    /// The scaled spatial latents: `[B, 4, T, h, w]`.
    pub x_z: Tensor,
    /// Mean, then log variance of the latents before they are normalised: `[B, 8, Tz, h, w]`.
    pub moments_t: Tensor,
}

impl OpenSoraVae {
    /// Reads the config of a folder and opens its checkpoint. Nothing is put on the device yet.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Checkpoint`] if either cannot be read or is wrong.
    pub fn open(gpu: &Gpu, folder: &Path) -> Result<Self> {
        let config = Config::read(folder)?;
        let checkpoint = Arc::new(Checkpoint::open(folder)?);
        Self::from_weights(Weights::new(gpu, checkpoint, "is this the Open-Sora VAE v1.2?"), config)
    }

    /// [`OpenSoraVae::open`] with the decoder on the device.
    ///
    /// # Errors
    /// As there, and if a tensor of the decoder is missing or mis-shaped.
    pub fn load_decoder(gpu: &Gpu, folder: &Path) -> Result<Self> {
        let vae = Self::open(gpu, folder)?;
        vae.decoder()?;
        Ok(vae)
    }

    /// [`OpenSoraVae::open`] with the encoder on the device.
    ///
    /// # Errors
    /// As there, and if a tensor of the encoder is missing or mis-shaped.
    pub fn load_encoder(gpu: &Gpu, folder: &Path) -> Result<Self> {
        let vae = Self::open(gpu, folder)?;
        vae.encoder()?;
        Ok(vae)
    }

    /// The model over a checkpoint that is open already.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if its scale or shift is wrong.
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
    /// [`Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn decoder(&self) -> Result<&Decoder> {
        if self.decoder.get().is_none() {
            let w = &self.weights;
            // a loser of a race drops its copy
            let _ = self.decoder.set(Decoder {
                temporal: temporal::Decoder::load(&w.at("temporal_vae"), &self.config.temporal)?,
                spatial: spatial::Decoder::load(&w.at("spatial_vae.module"), &self.config.spatial)?,
            });
        }
        Ok(self.decoder.get().expect("set above"))
    }

    /// The encoder, loaded now if it was not yet.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn encoder(&self) -> Result<&Encoder> {
        if self.encoder.get().is_none() {
            let w = &self.weights;
            let _ = self.encoder.set(Encoder {
                spatial: spatial::Encoder::load(&w.at("spatial_vae.module"), &self.config.spatial)?,
                temporal: temporal::Encoder::load(&w.at("temporal_vae"), &self.config.temporal)?,
            });
        }
        Ok(self.encoder.get().expect("set above"))
    }

    /// Takes the encoder off the device again.
    pub fn unload_encoder(&mut self) {
        self.encoder.take();
    }

    /// Latent frames, rows and columns of so many frames of pixels.
    pub fn latent_size(&self, frames: usize, height: usize, width: usize) -> [usize; 3] {
        self.config.latent_size([frames, height, width])
    }

    /// z: `[B, 4, Tz, h, w]` as the sampler returns it → `[B, 3, num_frames, 8h, 8w]`, nominally in [−1, 1].
    ///
    /// # Errors
    /// [`Error::Request`] if the latents are not those of `num_frames` frames; what [`Gpu::submit`] returns.
    pub fn decode(&self, z: &Tensor, num_frames: usize) -> Result<Tensor> {
        let mut groups = self.decode_frames(z, num_frames)?;
        let mut parts = Vec::new();
        while let Some((_, pixels)) = groups.next_group() {
            parts.push(pixels);
            self.gpu().submit()?;
        }
        let all = ops::join(&parts);
        let [_, _, h, w, c] = all.sizes();
        let video = ops::permute(&all.reshape([z.dims()[0], num_frames, h, w, c]), &[0, 4, 1, 2, 3]);
        self.gpu().submit()?;
        Ok(video)
    }

    /// [`OpenSoraVae::decode`] a few frames at a time, sample by sample and in order, so that a long video never lies in
    /// memory at once. Work is recorded and submitted as the iterator is asked for more; to cancel, stop asking.
    ///
    /// # Errors
    /// As [`OpenSoraVae::decode`]; trouble on the device comes with the next frames.
    pub fn decode_frames(&self, z: &Tensor, num_frames: usize) -> Result<Decoding<'_>> {
        let decoder = self.decoder()?;
        let z = self.denormalized(z, num_frames)?;
        let [batch, _, h, w, _] = z.sizes();
        let together = self.frames_together(h * w);
        let mut groups = VecDeque::new();
        for sample in 0..batch {
            for chunk in self.config.chunks(num_frames) {
                let counts = |from: usize| Group { sample, chunk, from, count: together.min(chunk.frames - from) };
                groups.extend((0..chunk.frames).step_by(together).map(counts));
            }
        }
        Ok(Decoding { vae: self, decoder, z, groups, latents: None })
    }

    /// [`OpenSoraVae::decode`] of one video into host memory: `[3, num_frames, 8h, 8w]`, row-major. `seen` hears how
    /// many frames are done and how many there are, before the first and after every group; where it returns false,
    /// decoding stops.
    ///
    /// # Errors
    /// As [`OpenSoraVae::decode`]; [`Error::Cancelled`] if `seen` said so.
    pub async fn decode_pixels(
        &self,
        z: &Tensor,
        num_frames: usize,
        seen: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Vec<f32>> {
        if z.dims().first() != Some(&1) {
            return Err(Error::request("latents", format!("are {}, expected one sample", z.shape())));
        }
        let mut all = Vec::new();
        let mut go_on = |done| if seen(done, num_frames) { Ok(()) } else { Err(Error::Cancelled) };
        let groups = self.decode_frames(z, num_frames)?;
        go_on(0)?;
        for frames in groups {
            let Frames { first, pixels, .. } = frames?;
            let [channels, count, h, w] = pixels.sizes();
            all.resize(channels * num_frames * h * w, 0.0);
            for (c, plane) in pixels.read().await?.chunks_exact(count * h * w).enumerate() {
                let at = (c * num_frames + first) * h * w;
                all[at..at + plane.len()].copy_from_slice(plane);
            }
            go_on(first + count)?;
        }
        Ok(all)
    }

    /// The first stage alone: z as for [`OpenSoraVae::decode`] → scaled spatial latents `[B, 4, num_frames, h, w]`.
    ///
    /// # Errors
    /// As [`OpenSoraVae::decode`].
    pub fn decode_time(&self, z: &Tensor, num_frames: usize) -> Result<Tensor> {
        let decoder = self.decoder()?;
        let z = self.denormalized(z, num_frames)?;
        let [batch, _, h, w, _] = z.sizes();
        let mut parts = Vec::new();
        for sample in 0..batch {
            for chunk in self.config.chunks(num_frames) {
                parts.push(self.chunk_frames(decoder, &z, sample, chunk));
            }
        }
        let all = ops::join(&parts);
        let c = all.as_rows()[1];
        self.gpu().submit()?;
        Ok(ops::permute(&all.reshape([batch, num_frames, h, w, c]), &[0, 4, 1, 2, 3]))
    }

    fn gpu(&self) -> &Gpu {
        self.weights.gpu()
    }

    /// z `[B, 4, Tz, h, w]` as the sampler returns it → `[B, Tz, h, w, 4]` as the decoder wants it.
    fn denormalized(&self, z: &Tensor, num_frames: usize) -> Result<Tensor> {
        let channels = self.config.temporal.embed_dim;
        let latents = self.latent_size(num_frames, 0, 0)[0];
        let fits = matches!(*z.dims(), [b, c, t, h, w] if c == channels && t == latents && b * t * h * w > 0);
        if !fits {
            return Err(Error::request(
                "latents",
                format!("are {}, expected [samples, {channels}, {latents}, rows, columns] for {num_frames} frames", z.shape()),
            ));
        }
        Ok(ops::affine_channels(&ops::permute(z, &[0, 2, 3, 4, 1]), &self.scales.denormalize, 1))
    }

    /// The spatial latents of one chunk, `[frames, 1, h, w, 4]`: frames that only fill the last latent, which lie in
    /// front, are dropped.
    fn chunk_frames(&self, decoder: &Decoder, z: &Tensor, sample: usize, chunk: Chunk) -> Tensor {
        let z = stretch(z, sample, chunk.latent, chunk.latents);
        let all = decoder.temporal.forward(&z, &mut Tap::Off);
        let [_, made, h, w, c] = all.sizes();
        part(&all.reshape([made, 1, h, w, c]), made - chunk.frames, chunk.frames)
    }

    /// How many frames of so many latents may go through the spatial part together.
    fn frames_together(&self, latents: usize) -> usize {
        let widths = &self.config.spatial.block_out_channels;
        let largest = (0..widths.len()).map(|level| {
            // behind the upsampler the next smaller resolution's width is still there
            let width = widths[level].max(*widths.get(level + 1).unwrap_or(&0));
            width * latents << (2 * (widths.len() - 1 - level))
        });
        (GROUP_BYTES / (4 * largest.max().unwrap_or(1).max(1))).clamp(1, GROUP_FRAMES)
    }

    /// x: `[B, 3, T, H, W]` in [−1, 1] → latents. Without noise both stages give the means.
    ///
    /// # Errors
    /// [`Error::Request`] if the video or the noise has the wrong shape or is smaller than one latent; what
    /// [`Gpu::submit`] returns.
    pub fn encode(&self, x: &Tensor, noise: Option<Noise<'_>>) -> Result<Encoded> {
        let encoder = self.encoder()?;
        let channels = self.config.spatial.in_channels;
        let (batch, frames, [tz, h, w]) = match *x.dims() {
            [b, c, t, height, width] if c == channels => (b, t, self.latent_size(t, height, width)),
            _ => (0, 0, [0; 3]),
        };
        if batch * tz * h * w == 0 {
            let space = self.config.spatial.factor();
            let problem = format!("is {}, expected [samples, {channels}, frames, ≥ {space}, ≥ {space}]", x.shape());
            return Err(Error::request("video to encode", problem));
        }
        let (space_c, time_c) = (self.config.spatial.latent_channels, self.config.temporal.embed_dim);
        if let Some(noise) = noise {
            let (spatial, temporal) = ([batch * frames, space_c, h, w], [batch, time_c, tz, h, w]);
            if noise.spatial.dims() != spatial || noise.temporal.dims() != temporal {
                let have = format!("{} and {}", noise.spatial.shape(), noise.temporal.shape());
                return Err(Error::request("noise", format!("is {have}, expected {spatial:?} and {temporal:?}")));
            }
        }

        let mut parts = Vec::new();
        let together = self.frames_together(h * w);
        for sample in 0..batch {
            for from in (0..frames).step_by(together) {
                let group = frames_last(x, sample, from, together.min(frames - from));
                parts.push(encoder.spatial.forward(&group, &mut Tap::Off));
                self.gpu().submit()?;
            }
        }
        let moments_2d = ops::join(&parts).reshape([batch * frames, h, w, 2 * space_c]);
        let noise_2d = noise.map(|n| ops::permute(n.spatial, &[0, 2, 3, 1]));
        let sampled = sample_of(&moments_2d, noise_2d.as_ref());
        let x_z = ops::affine_channels(&sampled, &self.scales.out_of_spatial, 1).reshape([batch, frames, h, w, space_c]);

        let mut parts = Vec::new();
        for sample in 0..batch {
            for chunk in self.config.chunks(frames) {
                // what fills the last latent is zeros in front, and counts in the statistics of the norms
                let full = chunk.latents * self.config.temporal.factor();
                let own = stretch(&x_z, sample, chunk.frame, chunk.frames);
                let padded = ops::window(&own, &[0, (full - chunk.frames) as isize, 0, 0, 0], &[1, full, h, w, space_c]);
                let moments = encoder.temporal.forward(&padded, &mut Tap::Off);
                parts.push(moments.reshape([chunk.latents, h, w, 2 * time_c]));
                self.gpu().submit()?;
            }
        }
        let moments_t = ops::join(&parts).reshape([batch, tz, h, w, 2 * time_c]);
        let noise_t = noise.map(|n| ops::permute(n.temporal, &[0, 2, 3, 4, 1]));
        let z = ops::affine_channels(&sample_of(&moments_t, noise_t.as_ref()), &self.scales.normalize, 1);
        let channels_first = |x: &Tensor| ops::permute(x, &[0, 4, 1, 2, 3]);
        let encoded = Encoded {
            z: channels_first(&z),
            moments_2d: ops::permute(&moments_2d, &[0, 3, 1, 2]),
            x_z: channels_first(&x_z),
            moments_t: channels_first(&moments_t),
        };
        self.gpu().submit()?;
        Ok(encoded)
    }
}

/// A video being decoded, a few frames at a time.
pub struct Decoding<'a> {
    vae: &'a OpenSoraVae,
    decoder: &'a Decoder,
    z: Tensor,
    groups: VecDeque<Group>,
    /// Spatial latents of the chunk at hand, `[frames, 1, h, w, 4]`.
    latents: Option<Tensor>,
}

/// Frames that go through the spatial part together.
#[derive(Clone, Copy)]
struct Group {
    sample: usize,
    chunk: Chunk,
    from: usize,
    count: usize,
}

impl Decoding<'_> {
    /// Records the next frames: `[frames, 1, H, W, 3]`.
    fn next_group(&mut self) -> Option<(Group, Tensor)> {
        let group = self.groups.pop_front()?;
        if group.from == 0 {
            let latents = self.vae.chunk_frames(self.decoder, &self.z, group.sample, group.chunk);
            self.latents = Some(ops::affine_channels(&latents, &self.vae.scales.into_spatial, 1));
        }
        let own = part(self.latents.as_ref()?, group.from, group.count);
        Some((group, self.decoder.spatial.forward(&own, &mut Tap::Off)))
    }
}

impl Iterator for Decoding<'_> {
    type Item = Result<Frames>;

    fn next(&mut self) -> Option<Self::Item> {
        let (Group { sample, chunk, from, .. }, pixels) = self.next_group()?;
        let [n, _, h, w, c] = pixels.sizes();
        let pixels = ops::permute(&pixels.reshape([n, h, w, c]), &[3, 0, 1, 2]);
        if let Err(e) = self.vae.gpu().submit() {
            self.groups.clear();
            return Some(Err(e));
        }
        Some(Ok(Frames { sample, first: chunk.frame + from, pixels }))
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

/// Some images of x `[images, 1, h, w, C]`.
fn part(x: &Tensor, from: usize, count: usize) -> Tensor {
    let [_, t, h, w, c] = x.sizes();
    ops::window(x, &[-(from as isize), 0, 0, 0, 0], &[count, t, h, w, c])
}

/// Some frames of one sample of x `[B, T, h, w, C]`: `[1, count, h, w, C]`.
fn stretch(x: &Tensor, sample: usize, from: usize, count: usize) -> Tensor {
    let [_, _, h, w, c] = x.sizes();
    ops::window(x, &[-(sample as isize), -(from as isize), 0, 0, 0], &[1, count, h, w, c])
}

/// Some frames of one sample of pixels `[B, 3, T, H, W]` as images: `[count, 1, H, W, 3]`.
fn frames_last(x: &Tensor, sample: usize, from: usize, count: usize) -> Tensor {
    let [_, c, _, h, w] = x.sizes();
    let own = ops::window(x, &[-(sample as isize), 0, -(from as isize), 0, 0], &[1, c, count, h, w]);
    ops::permute(&own, &[2, 0, 3, 4, 1])
}

/// A sample of the Gaussian with these moments `[.., 2C]`, or its mean where there is no noise: `[.., C]`.
fn sample_of(moments: &Tensor, noise: Option<&Tensor>) -> Tensor {
    match noise {
        Some(noise) => ops::posterior(moments, noise),
        None => {
            let mut to = moments.dims().to_vec();
            let last = to.len() - 1;
            to[last] /= 2;
            ops::window(moments, &vec![0; to.len()], &to)
        }
    }
}

/// Shows a value to whoever looks.
fn see(tap: &mut Tap<'_>, name: impl std::fmt::Display, x: &Tensor) {
    tap.see(|| name.to_string(), || x.clone());
}
