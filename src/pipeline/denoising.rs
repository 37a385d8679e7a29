//! Denoising a video step by step, clip after clip: what can be watched, put down and taken up again.

use super::open_sora::Conditioned;
use super::state::{Identity, State};
use super::video::{ClipNoise, Latents};
use super::{Caption, GivenLatents, OpenSora, Plan, Sampled};
use crate::cache::ResidualCache;
use crate::diffusion::sampler::{Sampler, Step};
use crate::error::{Error, Result};
use crate::models::stdit3::STDiT3;
use crate::models::vae::OpenSoraVae;

/// The denoising of a plan, between two steps. Dropping it is stopping.
pub struct Denoising<'a> {
    sora: &'a OpenSora,
    net: &'a STDiT3,
    captions: Vec<&'a Caption>,
    plan: &'a Plan,
    given: &'a GivenLatents,
    /// What joins clips, of several.
    vae: Option<OpenSoraVae>,
    past: Past,
    clip: Clip,
    conditioned: Conditioned<'a>,
    identity: Option<Identity>,
}

/// Clips that are finished.
#[derive(Default)]
pub(super) struct Past {
    /// Each without what it shares with the one before.
    pub parts: Vec<Latents>,
    pub steps: Vec<Step>,
    /// The most that a cache held.
    pub cache_bytes: u64,
}

/// The clip that is being made.
pub(super) struct Clip {
    /// From 0.
    pub number: usize,
    pub noise: ClipNoise,
    pub sampler: Sampler,
    pub cache: ResidualCache,
    pub steps: Vec<Step>,
}

impl Clip {
    fn is_done(&self) -> bool {
        self.sampler.done() == self.sampler.count()
    }
}

impl Plan {
    /// Latent frames that a clip takes over from the one before.
    pub(super) fn taken_over(&self, clip: usize) -> usize {
        if clip == 0 { 0 } else { self.long.condition_frames }
    }

    /// How far each latent frame of a clip may change; `None` if all are made anew.
    pub(super) fn mask(&self, clip: usize) -> Result<Option<Vec<f64>>> {
        let mut mask = vec![1.0; self.latent[1]];
        for copy in self.places(clip)? {
            mask[copy.target_start..][..copy.length].fill(copy.edit);
        }
        mask[..self.taken_over(clip)].fill(self.long.edit);
        Ok(mask.iter().any(|&m| m < 1.0).then_some(mask))
    }

    /// A clip at a latent (`[ch, T, H, W]`) with so many steps behind it, of which nothing is known yet.
    pub(super) fn clip_at(
        &self,
        sora: &OpenSora,
        number: usize,
        numbers: &[f32],
        noise: ClipNoise,
        done: usize,
    ) -> Result<Clip> {
        let [c, t, h, w] = self.latent;
        let z = sora.gpu().upload(numbers, [1, c, t, h, w]);
        let timesteps = vec![self.timesteps.clone()];
        let sampler = Sampler::at(z, timesteps, self.guidance as f32, self.mask(number)?, done);
        Ok(Clip { number, noise, sampler, cache: sora.cache_for(self)?, steps: Vec::new() })
    }
}

