//! Whether a run fits the adapter, and how it is made to.

use super::budget::{Budget, Footprint};
use super::rehearsal::{Manner, Rehearsal};
use super::{OpenSora, Plan, Request};
use crate::cache::CacheSpec;
use crate::error::{Error, Result};
use crate::gpu::{lock, mib};
use crate::models::stdit3::Residence;

/// Sizes to suggest, as shares of what was asked for.
const SMALLER: [f64; 4] = [0.75, 0.5, 0.375, 0.25];

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
        let made = match self.fitted(request.memory, &|manner| Rehearsal::run(self, plan, manner))? {
            Ok(made) => made,
            Err(least) => return Err(self.refused(plan, request, &least)),
        };
        lock(&self.footprints).insert(key, made.clone());
        Ok(made)
    }

    /// What decoding latents `[channels, T, H, W]` of so many frames takes, in a manner that fits the budget.
    ///
    /// # Errors
    /// As [`OpenSora::plan`].
    pub fn decode_footprint(&self, latent: [usize; 4], frames: usize, asked: Budget) -> Result<Footprint> {
        let rehearse = |manner| {
            let mut rehearsal = Rehearsal::new(self, manner);
            rehearsal.decode(latent, frames)?;
            Ok(rehearsal.footprint())
        };
        self.fitted(asked, &rehearse)?.map_err(|least| {
            let have = asked.bytes(&self.gpu).map_or_else(String::new, mib);
            let have = format!("{have}; ask for more with --memory");
            let what = format!("decoding {frames} frames on `{}`", self.gpu.info().name);
            Error::Limit { what, need: format!("{} at the least", mib(least.least_bytes())), have }
        })
    }

    /// The footprint in the fastest manner that fits, or what the most sparing one takes.
    fn fitted(
        &self,
        asked: Budget,
        rehearse: &dyn Fn(Manner) -> Result<Footprint>,
    ) -> Result<std::result::Result<Footprint, Footprint>> {
        let have = asked.bytes(&self.gpu);
        let fits = |footprint: &Footprint| have.is_none_or(|have| footprint.peak_bytes() <= have);
        if asked != Budget::Low {
            let free = rehearse(FREELY)?;
            if fits(&free) {
                return Ok(Ok(free));
            }
            if have.is_some_and(|have| free.least_bytes() <= have) {
                return Ok(Ok(rehearse(Manner { budget: have, ..FREELY })?));
            }
        }
        let sparing = rehearse(SPARINGLY)?;
        let least = sparing.least_bytes();
        if have.is_some_and(|have| least > have) {
            return Ok(Err(sparing));
        }
        let budget = match asked {
            // a little more than it takes, or every buffer would be given back before the next is made
            Budget::Low => (least + least / 16).min(have.unwrap_or(u64::MAX)),
            _ => have.unwrap_or(least),
        };
        Ok(Ok(rehearse(Manner { budget: Some(budget), ..SPARINGLY })?))
    }

    /// The refusal of a run whose most sparing manner takes `least`, with changes that would make it fit.
    fn refused(&self, plan: &Plan, request: &Request, least: &Footprint) -> Error {
        let fits = |change: &dyn Fn(&mut Request)| {
            let mut other = request.clone();
            other.latents = None;
            change(&mut other);
            let plan = self.resolve(&other).ok()?;
            self.fitted(request.memory, &|manner| Rehearsal::run(self, &plan, manner)).ok()?.ok()
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
            [] if stage == "text" => "give it more with --memory: the text encoder alone takes that".to_string(),
            [] => "ask for a smaller size and fewer frames, or give it more with --memory".to_string(),
            some => format!("ask for {}", some.join(", or ")),
        };
        Error::Limit {
            what: format!("{} frames of {}x{} on `{}`", plan.frames, plan.width, plan.height, self.gpu.info().name),
            need: format!("{} at the least ({stage})", mib(bytes)),
            have: format!("{have}; {ask}"),
        }
    }

    /// Tokens of every text of a plan.
    pub(super) fn tokens_of(&self, plan: &Plan) -> Vec<usize> {
        let most = self.transformer.model_max_length;
        plan.texts.iter().map(|text| self.tokenizer.encode(text, most).len()).collect()
    }
}
