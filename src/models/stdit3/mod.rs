//! STDiT3, the denoiser of Open-Sora v1.2.
//!
//! B batch (conditioned and unconditioned stacked) · T latent frames · S patches per frame · C width.
//! Source: opensora/models/stdit/stdit3.py at tag v1.2.0. Departures from it are marked `differs:` with the reason.

mod block;
mod config;
pub mod embed;
mod pairs;

use std::path::Path;
use std::sync::Arc;

use block::{Around, Block, Conditioning, FinalLayer};
pub use config::Config;
use pairs::Pairs;
pub use pairs::Residence;

use crate::cache::ResidualCache;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::{Linear, Mlp, Patches, ScalarEmbedder, Tap, TextKeys};
use crate::ops;
use crate::tensor::{Checkpoint, Tensor, Weights};

/// Ends the message of a tensor that does not fit.
const HINT: &str = "is this the transformer of Open-Sora v1.2 that its config.json describes?";
/// Tensors of the published checkpoint that nobody reads: none.
pub const UNUSED: [&str; 0] = [];

/// Captions as the network sees them: projected, packed, with every layer's keys and values. Made once a prompt.
pub struct Text {
    keys: Vec<TextKeys>,
    spans: Tensor,
    samples: usize,
}

/// What depends on the size of a video only. Made once a run.
pub struct Grid {
    /// Latent size: frames, rows, columns.
    latent: [usize; 3],
    /// Token grid of the padded latent.
    tokens: [usize; 3],
    positions: Tensor,
    angles: Tensor,
}

impl Grid {
    /// Frames and tokens per frame.
    pub fn frames_and_patches(&self) -> [usize; 2] {
        [self.tokens[0], self.tokens[1] * self.tokens[2]]
    }
}

/// Arguments of one forward pass.
pub struct Input<'a> {
    /// The latent, `[B, in, T, H, W]`.
    pub x: &'a Tensor,
    /// Of each sample, 0 to 1000.
    pub timesteps: &'a [f64],
    /// Frame rate of each sample; shorter lists repeat.
    pub fps: &'a [f64],
    /// Captions, from [`STDiT3::text`].
    pub text: &'a Text,
    /// Sizes, from [`STDiT3::grid`].
    pub grid: &'a Grid,
    /// `[B·T]`, false for frames that are given and shown clean; `None` if all are generated.
    pub frame_mask: Option<&'a [bool]>,
}

/// The network.
pub struct STDiT3 {
    gpu: Gpu,
    config: Config,
    patch_embed: Linear,
    time: ScalarEmbedder,
    fps: ScalarEmbedder,
    time_block: Linear,
    captions: Mlp,
    null_caption: Vec<f32>,
    pairs: Pairs,
    /// Offsets of the first block.
    first_table: Tensor,
    last: FinalLayer,
    frequencies: Vec<f32>,
}

impl STDiT3 {
    /// Loads the folder of a checkpoint: `config.json` and its safetensors.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] naming the field or tensor that is wrong; [`crate::Error::Io`].
    pub fn load(gpu: &Gpu, folder: &Path) -> Result<Self> {
        Self::load_as(gpu, folder, Residence::Resident)
    }

    /// [`STDiT3::load`], the blocks kept as `residence` says.
    ///
    /// # Errors
    /// As there.
    pub fn load_as(gpu: &Gpu, folder: &Path, residence: Residence) -> Result<Self> {
        let config = Config::read(folder)?;
        let w = Weights::new(gpu, Arc::new(Checkpoint::open(folder)?), HINT);
        let model = Self::over(&w, config, residence)?;
        w.tell_unasked(&UNUSED);
        gpu.submit()?;
        Ok(model)
    }

    /// The network over a checkpoint that is open already.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if a tensor is missing or mis-shaped.
    pub fn from_weights(w: &Weights, config: Config) -> Result<Self> {
        Self::over(w, config, Residence::Resident)
    }