impl OpenSora {
    /// Begins to denoise all clips of a plan, each by its caption, or goes on behind a state of such a run. `given` are
    /// the given frames of the same plan.
    ///
    /// # Errors
    /// [`Error::Request`] if there are not as many captions as clips, or given frames as the plan has;
    /// [`Error::Checkpoint`] if the state is of another plan or model; of several clips, those of [`OpenSora::open_vae`].
    pub fn denoise<'a>(
        &'a self,
        net: &'a STDiT3,
        captions: &[&'a Caption],
        plan: &'a Plan,
        given: &'a GivenLatents,
        from: Option<&State>,
    ) -> Result<Denoising<'a>> {
        let revived = from.map(|state| state.revive(self, plan)).transpose()?;
        let (clips, references) = (plan.long.clips, plan.given.references.len());
        if captions.len() != clips || given.0.len() != references {
            let (texts, encoded) = (captions.len(), given.0.len());
            let problem =
                format!("has {clips} clips and {references} references, not {texts} captions and {encoded} references");
            return Err(Error::request("plan", problem));
        }
        let (past, clip) = match revived {
            Some(revived) => revived,
            None => (Past::default(), self.begin_clip(plan, given, 0, None)?),
        };
        Ok(Denoising {
            sora: self,
            net,
            captions: captions.to_vec(),
            plan,
            given,
            vae: if clips > 1 { Some(self.open_vae()?) } else { None },
            conditioned: Conditioned::new(net, captions[clip.number], plan)?,
            past,
            clip,
            identity: None,
        })
    }

    /// What a state whose last step is the last of its plan has made; `None` if steps are missing.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is of another plan or model; whatever goes wrong on the device.
    pub async fn finished(&self, plan: &Plan, state: &State) -> Result<Option<Sampled>> {
        let (past, clip) = state.revive(self, plan)?;
        let all = clip.is_done() && clip.number + 1 == plan.long.clips;
        Ok(if all { Some(self.joined(plan, past, clip).await?) } else { None })
    }

    /// A clip before its first step.
    fn begin_clip(&self, plan: &Plan, given: &GivenLatents, number: usize, before: Option<&Latents>) -> Result<Clip> {
        let [c, t, h, w] = plan.latent;
        let cell = h * w;
        let mut noise = ClipNoise::new(plan, c * t * cell);
        let start = noise.start();
        let numbers = plan.latents.clone().filter(|_| number == 0).unwrap_or(start);
        let mut z = Latents { frames: t, numbers };
        for copy in plan.places(number)?.iter().filter(|copy| copy.edit < 1.0) {
            z.put(copy.target_start, &given.0[copy.reference], copy.ref_start, copy.length, cell);
        }
        if let Some(before) = before.filter(|_| plan.long.edit < 1.0) {
            z.put(0, before, 0, before.frames, cell);
        }
        plan.clip_at(self, number, &z.numbers, noise, 0)
    }

    /// Denoises all clips of a plan as [`OpenSora::denoise`] does, to the end. `seen` gets the clip and every step of it,
    /// and says whether to go on. The latents are those of [`Plan::all_frames`].
    ///
    /// # Errors
    /// Those of [`OpenSora::denoise`] and [`Denoising::step`]; [`Error::Cancelled`].
    pub async fn sample_video(
        &self,
        net: &STDiT3,
        captions: &[&Caption],
        plan: &Plan,
        given: &GivenLatents,
        seen: &mut dyn FnMut(usize, &Step) -> bool,
    ) -> Result<Sampled> {
        let mut run = self.denoise(net, captions, plan, given, None)?;
        while let Some((clip, step)) = run.step().await? {
            if !seen(clip, step) {
                return Err(Error::Cancelled);
            }
        }
        run.finish().await
    }

    /// The latents of all clips, and how they were made.
    async fn joined(&self, plan: &Plan, mut past: Past, clip: Clip) -> Result<Sampled> {
        let [c, t, h, w] = plan.latent;
        let mut sampled = Sampled::new(clip.sampler.latent().clone(), clip.steps, &clip.cache);
        if plan.long.clips == 1 {
            return Ok(sampled);
        }
        let (shared, cell) = (plan.taken_over(clip.number), h * w);
        let last = Latents { frames: t, numbers: sampled.latents.read().await? };
        past.parts.push(last.part(shared, t - shared, cell));
        let all = Latents::join(&past.parts, cell);
        sampled.latents = self.gpu().upload(&all.numbers, [1, c, all.frames, h, w]);
        sampled.steps.splice(0..0, past.steps);
        sampled.cache_bytes = sampled.cache_bytes.max(past.cache_bytes);
        Ok(sampled)
    }
}

impl Denoising<'_> {
    /// Makes the next step, and before the first of a further clip encodes again where the one before ends: the clip,
    /// from 0, and the step; `None` if all are made.
    ///
    /// # Errors
    /// Whatever goes wrong on the device; of several clips, if the autoencoder does not fit.
    pub async fn step(&mut self) -> Result<Option<(usize, &Step)>> {
        if self.clip.is_done() {
            if self.is_done() {
                return Ok(None);
            }
            self.next_clip().await?;
        }
        let Clip { number, noise, sampler, cache, steps } = &mut self.clip;
        let mut fresh = |step: usize| noise.of_step(step);
        let step = sampler.step(&self.conditioned, cache, &mut fresh).await?;
        steps.push(step);
        Ok(steps.last().map(|step| (*number, step)))
    }

    /// Whether all steps are made.
    pub fn is_done(&self) -> bool {
        self.clip.is_done() && self.clip.number + 1 == self.plan.long.clips
    }

    /// Every step so far, those behind the state that the run began from included.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.past.steps.iter().chain(&self.clip.steps)
    }

    /// Everything that a run needs to go on from here, on this device or another, read back from it. There is nothing to
    /// keep before the first step.
    ///
    /// # Errors
    /// [`Error::Request`] before the first step; [`Error::Io`] if the model's files cannot be read; whatever goes wrong
    /// on the device.
    pub async fn state(&mut self) -> Result<State> {
        let identity = match &self.identity {
            Some(identity) => identity.clone(),
            None => self.identity.insert(Identity::of(self.sora)?).clone(),
        };
        State::of(self.sora, identity, self.plan, &self.captions, self.given, (&self.past, &self.clip)).await
    }

    /// Makes what steps are left. The latents are those of [`Plan::all_frames`].
    ///
    /// # Errors
    /// Those of [`Denoising::step`].
    pub async fn finish(mut self) -> Result<Sampled> {
        while self.step().await?.is_some() {}
        self.sora.joined(self.plan, self.past, self.clip).await
    }

    /// Goes on to the next clip.
    async fn next_clip(&mut self) -> Result<()> {
        let (sora, plan) = (self.sora, self.plan);
        let Some(vae) = &self.vae else { return Err(Error::request("loop", "has no further clip")) };
        let (number, [_, t, h, w]) = (self.clip.number, plan.latent);
        let made = Latents { frames: t, numbers: self.clip.sampler.latent().read().await? };
        let mut rest = self.clip.noise.clone().rest(plan.timesteps.len());
        let before = sora.taken_over(vae, plan, &made, &mut rest).await?;
        let next = sora.begin_clip(plan, self.given, number + 1, Some(&before))?;
        let clip = std::mem::replace(&mut self.clip, next);
        self.conditioned = Conditioned::new(self.net, self.captions[number + 1], plan)?;
        let shared = plan.taken_over(number);
        self.past.parts.push(made.part(shared, t - shared, h * w));
        self.past.steps.extend(clip.steps);
        self.past.cache_bytes = self.past.cache_bytes.max(clip.cache.bytes());
        Ok(())
    }
}
