//! Open-Sora v1.2: T5, STDiT3, rectified flow, VAE.
//!
//! Each stage loads its weights, works and frees them, so that the largest stage decides the memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{Caption, Defaults, Footprint, Parts, Plan, Request};
use crate::cache::{CacheSpec, Calibration, MadeFor, ResidualCache, Run, Wish};
use crate::diffusion::noise::Generator;
use crate::diffusion::sampler::{self, Denoiser, Step};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::media::Frames;
use crate::models::stdit3::{self, Grid, Input, STDiT3, Text};
use crate::models::t5;
use crate::models::vae::{self, OpenSoraVae};
use crate::nn::Tap;
use crate::tensor::{Tensor, fingerprint};
use crate::text::tokenizer::Tokenizer;

/// A model whose parts were found and fit each other, with nothing loaded yet.
pub struct OpenSora {
    pub(super) gpu: Gpu,
    pub(super) parts: Parts,
    pub(super) transformer: stdit3::Config,
    pub(super) vae: vae::Config,
    pub(super) tokenizer: Tokenizer,
    /// Of plans that differ in nothing that memory depends on.
    pub(super) footprints: Mutex<HashMap<String, Footprint>>,
    /// Where captions are kept.
    pub(super) captions: Option<PathBuf>,
}

/// What a run of the sampler gave.
pub struct Sampled {
    /// `[1, channels, T, H, W]`
    pub latents: Tensor,
    /// Every step as it went.
    pub steps: Vec<Step>,
    /// Name and settings of the cache.
    pub cache: String,
    /// The most bytes the cache held on the device between steps …
    pub cache_bytes: u64,
    /// … and the most its policy said it would.
    pub cache_planned: u64,
}

impl Sampled {
    /// Behind the last step under this cache.
    pub(super) fn new(latents: Tensor, steps: Vec<Step>, cache: &ResidualCache) -> Self {
        let (cache, cache_bytes, cache_planned) = (cache.describe(), cache.bytes(), cache.planned_bytes());
        Self { latents, steps, cache, cache_bytes, cache_planned }
    }
}

/// A finished video.
pub struct Video {
    /// Its frames.
    pub frames: Frames,
    /// What they were decoded from, and how that was made.
    pub sampled: Sampled,
}

/// Where a run stands.
#[derive(Debug)]
pub enum Event<'a> {
    /// The prompt has been encoded, into this many tokens; of several clips, the first.
    Text(usize),
    /// Of several clips, this one (from 0) begins.
    Clip(usize, usize),
    /// A denoising step is done.
    Step(&'a Step),
    /// Some frames of all are decoded.
    Frames(usize, usize),
}

impl OpenSora {
    /// Opens a folder: `transformer`, `vae`, `text_encoder`, `tokenizer`, and perhaps `scheduler` and `model_index.json`;
    /// or another one that [`parts::Search::open`](super::parts::Search::open) understands.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the part or field that is missing or wrong.
    pub fn open(gpu: &Gpu, folder: &Path) -> Result<Self> {
        Self::from_parts(gpu, Parts::of_folder(folder)?)
    }

    /// Opens a model whose parts were found.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the part or field that is wrong.
    pub fn from_parts(gpu: &Gpu, parts: Parts) -> Result<Self> {
        let transformer = stdit3::Config::read(&parts.transformer)?;
        let vae = vae::Config::read(&parts.vae, parts.vae_2d.as_deref())?;
        let text = t5::Config::read(&parts.text_encoder)?;
        let apart = |part: &Path, problem: String| {
            Err(Error::checkpoint(part, format!("{problem}; these parts are not of one model")))
        };
        if text.d_model != transformer.caption_channels {
            let (gives, reads) = (text.d_model, transformer.caption_channels);
            return apart(&parts.text_encoder, format!("gives {gives} channels, but the transformer reads {reads}"));
        }
        if vae.temporal.embed_dim != transformer.in_channels {
            let (reads, gives) = (vae.temporal.embed_dim, transformer.in_channels);
            return apart(&parts.vae, format!("reads latents of {reads} channels, but the transformer makes {gives}"));
        }
        let tokenizer = Tokenizer::open(&parts.tokenizer)?;
        let (gpu, footprints) = (gpu.clone(), Mutex::default());
        Ok(Self { gpu, parts, transformer, vae, tokenizer, captions: None, footprints })
    }