    /// [`STDiT3::from_weights`], the blocks kept as `residence` says.
    ///
    /// # Errors
    /// As there.
    pub fn over(w: &Weights, config: Config, residence: Residence) -> Result<Self> {
        let (c, patch) = (config.hidden_size, config.patch());
        let [pt, ph, pw] = config.patch_size;
        let patch_weight = [c, config.in_channels, pt, ph, pw];
        let d = c / config.num_heads;
        // Training averages this parameter from a bfloat16 copy: the stored values win over the formula.
        let frequencies =
            if w.has("rope.freqs") { w.host("rope.freqs", [d / 2])? } else { embed::rotary_frequencies(d) };
        Ok(Self {
            gpu: w.gpu().clone(),
            patch_embed: Linear::flat(&w.at("x_embedder.proj"), patch_weight, config.in_channels * patch, c)?,
            time: ScalarEmbedder::load(&w.at("t_embedder"), ["mlp.0", "mlp.2"], c)?,
            fps: ScalarEmbedder::load(&w.at("fps_embedder"), ["mlp.0", "mlp.2"], c)?,
            time_block: Linear::load(&w.at("t_block.1"), c, 6 * c)?,
            captions: Mlp::load(&w.at("y_embedder.y_proj"), config.caption_channels, c, c)?,
            null_caption: null_caption(w, &config)?,
            pairs: Pairs::load(w, &config, residence)?,
            first_table: Block::table(&w.at("spatial_blocks.0"), &config)?,
            last: FinalLayer::load(&w.at("final_layer"), &config)?,
            frequencies,
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

    /// The first `len` rows of the learned null caption, `[len, caption_channels]`; past its end the last row repeats.
    pub fn null_caption(&self, len: usize) -> Vec<f32> {
        let k = self.config.caption_channels;
        let stored = self.null_caption.len() / k;
        (0..len).flat_map(|i| self.null_caption[i.min(stored - 1) * k..][..k].iter().copied()).collect()
    }

    /// Projects captions and makes their keys and values. Each is `[len, caption_channels]` of a sample of the
    /// batch, real tokens only.
    ///
    /// # Errors
    /// If blocks are streamed: trouble with their weights or the device.
    pub fn text(&self, captions: &[&[f32]], tap: &mut Tap<'_>) -> Result<Text> {
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
        Ok(Text {
            keys: self.pairs.text_keys(&tokens)?,
            spans: self.gpu.upload_words(&spans, [captions.len(), 2]),
            samples: captions.len(),
        })
    }

    /// Prepares for latents of `[T, H, W]` that stand for a video of `pixels` (height, width).
    pub fn grid(&self, latent: [usize; 3], pixels: [f64; 2]) -> Grid {
        let [pt, ph, pw] = self.config.patch_size;
        let tokens = [latent[0].div_ceil(pt), latent[1].div_ceil(ph), latent[2].div_ceil(pw)];
        let c = self.config.hidden_size;
        let table = embed::positions([tokens[1], tokens[2]], pixels, self.config.input_sq_size, c);
        let angles = embed::rotary(tokens[0], &self.frequencies);
        Grid {
            latent,
            tokens,
            positions: self.gpu.upload(&table, [tokens[1] * tokens[2], c]),
            angles: self.gpu.upload(&angles, [tokens[0], self.frequencies.len(), 2]),
        }
    }

    /// → `[B, out_channels, T, H, W]`; the first `in` channels are the velocity from noise to data.
    ///
    /// # Errors
    /// Whatever goes wrong on the device, if the cache has to read on the way: nothing else here waits.
    ///
    /// # Panics
    /// If the input does not fit its grid, text or mask.
    pub async fn forward(&self, input: &Input<'_>, cache: &mut ResidualCache, tap: &mut Tap<'_>) -> Result<Tensor> {
        let [batch, channels, t, h, w] = input.x.sizes();
        let grid = input.grid;
        let fits = [t, h, w] == grid.latent
            && channels == self.config.in_channels
            && batch == input.timesteps.len()
            && batch == input.text.samples;
        assert!(fits, "STDiT3: x {}, {} timesteps, grid {:?}", input.x.shape(), input.timesteps.len(), grid.latent);
        let [frames, patches] = grid.frames_and_patches();

        // differs: frames held fixed pick their conditioning rows up front, so the blocks have one path.
        let fixed = input.frame_mask.filter(|mask| mask.contains(&false));
        let conditioning = self.condition(input, fixed.is_some(), tap);
        let t_own = if fixed.is_some() { first_rows(&conditioning, batch) } else { conditioning.clone() };

        let embedded = self.patch_embed.forward(&self.patches(grid).split(input.x));
        tap.see(|| "x_embed".into(), || embedded.clone());
        tap.see(|| "pos_emb".into(), || grid.positions.clone());
        let x = ops::add(&embedded, &grid.positions);
        tap.see(|| "x_in".into(), || x.clone());

        // of the first half of the batch: the text, which tells the halves apart, has not been read yet
        let first_input = || {
            let half = batch.div_ceil(2);
            let vectors = self.vectors(&conditioning, fixed, [batch, frames], &mut Tap::Off);
            let vectors = first_rows(&vectors, vectors.as_rows()[0] / batch * half);
            let tokens = if fixed.is_some() { patches } else { frames * patches };
            let x = x.part(batch, &(0..half)).reshape([half, frames * patches, self.config.hidden_size]);
            Block::input(&x, &self.first_table, &Conditioning { vectors: &vectors, tokens })
        };
        let pairs = async |cache: &mut ResidualCache, x: &Tensor| {
            let vectors = self.vectors(&conditioning, fixed, [batch, frames], tap);
            let tokens = if fixed.is_some() { patches } else { frames * patches };
            let time = Conditioning { vectors: &vectors, tokens };
            let around = Around { time, frames, patches, angles: &grid.angles, spans: &input.text.spans };
            let mut x = x.clone();
            for depth in 0..self.config.depth {
                let keys = &input.text.keys[2 * depth..];
                let pair = |cache: &mut ResidualCache, x: &Tensor| {
                    self.pairs.with(depth, x, |[spatial, temporal]| {
                        let x = spatial.forward(x, &keys[0], &around, cache, tap);
                        temporal.forward(&x, &keys[1], &around, cache, tap)
                    })
                };
                x = cache.pair(depth, &x, pair).await?;
            }
            Ok(x)
        };
        let x = cache.stack(&x, first_input, pairs).await?;

        let tokens = match fixed {
            None => self.last.forward(&x, &t_own, None),
            Some(mask) => {
                let words: Vec<u32> = mask.iter().map(|&m| u32::from(m)).collect();
                let words = self.gpu.upload_words(&words, [batch, frames]);
                self.last.forward(&x, &t_own, Some((&last_rows(&conditioning, batch), &words)))
            }
        };
        tap.see(|| "final_tokens".into(), || tokens.clone());
        Ok(self.patches(grid).join(&tokens, grid.latent, self.config.out_channels()))
    }

    fn patches(&self, grid: &Grid) -> Patches {
        Patches { size: self.config.patch_size, tokens: grid.tokens }
    }

    /// Shift, scale and gate for all blocks: a row a sample, or, with frames held fixed, a row a frame.
    fn vectors(
        &self,
        conditioning: &Tensor,
        fixed: Option<&[bool]>,
        [batch, frames]: [usize; 2],
        tap: &mut Tap<'_>,
    ) -> Tensor {
        let vectors = self.time_block.forward(&ops::silu(conditioning));
        tap.see(|| "t_mlp".into(), || first_rows(&vectors, batch));
        let Some(mask) = fixed else { return vectors };
        tap.see(|| "t0_mlp".into(), || last_rows(&vectors, batch));
        let pick = |(i, &moves): (usize, &bool)| (i / frames + if moves { 0 } else { batch }) as u32;
        let rows: Vec<u32> = mask.iter().enumerate().map(pick).collect();
        ops::rows(&vectors, &rows)
    }

    /// Timestep and frame rate as vectors, `[B, C]`; with frames held fixed `[2B, C]`, the second half at timestep 0.
    fn condition(&self, input: &Input<'_>, fixed: bool, tap: &mut Tap<'_>) -> Tensor {
        let batch = input.timesteps.len();
        let mut timesteps = input.timesteps.to_vec();
        let mut fps: Vec<f64> = (0..batch).map(|i| input.fps[i % input.fps.len()]).collect();
        if fixed {
            timesteps.resize(2 * batch, 0.0);
            fps.extend_from_within(..);
        }
        let time = self.time.forward(&self.gpu, &timesteps);
        let rate = self.fps.forward(&self.gpu, &fps);
        let t = ops::add(&time, &rate);
        tap.see(|| "t_embedder".into(), || first_rows(&time, batch));
        tap.see(|| "fps_emb".into(), || first_rows(&rate, batch));
        tap.see(|| "t".into(), || first_rows(&t, batch));
        if fixed {
            tap.see(|| "t0".into(), || last_rows(&t, batch));
        }
        t
    }
}

fn first_rows(x: &Tensor, count: usize) -> Tensor {
    let [have, _] = x.as_rows();
    if have == count { x.clone() } else { ops::rows(x, &(0..count as u32).collect::<Vec<_>>()) }
}

fn last_rows(x: &Tensor, count: usize) -> Tensor {
    let [have, _] = x.as_rows();
    ops::rows(x, &((have - count) as u32..have as u32).collect::<Vec<_>>())
}

/// The stored null caption, of whatever length the file has.
fn null_caption(w: &Weights, config: &Config) -> Result<Vec<f32>> {
    let name = "y_embedder.y_embedding";
    let stored = w.shape_of(name).and_then(|s| s.first().copied()).filter(|&n| n > 0);
    w.host(name, [stored.unwrap_or(config.model_max_length), config.caption_channels])
}
