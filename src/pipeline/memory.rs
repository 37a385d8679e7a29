//! Whether a run fits the adapter, and how it is made to: stages are rehearsed on a device that runs nothing.

use std::cell::Cell;

use super::budget::{Budget, Footprint, Stage};
use super::open_sora::Conditioned;
use super::{Caption, OpenSora, Plan, Request};
use crate::cache::CacheSpec;
use crate::error::{Error, Result};
use crate::gpu::{DType, lock, mib};
use crate::models::stdit3::{Residence, STDiT3};
use crate::models::t5::T5Encoder;
use crate::models::vae::{Decoding, OpenSoraVae};

/// Frames that are decoded in a rehearsal: chunks are alike from the second on.
const DECODED: usize = 34;
/// Sizes to suggest, as shares of what was asked for.
const SMALLER: [f64; 4] = [0.75, 0.5, 0.375, 0.25];

/// How a run may use memory.
#[derive(Clone, Copy)]
struct Manner {
    residence: Residence,
    budget: Option<u64>,
}

const FREELY: Manner = Manner { residence: Residence::Resident, budget: None };
const SPARINGLY: Manner = Manner { residence: Residence::Streamed, budget: None };

impl OpenSora {
    /// What the plan's run takes, in the fastest manner that fits the budget.
    ///
    /// # Errors
    /// [`Error::Limit`] if no manner does, with what would; if a tensor would not fit the adapter;
    /// [`Error::Checkpoint`] if weights are missing or not those of the model.
    pub(super) fn footprint(&self, plan: &Plan, request: &Request) -> Result<Footprint> {
        let key = format!(
            "{:?}",
            (
                plan.latent,
                plan.pixels(),
                plan.frames,
                &plan.long,
                plan.timesteps.len(),
                self.tokens_of(plan),
                request.memory
            )
        ) + &format!(
            "{:?}",
            (plan.cache.build(plan.timesteps.len()).map(|p| p.describe()), plan.encoded_together())
        );
        if let Some(known) = lock(&self.footprints).get(&key) {
            return Ok(known.clone());
        }
        let made = match self.fitted(plan, request.memory)? {
            Ok(made) => made,
            Err(least) => return Err(self.refused(plan, request, &least)),
        };
        lock(&self.footprints).insert(key, made.clone());
        Ok(made)
    }

    /// The footprint in the fastest manner that fits, or what the most sparing one takes.
    fn fitted(&self, plan: &Plan, asked: Budget) -> Result<std::result::Result<Footprint, Footprint>> {
        let have = asked.bytes(&self.gpu);
        let fits = |footprint: &Footprint| have.is_none_or(|have| footprint.peak_bytes() <= have);
        if asked != Budget::Low {
            let free = self.rehearse(plan, FREELY)?;
            if fits(&free) {
                return Ok(Ok(free));
            }
            let least = |f: &Footprint| f.stages.iter().map(|s| s.tensor_bytes).max().unwrap_or(0);
            if have.is_some_and(|have| least(&free) <= have) {
                return Ok(Ok(self.rehearse(plan, Manner { budget: have, ..FREELY })?));
            }
        }
        let sparing = self.rehearse(plan, SPARINGLY)?;
        let least = sparing.stages.iter().map(|s| s.tensor_bytes).max().unwrap_or(0);
        if have.is_some_and(|have| least > have) {
            return Ok(Err(sparing));
        }
        let budget = match asked {
            // a little more than it takes, or every buffer would be given back before the next is made
            Budget::Low => least + least / 16,
            _ => have.unwrap_or(least),
        };
        Ok(Ok(self.rehearse(plan, Manner { budget: Some(budget), ..SPARINGLY })?))
    }

