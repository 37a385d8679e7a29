//! A run at rest between two steps: everything that it needs to go on.
//!
//! What a cache policy has concluded is not kept but concluded again, from what it was told. Noise is drawn again. So a
//! state is the latent, what the cache holds, the steps so far, and what earlier stages made: captions, given frames,
//! finished clips.

mod file;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::denoising::{Clip, Past};
use super::video::{ClipNoise, Latents};
use super::{Caption, GivenLatents, OpenSora, Plan};
use crate::cache::{Change, Evaluated, Held, Outline, Site};
use crate::diffusion::sampler::Step;
use crate::error::{Error, Result};
use crate::gpu::{DType, Facts};
use crate::tensor::{Tensor, fingerprint};

/// Most characters of a value in a message.
const TOLD: usize = 60;

/// A run at rest between two steps.
#[derive(Clone, Debug)]
pub struct State {
    /// Whatever the host keeps with it.
    pub note: Value,
    /// What messages call it.
    name: PathBuf,
    head: Head,
    /// Different ones alone.
    captions: Vec<Caption>,
    given: GivenLatents,
    /// Finished clips, joined.
    made: Option<Latents>,
    /// The start latent, where it was given.
    start: Option<Vec<f32>>,
    /// Of the clip that is being made, `[ch, T, H, W]`.
    latent: Vec<f32>,
    cache: Vec<Stored>,
}

/// What is no tensor.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    program: String,
    model: Identity,
    device: Facts,
    /// Every number of the run, in words.
    plan: BTreeMap<String, String>,
    /// The clip that is being made, from 0.
    clip: usize,
    /// Steps of all clips so far.
    steps: Vec<Made>,
    /// The most bytes that the caches of finished clips held.
    cache_bytes: u64,
    cache: Outline,
    /// The caption of each clip.
    captions: Vec<usize>,
    /// Of each caption.
    tokens: Vec<Vec<u32>>,
}

/// What tells a model from others.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// Its name.
    name: String,
    /// [`fingerprint`] of the network's weights …
    transformer: String,
    /// … and of the autoencoder's.
    vae: String,
}

impl Identity {
    pub fn of(sora: &OpenSora) -> Result<Self> {
        Ok(Self {
            name: sora.parts.name.clone(),
            transformer: fingerprint(&sora.parts.transformer)?,
            vae: [Some(&sora.parts.vae), sora.parts.vae_2d.as_ref()]
                .into_iter()
                .flatten()
                .map(|folder| fingerprint(folder))
                .collect::<Result<Vec<_>>>()?
                .join("+"),
        })
    }
}

/// A step that was made. Measured numbers are kept as their bits: a policy is to hear exactly the same again, and JSON has
/// no word for all of them.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    computed: bool,
    work: u64,
    branches: Option<usize>,
    signal: Option<u64>,
    /// Site, distances, motion.
    changes: Vec<(Site, Vec<u64>, Vec<u64>)>,
    seconds: f64,
}

impl From<&Step> for Made {
    fn from(step: &Step) -> Self {
        let bits = |numbers: &[f64]| numbers.iter().map(|v| v.to_bits()).collect();
        Self {
            computed: step.computed,
            work: step.work.to_bits(),
            branches: step.branches,
            signal: step.signal.map(f64::to_bits),
            changes: step.changes.iter().map(|c| (c.site, bits(&c.distances), bits(&c.motion))).collect(),
            seconds: step.seconds.as_secs_f64(),
        }
    }
}

impl Made {
    /// As the store had it; a policy's rows come when it hears of it.
    fn evaluated(&self) -> Evaluated {
        let numbers = |bits: &[u64]| bits.iter().copied().map(f64::from_bits).collect();
        let change = |(site, distances, motion): &(Site, Vec<u64>, Vec<u64>)| Change {
            site: *site,
            distances: numbers(distances),
            motion: numbers(motion),
        };
        Evaluated {
            computed: self.computed,
            work: f64::from_bits(self.work),
            branches: self.branches,
            signal: self.signal.map(f64::from_bits),
            changes: self.changes.iter().map(change).collect(),
            rows: Vec::new(),
        }
    }
}

