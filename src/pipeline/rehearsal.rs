//! The stages of a run on a device that runs nothing: what they would take.

use super::budget::{Footprint, Stage};
use super::open_sora::Conditioned;
use super::{Caption, OpenSora, Plan};
use crate::diffusion::sampler::Sampler;
use crate::error::{Error, Result};
use crate::gpu::{DType, Gpu};
use crate::models::stdit3::{Residence, STDiT3};
use crate::models::t5::T5Encoder;
use crate::models::vae::{Decoding, OpenSoraVae};
use crate::tensor::Tensor;

/// Frames that are decoded in a rehearsal: chunks are alike from the second on.
const DECODED: usize = 34;

/// How a run may use memory.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub residence: Residence,
    pub budget: Option<u64>,
}

/// Stages as they are gone through.
pub(super) struct Rehearsal<'a> {
    sora: &'a OpenSora,
    gpu: Gpu,
    manner: Manner,
    stages: Vec<Stage>,
    weights: u64,
}

impl<'a> Rehearsal<'a> {
    pub fn new(sora: &'a OpenSora, manner: Manner) -> Self {
        let gpu = sora.gpu.rehearsal();
        gpu.set_budget(manner.budget);
        Self { sora, gpu, manner, stages: Vec::new(), weights: 0 }
    }

    /// All stages of a plan.
    pub fn run(sora: &'a OpenSora, plan: &Plan, manner: Manner) -> Result<Footprint> {
        let mut own = Self::new(sora, manner);
        let tokens = sora.tokens_of(plan);
        own.text(&tokens)?;
        own.given(plan).map_err(|e| too_large(e, plan, "encoding", ""))?;
        own.denoise(plan, tokens[0]).map_err(|e| too_large(e, plan, "denoising", " or fewer frames"))?;
        own.join(plan).map_err(|e| too_large(e, plan, "joining clips of", ""))?;
        let [c, _, h, w] = plan.latent;
        own.decode([c, plan.all_latents(), h, w], plan.all_frames()).map_err(|e| too_large(e, plan, "decoding", ""))?;
        Ok(own.footprint())
    }

    pub fn footprint(self) -> Footprint {
        let Manner { residence, budget } = self.manner;
        let available = self.sora.gpu.memory_size();
        Footprint { stages: self.stages, residence, budget, weights: self.weights, available }
    }

    /// Goes through a stage; `work` returns its operations.
    fn stage(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> Result<f64>) -> Result<()> {
        self.gpu.trim();
        self.gpu.reset_peak();
        self.gpu.take_flops();
        let flops = work(self)?;
        self.gpu.submit()?;
        let (peak_bytes, tensor_bytes) = (self.gpu.held().1, self.gpu.memory().1);
        self.stages.push(Stage { name, peak_bytes, tensor_bytes, flops });
        Ok(())
    }

    /// Texts of so many tokens. Where there is no encoder, captions may be at hand: then nobody needs it.
    fn text(&mut self, tokens: &[usize]) -> Result<()> {
        let Ok(encoder) = T5Encoder::load(&self.gpu, &self.sora.parts.text_encoder) else { return Ok(()) };
        self.stage("text", |own| {
            for &n in tokens {
                encoder.forward(&vec![0; n])?;
            }
            Ok(own.gpu.take_flops())
        })
    }

    fn given(&mut self, plan: &Plan) -> Result<()> {
        let Some(size) = plan.encoded_together().filter(|_| !plan.given.references.is_empty()) else { return Ok(()) };
        self.stage("given", |own| {
            encode(&own.vae()?, size)?;
            let chunks = plan.given.references.iter().map(|r| r.frames().count().div_ceil(size[0]));
            Ok(own.gpu.take_flops() * chunks.sum::<usize>() as f64)
        })
    }

