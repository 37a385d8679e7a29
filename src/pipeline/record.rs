//! Runs that are watched: what calibration of a cache learns from.

use std::cell::RefCell;

use super::open_sora::Conditioned;
use super::{Caption, OpenSora, Plan, Sampled};
use crate::cache::replay::{Recording, length, sketch};
use crate::cache::{Recorder, ResidualCache, Settings};
use crate::diffusion::sampler::{Denoiser, Step};
use crate::diffusion::schedule::step_size;
use crate::error::Result;
use crate::models::stdit3::STDiT3;
use crate::ops;
use crate::tensor::Tensor;

impl OpenSora {
    /// Denoises without sparing anything, and records at every step how far the measured residuals are from those of up to
    /// `back` steps before, and how far off the step would have been had the blocks' residuals of each of them been reused.
    /// That costs the work of one reused step for each. Holds `back` + 1 sums of residuals, `back` residuals for each
    /// measured site, and the latents of all steps.
    ///
    /// Then, for up to `probes` steps, more of them early, the run goes on from where such an error has been made, to its end: how much
    /// errors grow. That is some `probes`/1.7 runs more.
    ///
    /// # Errors
    /// As [`OpenSora::sample`].
    pub async fn record(
        &self,
        net: &STDiT3,
        caption: &Caption,
        plan: &Plan,
        settings: &Settings,
        back: usize,
        probes: usize,
        seen: &mut dyn FnMut(&Step) -> bool,
    ) -> Result<(Sampled, Recording)> {
        let recorder = Recorder::new(settings.clone(), back);
        let mut cache = self.begun(ResidualCache::new(Box::new(recorder)), plan)?;
        let watched = Watched {
            inner: Conditioned::new(net, caption, plan)?,
            plan,
            back,
            probed: probed(plan.timesteps.len(), probes),
            made: RefCell::default(),
        };
        let sampled = self.run(&watched, plan, &mut cache, seen).await?;
        drop(cache);
        let Watched { inner, made, .. } = watched;
        let Made { errors, perturbed } = made.into_inner();
        let mut growth = Vec::with_capacity(perturbed.len());
        for Perturbed { index, latents, error } in perturbed {
            let mut rest = plan.clone();
            rest.timesteps.drain(..=index);
            let off = &mut ResidualCache::off();
            let ended = self.run_from(&latents, &inner, &rest, off, &mut |step| seen(step)).await?;
            let apart = [ops::sub(&ended.latents, &sampled.latents), error];
            let lengths = self.gpu().read_all(&apart.iter().collect::<Vec<_>>()).await?;
            growth.push((index, length(&lengths[0]) / length(&lengths[1])));
        }
        let changes = sampled.steps.iter().map(|step| step.changes.clone()).collect();
        Ok((sampled, Recording::new(self.run_of(plan), changes, errors, &growth)))
    }
}

/// Steps (from 0) whose errors are followed: from the third, the first that AdaCache may reuse at, growing apart.
fn probed(steps: usize, most: usize) -> Vec<usize> {
    let place = |k: usize| 2 + ((k as f64 / most as f64).powi(2) * steps.saturating_sub(3) as f64).round() as usize;
    let mut places: Vec<usize> = (0..most).map(place).filter(|&i| i + 1 < steps).collect();
    places.dedup();
    places
}

/// Errors of residuals so old stand for all when their growth is followed.
const TYPICAL_AGE: usize = 2;

/// A denoiser that also tries what reuse would have given.
struct Watched<'a> {
    inner: Conditioned<'a>,
    plan: &'a Plan,
    back: usize,
    probed: Vec<usize>,
    made: RefCell<Made>,
}

#[derive(Default)]
struct Made {
    /// At every step, of the residuals of 1, 2, … steps before: the error of the latent after this step, in short.
    errors: Vec<Vec<Vec<f32>>>,
    perturbed: Vec<Perturbed>,
}

/// The latent after a step that reused.
struct Perturbed {
    index: usize,
    latents: Tensor,
    /// Less the right one.
    error: Tensor,
}

impl Denoiser for Watched<'_> {
    async fn velocity(
        &self,
        z: &Tensor,
        timesteps: &[f64],
        frame_mask: Option<&[bool]>,
        cache: &mut ResidualCache,
    ) -> Result<Tensor> {
        let velocity = self.inner.velocity(z, timesteps, frame_mask, cache).await?;
        let channels = z.dims()[1];
        let guided = |v: &Tensor| ops::guide(v, channels, self.plan.guidance as f32);
        let (right, index) = (guided(&velocity), self.made.borrow().errors.len());
        let mut apart = Vec::new();
        for age in 1..=self.back.min(index) {
            let mut weights = vec![0.0; age + 1];
            weights[age] = 1.0;
            cache.suppose(weights);
            let reused = self.inner.velocity(z, timesteps, frame_mask, cache).await?;
            apart.push(ops::sub(&guided(&reused), &right));
        }
        let dt = step_size(&self.plan.timesteps, index) as f32;
        let typical = apart.get(TYPICAL_AGE - 1).or(apart.last());
        if let Some(apart) = typical.filter(|_| self.probed.contains(&index)) {
            // z holds the sample twice, once for each half of the guidance batch
            let own = z.part(2, &(0..1)).reshape(right.shape().clone());
            let error = ops::mix(dt, apart, 0.0, apart);
            let latents = ops::add(&ops::mix(1.0, &own, dt, &right), &error);
            self.made.borrow_mut().perturbed.push(Perturbed { index, latents, error });
        }
        let apart = z.gpu().read_all(&apart.iter().collect::<Vec<_>>()).await?;
        let errors = apart.iter().map(|error| sketch(error.iter().map(|v| v * dt))).collect();
        self.made.borrow_mut().errors.push(errors);
        Ok(velocity)
    }
}