    /// Keeps captions in a folder, such as [`caption_folder`](super::caption_folder): a prompt that was encoded before, by
    /// the same encoder on the same adapter, needs no text encoder. At most 1 GiB; those not used for the longest time go
    /// first. `None`, which it begins with: nothing is kept.
    pub fn captions_in(self, folder: Option<PathBuf>) -> Self {
        Self { captions: folder, ..self }
    }

    /// What the model offers where a request says nothing.
    pub fn defaults(&self) -> &Defaults {
        &self.parts.defaults
    }

    /// Where its parts lie.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The device stages run on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Resolves a request, before anything is loaded.
    ///
    /// # Errors
    /// [`Error::Request`] naming the field; [`Error::Limit`] if it would not fit the adapter or the budget, with what
    /// would; [`Error::Checkpoint`] if weights are missing, or not what the configuration says.
    pub fn plan(&self, request: &Request) -> Result<Plan> {
        let mut plan = self.resolve(request)?;
        plan.memory = self.footprint(&plan, request)?;
        Ok(plan)
    }

    /// [`OpenSora::plan`] without a look at memory.
    pub(super) fn resolve(&self, request: &Request) -> Result<Plan> {
        let mut plan = Plan::new(request, self.defaults(), &self.transformer, &self.vae)?;
        plan.cache = self.calibrated(&plan)?;
        // the policy's own checks, before any work
        self.cache_for(&plan)?;
        Ok(plan)
    }

    /// The plan's cache with the model's own preset in place of a released one, if there is one for the number of steps.
    fn calibrated(&self, plan: &Plan) -> Result<CacheSpec> {
        let CacheSpec::AdaCache(wish) = &plan.cache else { return Ok(plan.cache.clone()) };
        let presets = self.parts.cache.as_ref();
        let own = wish.own_file(plan.timesteps.len()).and_then(|file| Some(presets?.join(file)));
        let wish = match own.filter(|path| path.is_file()) {
            Some(path) => Wish::clone(wish).calibrated(Calibration::read(&path)?),
            None => Wish::clone(wish),
        };
        if let Some(made) = wish.calibration() {
            made.check(&self.made_for(plan)?)?;
        }
        Ok(CacheSpec::AdaCache(Box::new(wish)))
    }

    /// What a calibration of the plan's runs is good for.
    ///
    /// # Errors
    /// [`Error::Io`] if the weights cannot be read.
    pub fn made_for(&self, plan: &Plan) -> Result<MadeFor> {
        let [height, width] = plan.pixels();
        Ok(MadeFor {
            model: self.parts.name.clone(),
            weights: fingerprint(&self.parts.transformer)?,
            steps: plan.timesteps.len(),
            size: [width, height, plan.frames],
            guidance: plan.guidance,
        })
    }

    pub(super) fn cache_for(&self, plan: &Plan) -> Result<ResidualCache> {
        let policy = plan.cache.build(plan.timesteps.len());
        self.begun(policy.map_or_else(ResidualCache::off, ResidualCache::new), plan)
    }

    /// The most bytes the plan's cache will hold on the device between steps.
    ///
    /// # Errors
    /// If it does not fit the run.
    pub fn cache_bytes(&self, plan: &Plan) -> Result<u64> {
        Ok(self.cache_for(plan)?.planned_bytes())
    }

    /// The cache at the beginning of the plan's run.
    pub(super) fn begun(&self, mut cache: ResidualCache, plan: &Plan) -> Result<ResidualCache> {
        cache.begin(self.run_of(plan))?;
        Ok(cache)
    }

    /// The plan's run as a cache is told of it.
    pub(super) fn run_of(&self, plan: &Plan) -> Run {
        let [_, t, h, w] = plan.latent;
        let [pt, ph, pw] = self.transformer.patch_size;
        let [frames, patches] = [t.div_ceil(pt), h.div_ceil(ph) * w.div_ceil(pw)];
        Run {
            steps: plan.timesteps.len(),
            timesteps: plan.timesteps.clone(),
            depth: self.transformer.depth,
            batch: 2,
            frames,
            patches,
            width: self.transformer.hidden_size,
            pair: self.transformer.pair([2, frames, patches]),
        }
    }