/// A tensor as it lies on the device.
#[derive(Clone, Debug)]
struct Stored {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Every number that a run hangs on, in words.
fn words(plan: &Plan) -> BTreeMap<String, String> {
    let (given, long, steps) = (&plan.given, &plan.long, plan.timesteps.len());
    let latents = if plan.latents.is_some() { "given" } else { "noise" };
    [
        ("cache", plan.cache.identity(steps)),
        ("frames", plan.frames.to_string()),
        ("frame rate", plan.model_fps().to_string()),
        (
            "given frames",
            format!("{:?} {:?} {:?} {:?}", given.mask_strategy, given.align, given.posterior, plan.held()),
        ),
        ("guidance", plan.guidance.to_string()),
        ("latent", format!("{:?}", plan.latent)),
        ("loop", format!("{} {} {}", long.clips, long.condition_frames, long.edit)),
        ("noise", plan.rng.to_string()),
        ("seed", plan.seed.to_string()),
        ("size", format!("{}x{}", plan.width, plan.height)),
        ("start latent", latents.into()),
        ("steps", steps.to_string()),
        ("text", format!("{:?}", plan.texts)),
        ("timesteps", format!("{:?}", plan.timesteps)),
    ]
    .map(|(name, value)| (name.to_string(), value))
    .into()
}

impl State {
    /// Reads a run back from its device.
    pub(super) async fn of(
        sora: &OpenSora,
        model: Identity,
        plan: &Plan,
        captions: &[&Caption],
        given: &GivenLatents,
        (past, clip): (&Past, &Clip),
    ) -> Result<Self> {
        if clip.steps.is_empty() {
            return Err(Error::request("state", "has nothing to keep before the first step of a clip"));
        }
        // behind the last step nobody asks the cache any more, but for the most it held
        let over = clip.steps.len() == plan.timesteps.len();
        let Held { outline, tensors } = clip.cache.held();
        let (outline, tensors) = if over { (outline.emptied(), Vec::new()) } else { (outline, tensors) };
        let all: Vec<&Tensor> = tensors.iter().chain([clip.sampler.latent()]).collect();
        let mut read = sora.gpu().read_stored(&all).await?;
        let latent = read.pop().unwrap_or_default();
        let mut different: Vec<&Caption> = Vec::new();
        let numbers = captions.iter().map(|caption| {
            different.iter().position(|c| c == caption).unwrap_or_else(|| {
                different.push(caption);
                different.len() - 1
            })
        });
        let numbers: Vec<usize> = numbers.collect();
        let head = Head {
            program: env!("CARGO_PKG_VERSION").into(),
            model,
            device: sora.gpu().facts(),
            plan: words(plan),
            clip: clip.number,
            steps: past.steps.iter().chain(&clip.steps).map(Made::from).collect(),
            cache_bytes: past.cache_bytes,
            cache: outline,
            captions: numbers,
            tokens: different.iter().map(|caption| caption.tokens.clone()).collect(),
        };
        let [_, _, h, w] = plan.latent;
        let stored = |(tensor, bytes): (&Tensor, Vec<u8>)| Stored {
            dtype: tensor.dtype(),
            shape: tensor.dims().to_vec(),
            bytes,
        };
        Ok(Self {
            note: Value::Null,
            name: "state".into(),
            head,
            captions: different.into_iter().cloned().collect(),
            given: given.clone(),
            made: (!past.parts.is_empty()).then(|| Latents::join(&past.parts, h * w)),
            start: plan.latents.clone(),
            latent: bytemuck::pod_collect_to_vec(&latent),
            cache: tensors.iter().zip(read).map(stored).collect(),
        })
    }

    /// The captions of all clips, in order.
    pub fn captions(&self) -> Vec<Caption> {
        self.head.captions.iter().map(|&number| self.captions[number].clone()).collect()
    }

    /// The given frames, encoded.
    pub fn given(&self) -> &GivenLatents {
        &self.given
    }

    /// The start latent, where it was given and not noise.
    pub fn start(&self) -> Option<&[f32]> {
        self.start.as_deref()
    }

    /// Steps made, those of finished clips included.
    pub fn steps(&self) -> usize {
        self.head.steps.len()
    }

    /// The clip that is being made, from 0.
    pub fn clip(&self) -> usize {
        self.head.clip
    }

    /// Seconds that its steps have taken.
    pub fn seconds(&self) -> f64 {
        self.head.steps.iter().map(|step| step.seconds).sum()
    }

    /// The device that it was saved on.
    pub fn device(&self) -> &Facts {
        &self.head.device
    }

    fn wrong(&self, problem: impl Into<String>) -> Error {
        Error::checkpoint(&self.name, problem)
    }