    /// The refusal of a run whose most sparing manner takes `least`, with changes that would make it fit.
    fn refused(&self, plan: &Plan, request: &Request, least: &Footprint) -> Error {
        let fits = |change: &dyn Fn(&mut Request)| {
            let mut other = request.clone();
            other.latents = None;
            change(&mut other);
            let plan = self.resolve(&other).ok()?;
            self.fitted(&plan, request.memory).ok()?.ok()
        };
        let mut changes = Vec::new();
        if plan.cache != CacheSpec::Off && fits(&|r| r.cache = CacheSpec::Off).is_some() {
            changes.push("no cache".to_string());
        }
        let fewer = [204, 102, 51, 34, 17, 1].into_iter().filter(|&n| n < plan.frames);
        if let Some(n) = fewer.into_iter().find(|&n| fits(&|r| r.frames = Some(n)).is_some()) {
            changes.push(if n == 1 { "a single frame".into() } else { format!("{n} frames") });
        }
        let scaled = |share: f64| [plan.width, plan.height].map(|side| (side as f64 * share) as usize / 8 * 8);
        let smaller = SMALLER.into_iter().map(scaled);
        let of_size = |[w, h]: [usize; 2]| fits(&|r| (r.width, r.height) = (Some(w), Some(h))).is_some();
        if let Some([w, h]) = smaller.into_iter().find(|&size| of_size(size)) {
            changes.push(format!("{w}x{h}"));
        }
        let largest = least.stages.iter().max_by_key(|s| s.tensor_bytes);
        let (stage, bytes) = largest.map_or(("", 0), |s| (s.name, s.tensor_bytes));
        let have = request.memory.bytes(&self.gpu).map_or_else(String::new, mib);
        let ask = match &changes[..] {
            [] => "ask for a smaller size and fewer frames, or give it more with --memory".to_string(),
            some => format!("ask for {}", some.join(", or ")),
        };
        Error::Limit {
            what: format!("{} frames of {}x{} on `{}`", plan.frames, plan.width, plan.height, self.gpu.info().name),
            need: format!("{} at the least ({stage})", mib(bytes)),
            have: format!("{have}; {ask}"),
        }
    }