    /// Loads the denoiser, for one or more [`OpenSora::sample`]s.
    ///
    /// # Errors
    /// As [`STDiT3::load`].
    pub fn load_transformer(&self) -> Result<STDiT3> {
        STDiT3::load(&self.gpu, &self.parts.transformer)
    }

    /// The denoiser in the manner of a plan, which is also told the device: see [`Gpu::set_budget`].
    ///
    /// # Errors
    /// As [`STDiT3::load`].
    pub fn load_transformer_for(&self, plan: &Plan) -> Result<STDiT3> {
        self.gpu.set_budget(plan.memory.budget);
        STDiT3::load_as(&self.gpu, &self.parts.transformer, plan.memory.residence)
    }

    /// The start latent of a plan: given, or noise.
    pub fn start(&self, plan: &Plan) -> Tensor {
        let [c, t, h, w] = plan.latent;
        let noise = plan.latents.clone().unwrap_or_else(|| Generator::new(plan.rng, plan.seed).randn(c * t * h * w));
        self.gpu.upload(&noise, [1, c, t, h, w])
    }

    /// Denoises a single clip without given frames; [`OpenSora::sample_video`] does any. `seen` gets every step and says
    /// whether to go on.
    ///
    /// # Errors
    /// [`Error::Request`] if the plan has more; [`Error::Cancelled`]; whatever goes wrong on the device.
    pub async fn sample(
        &self,
        net: &STDiT3,
        caption: &Caption,
        plan: &Plan,
        seen: &mut dyn FnMut(&Step) -> bool,
    ) -> Result<Sampled> {
        if plan.long.clips > 1 || !plan.given.is_empty() {
            return Err(Error::request("plan", "has several clips or given frames; `sample_video` denoises such"));
        }
        let mut cache = self.cache_for(plan)?;
        self.run(&Conditioned::new(net, caption, plan)?, plan, &mut cache, seen).await
    }

    /// The sampling loop around a denoiser, with a cache that has begun.
    pub(super) async fn run(
        &self,
        denoiser: &impl Denoiser,
        plan: &Plan,
        cache: &mut ResidualCache,
        seen: &mut dyn FnMut(&Step) -> bool,
    ) -> Result<Sampled> {
        self.run_from(&self.start(plan), denoiser, plan, cache, seen).await
    }

    /// The same from a latent that is given.
    pub(super) async fn run_from(
        &self,
        start: &Tensor,
        denoiser: &impl Denoiser,
        plan: &Plan,
        cache: &mut ResidualCache,
        seen: &mut dyn FnMut(&Step) -> bool,
    ) -> Result<Sampled> {
        let steps = sampler::Plan {
            timesteps: vec![plan.timesteps.clone()],
            guidance: plan.guidance as f32,
            frame_mask: None,
            noise: &mut |_| Vec::new(),
        };
        let (latents, steps) = sampler::sample(denoiser, start, steps, cache, &mut |step, _| seen(step)).await?;
        Ok(Sampled::new(latents, steps, cache))
    }

    /// Floating point operations of all blocks at one computed step of the plan's run, and their residual branches.
    pub fn step_work(&self, plan: &Plan) -> (f64, usize) {
        let run = self.run_of(plan);
        (run.depth as f64 * run.pair.iter().map(|part| part.flops).sum::<f64>(), run.depth * run.pair.len())
    }