    fn denoise(&mut self, plan: &Plan, tokens: usize) -> Result<()> {
        self.stage("denoise", |own| {
            let (sora, gpu) = (own.sora, own.gpu.clone());
            let net = own.net()?;
            own.weights += gpu.memory().0;
            let caption = Caption { tokens: vec![0; tokens], rows: net.null_caption(tokens), known: false };
            let conditioned = Conditioned::new(&net, &caption, plan)?;
            gpu.take_flops();
            let [c, t, h, w] = plan.latent;
            let mut noise = |_| vec![0.0; c * t * h * w];
            let mut cache = sora.cache_for(plan)?;
            // a clip behind another is given its beginning
            let mask = plan.mask(usize::from(plan.long.clips > 1))?;
            let (start, timesteps) = (own.latents(plan.latent), vec![plan.timesteps.clone()]);
            let mut sampler = Sampler::at(start, timesteps, plan.guidance as f32, mask, 0);
            let mut step = 0.0;
            while sampler.done() < sampler.count() {
                // what a rehearsal reads is zero at once, so this never waits
                pollster::block_on(sampler.step(&conditioned, &mut cache, &mut noise))?;
                if sampler.done() == 1 {
                    step = gpu.take_flops();
                }
            }
            Ok(step * (plan.timesteps.len() * plan.long.clips) as f64)
        })
    }

    /// The end of a clip, decoded and encoded for the next one while the denoiser stays.
    fn join(&mut self, plan: &Plan) -> Result<()> {
        if plan.long.clips == 1 {
            return Ok(());
        }
        self.stage("join", |own| {
            let (_net, vae) = (own.net()?, own.vae()?);
            own.gpu.take_flops();
            let [c, _, h, w] = plan.latent;
            all(vae.decode_frames(&own.latents([c, plan.long.condition_frames, h, w]), plan.long.shared())?)?;
            if let Some(size) = plan.encoded_together() {
                encode(&vae, size)?;
            }
            Ok(own.gpu.take_flops() * (plan.long.clips - 1) as f64)
        })
    }

    /// Latents of so many frames.
    pub fn decode(&mut self, latent: [usize; 4], frames: usize) -> Result<()> {
        self.stage("decode", |own| {
            let vae = own.vae()?;
            vae.decoder()?;
            own.weights += own.gpu.memory().0;
            let [c, _, h, w] = latent;
            let (_all, some) = (own.latents(latent), frames.min(DECODED));
            let few = own.latents([c, vae.latent_size(some, 0, 0)[0], h, w]);
            own.gpu.take_flops();
            all(vae.decode_frames(&few, some)?)?;
            Ok(own.gpu.take_flops() * frames as f64 / some as f64)
        })
    }

    fn net(&self) -> Result<STDiT3> {
        STDiT3::load_as(&self.gpu, &self.sora.parts.transformer, self.manner.residence)
    }

    fn vae(&self) -> Result<OpenSoraVae> {
        OpenSoraVae::open(&self.gpu, &self.sora.parts.vae, self.sora.parts.vae_2d.as_deref())
    }

    fn latents(&self, [c, t, h, w]: [usize; 4]) -> Tensor {
        self.gpu.filled([1, c, t, h, w], DType::F32, |_| ())
    }
}

fn encode(vae: &OpenSoraVae, [frames, height, width]: [usize; 3]) -> Result<()> {
    vae.encode_pixels(&vec![0.0; 3 * frames * height * width], [frames, height, width], None).map(drop)
}

/// Decodes everything.
fn all(mut decoding: Decoding<'_>) -> Result<()> {
    decoding.try_for_each(|frames| frames.map(drop))
}

/// Says of a tensor that is too large for the adapter what needs it.
fn too_large(error: Error, plan: &Plan, doing: &str, fewer: &str) -> Error {
    match error {
        Error::Limit { what, need, have } => Error::Limit {
            what: format!("{doing} {} frames of {}x{}: {what}", plan.frames, plan.width, plan.height),
            need,
            have: format!("{have}; ask for a smaller size{fewer}"),
        },
        other => other,
    }
}
