//! Latte (T2V), the denoiser of Latte-1; with other frame positions that of Open-Sora-Plan v1.1.
//!
//! B batch (conditioned and unconditioned stacked) · T latent frames · S patches per frame · C width.
//! Source: src/diffusers/models/transformers/latte_transformer_3d.py of diffusers at tag v0.30.0, which gives the same
//! numbers as models/latte_t2v.py of the Latte repository. Departures are marked `differs:` with the reason.

mod block;
mod config;
pub mod embed;
mod prompt;

use std::path::Path;
use std::sync::Arc;

use block::{Around, Block, FinalLayer};
pub use config::{Config, FramePositions};
pub use prompt::real_tokens;

use crate::cache::{Axis, ResidualCache};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::{Linear, Mlp, Patches, ScalarEmbedder, Seen, Tap, TextKeys};
use crate::ops;
use crate::tensor::{Checkpoint, Tensor, Weights};

/// Ends the message of a tensor that does not fit.
const HINT: &str = "is this the Latte transformer that its config.json describes?";
/// Tensors of the published checkpoints that nobody reads: a buffer of the training.
pub const UNUSED: [&str; 1] = ["caption_projection.y_embedding"];

/// Captions as the network sees them: projected, packed, with every spatial layer's keys and values. Made once a prompt.
pub struct Text {
    keys: Vec<Option<TextKeys>>,
    spans: Tensor,
    samples: usize,
}

/// What depends on the size of a video only. Made once a run.
pub struct Grid {
    /// Latent size: frames, rows, columns.
    latent: [usize; 3],
    patches: Patches,
    /// `[S, C]`
    positions: Tensor,
    /// `[T, C]`, where frames have positions.
    frames: Option<Tensor>,
}

impl Grid {
    /// Frames and tokens per frame.
    pub fn frames_and_patches(&self) -> [usize; 2] {
        let [t, h, w] = self.patches.tokens;
        [t, h * w]
    }

    /// Which patches spatial attention sees of a latent mask `[B, T, H, W]`: those in which anything is not 0.
    ///
    /// # Panics
    /// If the mask is not of this latent.
    pub fn seen(&self, gpu: &Gpu, mask: &[f32]) -> Seen {
        let [lt, lh, lw] = self.latent;
        let ([_, h, w], [_, ph, pw]) = (self.patches.tokens, self.patches.size);
        assert!(mask.len().is_multiple_of(lt * lh * lw), "mask of {} numbers for {:?}", mask.len(), self.latent);
        let patch = |frame: &[f32], y: usize, x: usize| {
            (0..ph * pw).any(|i| frame[(y * ph + i / pw) * lw + x * pw + i % pw] != 0.0)
        };
        let flags: Vec<bool> =
            mask.chunks_exact(lh * lw).flat_map(|f| (0..h * w).map(move |i| patch(f, i / w, i % w))).collect();
        Seen::new(gpu, &flags, h * w)
    }
}

/// Arguments of one forward pass.
pub struct Input<'a> {
    /// The latent, `[B, in, T, H, W]`.
    pub x: &'a Tensor,
    /// Of each sample, 0 to 999.
    pub timesteps: &'a [f64],
    /// Captions, from [`Latte::text`].
    pub text: &'a Text,
    /// Sizes, from [`Latte::grid`].
    pub grid: &'a Grid,
    /// Patches that spatial attention sees, from [`Grid::seen`]; `None` if all.
    pub seen: Option<&'a Seen>,
    /// Whether temporal blocks run; without them frames are independent images.
    pub through_time: bool,
}

/// The network.
pub struct Latte {
    gpu: Gpu,
    config: Config,
    patch_embed: Linear,
    time: ScalarEmbedder,
    time_block: Linear,
    captions: Mlp,
    spatial: Vec<Block>,
    temporal: Vec<Block>,
    last: FinalLayer,
}

impl Latte {
    /// Loads the folder of a checkpoint: `config.json` and its safetensors.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] naming the field or tensor that is wrong; [`crate::Error::Io`].
    pub fn load(gpu: &Gpu, folder: &Path) -> Result<Self> {
        Self::load_as(gpu, folder, Config::read(folder)?)
    }

    /// Loads the safetensors of a folder as the network that `config` describes.
    ///
    /// # Errors
    /// As [`Latte::load`].
    pub fn load_as(gpu: &Gpu, path: &Path, config: Config) -> Result<Self> {
        let w = Weights::new(gpu, Arc::new(Checkpoint::open(path)?), HINT);
        let model = Self::from_weights(&w, config)?;
        w.tell_unasked(&UNUSED);
        gpu.submit()?;
        Ok(model)
    }