    /// Decodes latents `[1, 4, T, H, W]`. `seen` gets the frames done and all, and says whether to go on.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Checkpoint`] if the VAE does not fit; whatever goes wrong on the device.
    pub async fn decode(
        &self,
        latents: &Tensor,
        frames: usize,
        fps: f64,
        seen: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Frames> {
        let vae = self.open_vae()?;
        let decoded = self.decode_by(&vae, latents, frames, fps, seen).await;
        drop(vae);
        self.gpu.trim();
        decoded
    }

    /// Opens the autoencoder, for one or more [`OpenSora::decode_by`]s. Each of its halves is loaded when first needed.
    ///
    /// # Errors
    /// As [`OpenSoraVae::open`].
    pub fn open_vae(&self) -> Result<OpenSoraVae> {
        OpenSoraVae::open(&self.gpu, &self.parts.vae, self.parts.vae_2d.as_deref())
    }

    /// [`OpenSora::decode`] by an autoencoder that stays.
    ///
    /// # Errors
    /// As there.
    pub async fn decode_by(
        &self,
        vae: &OpenSoraVae,
        latents: &Tensor,
        frames: usize,
        fps: f64,
        seen: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Frames> {
        let ([_, _, _, h, w], factor) = (latents.sizes::<5>(), self.vae.spatial.factor());
        let mut video = Frames { width: factor * w, height: factor * h, fps, rgb: Vec::new() };
        let mut take = |shape, pixels: &[f32]| video.push_pixels(pixels, shape);
        vae.decode_groups(latents, frames, seen, &mut take).await?;
        Ok(video)
    }

    /// All of it: encode, denoise, decode. `seen` hears of every event and says whether to go on.
    ///
    /// # Errors
    /// Those of the stages.
    pub async fn generate(&self, request: &Request, seen: &mut dyn FnMut(Event<'_>) -> bool) -> Result<Video> {
        let plan = self.plan(request)?;
        self.gpu.set_budget(plan.memory.budget);
        let made = self.stages(&plan, seen).await;
        // of this run, and not of what the host does next
        self.gpu.set_budget(None);
        made
    }

    async fn stages(&self, plan: &Plan, seen: &mut dyn FnMut(Event<'_>) -> bool) -> Result<Video> {
        let texts: Vec<&str> = plan.texts.iter().map(String::as_str).collect();
        let captions = self.encode_texts(&texts).await?;
        let captions: Vec<&Caption> = captions.iter().collect();
        if !seen(Event::Text(captions[0].tokens.len())) {
            return Err(Error::Cancelled);
        }
        let given = self.encode_given(plan).await?;
        let net = self.load_transformer_for(plan)?;
        let mut told = None;
        let mut stepped = |clip: usize, step: &Step| {
            let begins = plan.long.clips > 1 && told.replace(clip) != Some(clip);
            (!begins || seen(Event::Clip(clip, plan.long.clips))) && seen(Event::Step(step))
        };
        let sampled = self.sample_video(&net, &captions, plan, &given, &mut stepped).await?;
        drop(net);
        self.gpu.trim();
        let mut decoded = |done: usize, all: usize| seen(Event::Frames(done, all));
        let frames = self.decode(&sampled.latents, plan.all_frames(), plan.fps, &mut decoded).await?;
        Ok(Video { frames, sampled })
    }
}

/// The denoiser of one prompt and size.
pub(super) struct Conditioned<'a> {
    net: &'a STDiT3,
    text: Text,
    grid: Grid,
    fps: f64,
}

impl<'a> Conditioned<'a> {
    /// Of the caption, with the null caption beside it.
    ///
    /// # Errors
    /// As [`STDiT3::text`].
    pub fn new(net: &'a STDiT3, caption: &Caption, plan: &Plan) -> Result<Self> {
        let null = net.null_caption(caption.tokens.len());
        let [_, t, h, w] = plan.latent;
        Ok(Self {
            net,
            text: net.text(&[&caption.rows, &null], &mut Tap::Off)?,
            grid: net.grid([t, h, w], [plan.height as f64, plan.width as f64]),
            fps: plan.model_fps(),
        })
    }
}

impl Denoiser for Conditioned<'_> {
    async fn velocity(
        &self,
        z: &Tensor,
        timesteps: &[f64],
        frame_mask: Option<&[bool]>,
        cache: &mut ResidualCache,
    ) -> Result<Tensor> {
        let input = Input { x: z, timesteps, fps: &[self.fps], text: &self.text, grid: &self.grid, frame_mask };
        self.net.forward(&input, cache, &mut Tap::Off).await
    }
}