    /// The run of a plan, behind this state's steps.
    pub(super) fn revive(&self, sora: &OpenSora, plan: &Plan) -> Result<(Past, Clip)> {
        self.check(sora, plan)?;
        let (head, [c, t, h, w]) = (&self.head, plan.latent);
        let (count, cell) = (plan.timesteps.len(), h * w);
        let mut past = Past { cache_bytes: head.cache_bytes, ..Past::default() };
        past.parts.extend(self.made.clone());
        let mut noise = ClipNoise::new(plan, c * t * cell);
        noise.start();
        let mut clip = plan.clip_at(sora, head.clip, &self.latent, noise, head.steps.len() - head.clip * count)?;
        for (number, made) in head.steps.chunks(count).enumerate() {
            let mut evaluated: Vec<Evaluated> = made.iter().map(Made::evaluated).collect();
            let last = number == head.clip;
            let (mut earlier, mut held) = (None, Held::default());
            if last {
                let upload = |s: &Stored| sora.gpu().upload_stored(&s.bytes, s.shape.clone(), s.dtype);
                held = Held { outline: head.cache.clone(), tensors: self.cache.iter().map(upload).collect() };
            } else {
                earlier = Some(sora.cache_for(plan)?);
            }
            earlier.as_mut().unwrap_or(&mut clip.cache).resume(&mut evaluated, held).map_err(|e| self.wrong(e))?;
            let step = |(i, (evaluated, made)): (usize, (Evaluated, &Made))| {
                let seconds = Duration::try_from_secs_f64(made.seconds).unwrap_or_default();
                Step::new(i, plan.timesteps[i], seconds, evaluated)
            };
            let steps = evaluated.into_iter().zip(made).enumerate().map(step);
            if last { &mut clip.steps } else { &mut past.steps }.extend(steps);
        }
        Ok((past, clip))
    }

    /// Whether it is of this model and plan.
    fn check(&self, sora: &OpenSora, plan: &Plan) -> Result<()> {
        let (head, model) = (&self.head, Identity::of(sora)?);
        for (part, then, now) in
            [("transformer", &head.model.transformer, &model.transformer), ("autoencoder", &head.model.vae, &model.vae)]
        {
            if then != now {
                let (then, now) = (&head.model.name, &model.name);
                let problem = format!(
                    "is of the model `{then}`, and the {part} of `{now}` has other weights; give the same model"
                );
                return Err(self.wrong(problem));
            }
        }
        let told = |text: Option<&String>| match text.map(String::as_str) {
            None => "not there".into(),
            Some(text) if text.chars().count() > TOLD => format!("{}…", text.chars().take(TOLD).collect::<String>()),
            Some(text) => text.to_string(),
        };
        for (field, now) in &words(plan) {
            let then = head.plan.get(field);
            if then != Some(now) {
                let (then, now) = (told(then), told(Some(now)));
                return Err(self.wrong(format!("is of another run: its {field} is {then}, here it is {now}")));
            }
        }
        let ([c, t, h, w], count) = (plan.latent, plan.timesteps.len());
        let (done, clips) = (head.steps.len(), plan.long.clips);
        if head.clip >= clips || done <= head.clip * count || done > (head.clip + 1) * count {
            let clip = head.clip;
            return Err(self.wrong(format!("has {done} steps in clip {clip}, this run {count} in each of {clips}")));
        }
        let made: usize = (0..head.clip).map(|clip| t - plan.taken_over(clip)).sum();
        let frames = self.made.as_ref().map_or(0, |m| m.frames);
        let fits = |latents: &Latents| latents.numbers.len() == c * latents.frames * h * w;
        if self.latent.len() != c * t * h * w || frames != made || !self.made.iter().all(fits) {
            return Err(self.wrong("has latents of another size than its plan; is the file damaged?"));
        }
        let held = plan.held();
        if self.given.0.len() != held.len() || !self.given.0.iter().zip(held).all(|(g, &n)| g.frames == n && fits(g)) {
            return Err(self.wrong("has given frames of another size than its plan; is the file damaged?"));
        }
        let (width, most) = (sora.transformer.caption_channels, sora.transformer.model_max_length);
        let wrong = |c: &&Caption| c.rows.len() != c.tokens.len() * width || !(1..=most).contains(&c.tokens.len());
        if head.captions.len() != clips || self.captions.iter().any(|c| wrong(&c)) {
            return Err(self.wrong(format!("has captions that {clips} clips of this model cannot read")));
        }
        let device = sora.gpu().facts();
        if device != head.device {
            let (then, now) = (&head.device, &device);
            log::warn!(
                "the run began on {} ({}, {}, kernels {}, {}) and goes on with {} ({}, {}, kernels {}, {}): its last digits may differ",
                then.name,
                then.backend,
                then.driver,
                then.kernels,
                then.dtype,
                now.name,
                now.backend,
                now.driver,
                now.kernels,
                now.dtype
            );
        }
        Ok(())
    }
}
