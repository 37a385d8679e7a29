//! The networks of Open-Sora v1.2 with weights that nobody trained, and what a run asks of them.

use std::ops::Range;

use residua::cache::{CachePolicy, Decision, Evaluation, ResidualCache, Run};
use residua::diffusion::sampler::{self, Denoiser, Step};
use residua::diffusion::schedule::RectifiedFlow;
use residua::error::Result;
use residua::gpu::Gpu;
use residua::models::stdit3::{self, Grid, Input, STDiT3, Text};
use residua::models::t5::{self, T5Encoder};
use residua::models::vae::{self, OpenSoraVae};
use residua::nn::Tap;
use residua::ops::{self, Difference, Power};
use residua::pipeline::sizes;
use residua::tensor::{Tensor, Weights};

use super::args::BenchConfig;

/// Sizes of the networks and of the video.
pub struct Sizes {
    pub transformer: stdit3::Config,
    pub vae: vae::Config,
    pub text: t5::Config,
    /// Frames, height and width in pixels.
    pub video: [usize; 3],
    pub caption: usize,
}

impl Sizes {
    /// # Errors
    /// None for a resolution of the table.
    pub fn of(config: BenchConfig) -> Result<Self> {
        let resolution = match config {
            BenchConfig::Tiny => return Ok(Self::tiny()),
            BenchConfig::OpenSora240p => "240p",
            BenchConfig::OpenSora480p => "480p",
            BenchConfig::OpenSora720p => "720p",
        };
        let (height, width) = sizes::image_size(resolution, "9:16")?;
        Ok(Self {
            transformer: stdit3::Config::xl_2(),
            vae: vae::Config::default(),
            text: t5::Config::xxl(),
            video: [sizes::frames("2s")?, height, width],
            caption: 300,
        })
    }

    /// The same networks with little of everything: the denoiser is that of the PyTorch baseline.
    fn tiny() -> Self {
        let (mut vae, text) = (vae::Config::default(), t5::Config::xxl());
        vae.spatial.block_out_channels = vec![8, 8, 16, 16];
        vae.spatial.layers_per_block = 1;
        vae.spatial.norm_num_groups = 4;
        vae.temporal.filters = 8;
        vae.temporal.num_res_blocks = 1;
        vae.temporal.num_groups = 4;
        Self {
            transformer: stdit3::Config {
                hidden_size: 144,
                depth: 6,
                num_heads: 2,
                caption_channels: 128,
                ..stdit3::Config::xl_2()
            },
            vae,
            text: t5::Config { d_model: 32, d_kv: 8, num_heads: 4, d_ff: 64, num_layers: 2, vocab_size: 128, ..text },
            video: [16, 128, 128],
            caption: 64,
        }
    }

    /// `[channels, T, H, W]`.
    pub fn latent(&self) -> [usize; 4] {
        let [t, h, w] = self.vae.latent_size(self.video);
        [self.transformer.in_channels, t, h, w]
    }

    /// Frames, and tokens of a frame.
    pub fn tokens(&self) -> [usize; 2] {
        let ([_, t, h, w], [pt, ph, pw]) = (self.latent(), self.transformer.patch_size);
        [t.div_ceil(pt), h.div_ceil(ph) * w.div_ceil(pw)]
    }
}

/// The denoiser with a caption, ready to run.
pub struct Net {
    net: STDiT3,
    text: Text,
    grid: Grid,
    /// `[1, channels, T, H, W]`.
    start: Tensor,
    /// Of no steps yet.
    run: Run,
}

impl Net {
    /// # Errors
    /// What [`Gpu::submit`] returns.
    pub fn make(gpu: &Gpu, sizes: &Sizes) -> Result<Self> {
        let weights = Weights::random(gpu);
        let config = sizes.transformer.clone();
        let [frames, patches] = sizes.tokens();
        let run = Run {
            steps: 0,
            timesteps: Vec::new(),
            depth: config.depth,
            batch: 2,
            frames,
            patches,
            width: config.hidden_size,
            pair: config.pair([2, frames, patches]),
        };
        let net = STDiT3::from_weights(&weights, config)?;
        let caption = weights.at("caption").host("rows", [sizes.caption, sizes.transformer.caption_channels])?;
        let text = net.text(&[&caption, &net.null_caption(sizes.caption)], &mut Tap::Off)?;
        let ([c, t, h, w], [_, height, width]) = (sizes.latent(), sizes.video);
        let grid = net.grid([t, h, w], [height as f64, width as f64]);
        let start = weights.get("start", [1, c * t * h * w])?.reshape([1, c, t, h, w]);
        gpu.submit()?;
        Ok(Self { net, text, grid, start, run })
    }