    /// The network over a checkpoint that is open already.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn from_weights(w: &Weights, config: Config) -> Result<Self> {
        let (c, p) = (config.width(), config.patch_size);
        let blocks = |name: &str, axis: Axis| {
            (0..config.num_layers).map(|i| Block::load(&w.at(name).at(i), &config, i, axis)).collect::<Result<Vec<_>>>()
        };
        let patch_weight = [c, config.in_channels, p, p];
        let caption_sizes = [config.caption_channels, c, c];
        let time = w.at("adaln_single");
        // `caption_projection.y_embedding`, a buffer of the training that some files have, is left alone
        Ok(Self {
            gpu: w.gpu().clone(),
            patch_embed: Linear::flat(&w.at("pos_embed.proj"), patch_weight, config.in_channels * p * p, c)?,
            time: ScalarEmbedder::load(&time.at("emb.timestep_embedder"), ["linear_1", "linear_2"], c)?,
            time_block: Linear::load(&time.at("linear"), c, 6 * c)?,
            captions: Mlp::named(&w.at("caption_projection"), ["linear_1", "linear_2"], caption_sizes)?,
            spatial: blocks("transformer_blocks", Axis::Spatial)?,
            temporal: blocks("temporal_transformer_blocks", Axis::Temporal)?,
            last: FinalLayer::load(w, &config)?,
            config,
        })
    }

    /// The sizes of the network.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The device the network lives on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Projects captions and makes their keys and values. Each is `[len, caption_channels]` of a sample of the batch:
    /// all tokens that cross-attention is to see. (Upstream pushes those it must not see down by 10000, which leaves
    /// nothing of them.)
    pub fn text(&self, captions: &[&[f32]], tap: &mut Tap<'_>) -> Text {
        let k = self.config.caption_channels;
        let mut spans = Vec::with_capacity(2 * captions.len());
        let mut first = 0;
        for caption in captions {
            let len = (caption.len() / k) as u32;
            spans.extend([first, len]);
            first += len;
        }
        let packed = self.gpu.upload(&captions.concat(), [first as usize, k]);
        let tokens = self.captions.forward(&packed, ops::Target::Plain);
        tap.see(|| "y_tokens".into(), || tokens.clone());
        Text {
            keys: self.spatial.iter().map(|b| b.text_keys(&tokens)).collect(),
            spans: self.gpu.upload_words(&spans, [captions.len(), 2]),
            samples: captions.len(),
        }
    }

    /// Prepares for latents of `[T, H, W]`. Rows and columns that do not fill a patch are left out of the output.
    ///
    /// # Panics
    /// If T is neither the config's `video_length` nor 1, or the latent is smaller than a patch.
    pub fn grid(&self, latent: [usize; 3]) -> Grid {
        let [t, h, w] = latent;
        let (c, p) = (self.config.width(), self.config.patch_size);
        let fits = (t == self.config.video_length || t == 1) && h >= p && w >= p;
        assert!(fits, "Latte: a latent of {latent:?} for {} frames and patches of {p}", self.config.video_length);
        let tokens = [t, h / p, w / p];
        let table = embed::positions([h / p, w / p], self.config.sample_size, p, c);
        let FramePositions { scale, for_one_frame } = self.config.frames;
        let frames = || self.gpu.upload(&embed::frame_positions(t, scale, c), [t, c]);
        Grid {
            latent,
            patches: Patches { size: [1, p, p], tokens },
            positions: self.gpu.upload(&table, [tokens[1] * tokens[2], c]),
            frames: (t > 1 || for_one_frame).then(frames),
        }
    }

    /// → `[B, out_channels, T, H, W]`; the first `in` channels are the noise in the latent, those behind it its variance.
    ///
    /// # Errors
    /// Whatever goes wrong on the device, if the cache has to read on the way: nothing else here waits.
    ///
    /// # Panics
    /// If the input does not fit its grid or text.
    pub async fn forward(&self, input: &Input<'_>, cache: &mut ResidualCache, tap: &mut Tap<'_>) -> Result<Tensor> {
        let [batch, channels, latent @ ..] = input.x.sizes::<5>();
        let grid = input.grid;
        let fits = latent == grid.latent
            && channels == self.config.in_channels
            && batch == input.timesteps.len()
            && batch == input.text.samples;
        assert!(fits, "Latte: x {}, {} timesteps, grid {:?}", input.x.shape(), input.timesteps.len(), grid.latent);
        let [frames, patches] = grid.frames_and_patches();

        let t = self.time.forward(&self.gpu, input.timesteps);
        tap.see(|| "t".into(), || t.clone());
        let embedded = self.patch_embed.forward(&grid.patches.split(input.x));
        let x = ops::add(&embedded, &grid.positions);
        tap.see(|| "x_in".into(), || x.clone());

        let vectors = || self.time_block.forward(&ops::silu(&t));
        // of the first half of the batch: the text, which tells the halves apart, has not been read yet
        let first_input = || {
            let half = batch.div_ceil(2);
            let time = ops::rows(&vectors(), &(0..half as u32).collect::<Vec<_>>());
            let x = x.part(batch, &(0..half)).reshape([half, frames * patches, self.config.width()]);
            self.spatial[0].input(&x, &time)
        };
        let pairs = async |cache: &mut ResidualCache, x: &Tensor| {
            let time = vectors();
            tap.see(|| "t_mlp".into(), || time.clone());
            let around = Around { time: &time, frames, patches, spans: &input.text.spans, seen: input.seen };
            let mut x = x.clone();
            for (depth, (spatial, temporal)) in self.spatial.iter().zip(&self.temporal).enumerate() {
                // differs: tokens stay in the order of frames; attention through time reads them where they are.
                let pair = |cache: &mut ResidualCache, x: &Tensor| {
                    let mut x = spatial.forward(x, input.text.keys[depth].as_ref(), &around, cache, tap);
                    if input.through_time {
                        // frames learn their place once, behind the first spatial block
                        if let Some(places) = grid.frames.as_ref().filter(|_| depth == 0) {
                            let frame: Vec<u32> = (0..frames * patches).map(|i| (i / patches) as u32).collect();
                            x = ops::add(&x, &ops::rows(places, &frame));
                        }
                        x = temporal.forward(&x, None, &around, cache, tap);
                    }
                    x
                };
                x = cache.pair(depth, &x, pair).await?;
            }
            Ok(x)
        };
        let x = cache.stack(&x, first_input, pairs).await?;

        let tokens = self.last.forward(&x, &t, tap);
        tap.see(|| "final_tokens".into(), || tokens.clone());
        let [t, h, w] = grid.patches.tokens;
        let p = self.config.patch_size;
        Ok(grid.patches.join(&tokens, [t, h * p, w * p], self.config.out_channels))
    }
}