    /// Every stage in this manner, on a device that runs nothing.
    fn rehearse(&self, plan: &Plan, manner: Manner) -> Result<Footprint> {
        let gpu = self.gpu.rehearsal();
        gpu.set_budget(manner.budget);
        let mut stages = Vec::new();
        let mut stage = |name: &'static str, work: &dyn Fn() -> Result<f64>| -> Result<()> {
            gpu.trim();
            gpu.reset_peak();
            gpu.take_flops();
            let flops = work().and_then(|flops| gpu.submit().map(|()| flops)).map_err(|e| too_large(plan, name, e))?;
            stages.push(Stage { name, peak_bytes: gpu.held().1, tensor_bytes: gpu.memory().1, flops });
            Ok(())
        };
        let tokens = self.tokens_of(plan);
        // captions may be at hand, and then nobody needs the encoder
        if let Ok(encoder) = T5Encoder::load(&gpu, &self.folder.join("text_encoder")) {
            stage("text", &|| {
                for &n in &tokens {
                    encoder.forward(&vec![0; n])?;
                }
                Ok(gpu.take_flops())
            })?;
        }
        let vae = || OpenSoraVae::open(&gpu, &self.folder.join("vae"));
        let encode = |vae: &OpenSoraVae, [frames, height, width]: [usize; 3]| {
            vae.encode_pixels(&vec![0.0; 3 * frames * height * width], [frames, height, width], None)
        };
        if let Some(size) = plan.encoded_together().filter(|_| !plan.given.references.is_empty()) {
            stage("given", &|| {
                encode(&vae()?, size)?;
                let chunks = plan.given.references.iter().map(|r| r.frames().count().div_ceil(size[0]));
                Ok(gpu.take_flops() * chunks.sum::<usize>() as f64)
            })?;
        }
        let [c, t, h, w] = plan.latent;
        let latents = |frames: usize| gpu.filled([1, c, frames, h, w], DType::F32, |_| ());
        let net = || STDiT3::load_as(&gpu, &self.folder.join("transformer"), manner.residence);
        let weights = Cell::new(0);
        stage("denoise", &|| {
            let net = net()?;
            weights.set(weights.get() + gpu.memory().0);
            let caption = Caption { tokens: vec![0; tokens[0]], rows: net.null_caption(tokens[0]) };
            let conditioned = Conditioned::new(&net, &caption, plan)?;
            gpu.take_flops();
            let mut step = 0.0;
            let mut seen = |_: &_| {
                if step == 0.0 {
                    step = gpu.take_flops();
                }
                true
            };
            let (start, mask) = (latents(t), mask(plan)?);
            let mut cache = self.cache_for(plan)?;
            let mut noise = |_| vec![0.0; c * t * h * w];
            // what a rehearsal reads is zero at once, so this never waits
            pollster::block_on(self.run_given(&start, mask, &mut noise, &conditioned, plan, &mut cache, &mut seen))?;
            Ok(step * (plan.timesteps.len() * plan.long.clips) as f64)
        })?;
        if plan.long.clips > 1 {
            stage("join", &|| {
                let (_net, vae) = (net()?, vae()?);
                gpu.take_flops();
                let frames = plan.long.shared();
                all(vae.decode_frames(&latents(plan.long.condition_frames), frames)?)?;
                if let Some(size) = plan.encoded_together() {
                    encode(&vae, size)?;
                }
                Ok(gpu.take_flops() * (plan.long.clips - 1) as f64)
            })?;
        }
        stage("decode", &|| {
            let vae = vae()?;
            vae.decoder()?;
            weights.set(weights.get() + gpu.memory().0);
            let (frames, _all) = (plan.all_frames(), latents(plan.all_latents()));
            let some = frames.min(DECODED);
            gpu.take_flops();
            all(vae.decode_frames(&latents(vae.latent_size(some, 0, 0)[0]), some)?)?;
            Ok(gpu.take_flops() * frames as f64 / some as f64)
        })?;
        let Manner { residence, budget } = manner;
        Ok(Footprint { stages, residence, budget, weights: weights.get(), available: self.gpu.memory_size() })
    }

    /// Tokens of every text of a plan.
    fn tokens_of(&self, plan: &Plan) -> Vec<usize> {
        let most = self.transformer.model_max_length;
        plan.texts.iter().map(|text| self.tokenizer.encode(text, most).len()).collect()
    }
}

/// Decodes everything.
fn all(mut decoding: Decoding<'_>) -> Result<()> {
    decoding.try_for_each(|frames| frames.map(drop))
}

/// How far frames that are given may change, of a clip that has the most of them; `None` if there are none.
fn mask(plan: &Plan) -> Result<Option<Vec<f64>>> {
    let mut mask = vec![1.0; plan.latent[1]];
    for copy in plan.places(0)? {
        mask[copy.target_start..][..copy.length].fill(copy.edit);
    }
    if plan.long.clips > 1 {
        mask[..plan.long.condition_frames].fill(plan.long.edit);
    }
    Ok(mask.iter().any(|&m| m < 1.0).then_some(mask))
}

/// Says of a tensor that is too large for the adapter what stage of which video needs it.
fn too_large(plan: &Plan, stage: &str, error: Error) -> Error {
    let Error::Limit { need, have, what } = error else { return error };
    let doing = match stage {
        "denoise" => "denoising",
        "text" => return Error::Limit { need, have, what },
        "given" | "join" => "encoding frames of",
        _ => "decoding",
    };
    let fewer = if stage == "denoise" { " or fewer frames" } else { "" };
    Error::Limit {
        what: format!("{doing} {} frames of {}x{}: {what}", plan.frames, plan.width, plan.height),
        need,
        have: format!("{have}; ask for a smaller size{fewer}"),
    }
}