    /// A run of so many steps under a policy; whether its latents are finite, and how each step went.
    ///
    /// # Errors
    /// Settings of a policy that do not fit, and what [`Gpu::submit`] returns.
    pub async fn run(&self, steps: usize, policy: Option<Box<dyn CachePolicy>>) -> Result<(bool, Vec<Step>)> {
        let mut cache = policy.map_or_else(ResidualCache::off, ResidualCache::new);
        let timesteps = RectifiedFlow { steps, transform: None }.timesteps();
        cache.begin(Run { steps, timesteps: timesteps.clone(), ..self.run.clone() })?;
        let plan = sampler::Plan {
            timesteps: vec![timesteps],
            guidance: 7.0,
            frame_mask: None,
            noise: &mut |_| Vec::new(), // only drawn for given frames
        };
        let (latents, steps) = sampler::sample(self, &self.start, plan, &mut cache, &mut |_, _| true).await?;
        Ok((finite(&latents.read().await?), steps))
    }

    /// Bytes of the residual stream.
    pub fn stream_bytes(&self, sizes: &Sizes) -> f64 {
        (self.run.batch * self.run.frames * self.run.patches * sizes.transformer.hidden_size * 4) as f64
    }

    /// Two residuals as a cache keeps them, and the change from one to the other.
    ///
    /// # Errors
    /// None.
    pub fn metric(&self, gpu: &Gpu, sizes: &Sizes) -> Result<impl Fn() -> Tensor + use<>> {
        let weights = Weights::random(gpu);
        let shape = [self.run.batch, self.run.frames * self.run.patches, sizes.transformer.hidden_size];
        let (old, new) = (weights.get("old", shape)?, weights.get("new", shape)?);
        let all = Difference { segments: 1, len: old.count(), x_at: 0, y_at: 0 };
        Ok(move || ops::difference(&old, &new, all, Power::One))
    }
}

impl Denoiser for Net {
    async fn velocity(
        &self,
        z: &Tensor,
        timesteps: &[f64],
        frame_mask: Option<&[bool]>,
        cache: &mut ResidualCache,
    ) -> Result<Tensor> {
        let input = Input { x: z, timesteps, fps: &[24.0], text: &self.text, grid: &self.grid, frame_mask };
        self.net.forward(&input, cache, &mut Tap::Off).await
    }
}

/// Computes every so-many-th step, from the first on, and measures nothing.
pub struct Every {
    steps: usize,
    depth: usize,
}

impl Every {
    /// Of so many steps, one.
    pub fn of(steps: usize) -> Self {
        Self { steps, depth: 0 }
    }
}

impl CachePolicy for Every {
    fn describe(&self) -> String {
        format!("every step of {} computed", self.steps)
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        self.depth = run.depth;
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        run.stream_bytes()
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        if at.index.is_multiple_of(self.steps) { Decision::Compute } else { Decision::Reuse(0..self.depth, vec![1.0]) }
    }

    fn stores(&self) -> Option<Range<usize>> {
        Some(0..self.depth)
    }
}

/// The autoencoder and latents to decode.
pub struct Decoder {
    vae: OpenSoraVae,
    latents: Tensor,
    frames: usize,
}

impl Decoder {
    /// # Errors
    /// What [`Gpu::submit`] returns.
    pub fn make(gpu: &Gpu, sizes: &Sizes) -> Result<Self> {
        let weights = Weights::random(gpu);
        let [c, t, h, w] = sizes.latent();
        let latents = weights.get("latents", [1, c * t * h * w])?.reshape([1, c, t, h, w]);
        let vae = OpenSoraVae::from_weights(weights, sizes.vae.clone())?;
        vae.decoder()?;
        gpu.submit()?;
        Ok(Self { vae, latents, frames: sizes.video[0] })
    }

    /// All frames, each read as soon as it is made; whether they are finite.
    ///
    /// # Errors
    /// What [`Gpu::submit`] returns.
    pub async fn decode(&self) -> Result<bool> {
        let mut all = true;
        for frames in self.vae.decode_frames(&self.latents, self.frames)? {
            all &= finite(&frames?.pixels.read().await?);
        }
        Ok(all)
    }
}

/// The text encoder on a text of so many tokens; whether its rows are finite.
///
/// # Errors
/// What [`Gpu::submit`] returns.
pub async fn text(gpu: &Gpu, sizes: &Sizes) -> Result<bool> {
    let encoder = T5Encoder::from_weights(Weights::random(gpu), sizes.text.clone())?;
    let ids: Vec<u32> = (0..sizes.caption).map(|i| (i * 37 % sizes.text.vocab_size) as u32).collect();
    Ok(finite(&encoder.forward(&ids)?.read().await?))
}

fn finite(numbers: &[f32]) -> bool {
    numbers.iter().all(|v| v.is_finite())
}
