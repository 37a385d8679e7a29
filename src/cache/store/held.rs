//! A cache put down between two evaluations, and taken up again.

use std::collections::VecDeque;
use std::ops::Range;

use super::super::{Decision, Site};
use super::{Evaluated, ResidualCache};
use crate::gpu::DType;
use crate::tensor::Tensor;

/// What a cache keeps between two evaluations.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Where each tensor belongs …
    pub outline: Outline,
    /// … in its order.
    pub tensors: Vec<Tensor>,
}

/// The places of kept tensors, in order: sums, then sites, then what a probe is compared with; the newest first at each.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outline {
    /// Pairs whose sum is kept, and how many of these sums.
    sums: Option<(Range<usize>, usize)>,
    /// Sites whose residual is kept, and how many of each.
    kept: Vec<(Site, usize)>,
    /// Whether there is something to compare a probe with.
    probed: bool,
    /// The most bytes that were held so far.
    peak: u64,
}

impl Outline {
    /// The same of a cache that keeps nothing any more.
    pub(crate) fn emptied(self) -> Self {
        Self { peak: self.peak, ..Self::default() }
    }

    /// Tensors it speaks of, or none if they cannot be counted.
    fn count(&self) -> Option<usize> {
        let counts = self.sums.iter().map(|(_, n)| *n).chain(self.kept.iter().map(|(_, n)| *n));
        counts.chain([usize::from(self.probed)]).try_fold(0usize, usize::checked_add)
    }
}

impl ResidualCache {
    /// What is kept now, between two evaluations.
    pub fn held(&self) -> Held {
        let mut kept: Vec<_> = self.kept.iter().filter(|(_, tensors)| !tensors.is_empty()).collect();
        kept.sort_by_key(|(site, _)| **site);
        let sums = self.sums.iter().flat_map(|(_, sums)| sums);
        let tensors = sums.chain(kept.iter().flat_map(|(_, tensors)| *tensors)).chain(&self.probed).cloned().collect();
        let outline = Outline {
            sums: self.sums.as_ref().map(|(range, sums)| (range.clone(), sums.len())),
            kept: kept.iter().map(|(site, tensors)| (**site, tensors.len())).collect(),
            probed: self.probed.is_some(),
            peak: self.peak,
        };
        Held { outline, tensors }
    }

    /// Takes up a run that has begun here, behind evaluations made elsewhere: the policy is told once more what it was
    /// told there, and concludes the same, so that its rows come out again; `held` is what was kept behind the last.
    ///
    /// # Errors
    /// What is wrong with these evaluations or tensors, if they are not of such a run.
    pub fn resume(&mut self, past: &mut [Evaluated], held: Held) -> Result<(), String> {
        for (index, evaluated) in past.iter_mut().enumerate() {
            self.tell(index, evaluated)?;
        }
        self.begun = past.len();
        self.take(held)
    }

    /// The calls of one evaluation, as the store made them.
    fn tell(&mut self, index: usize, evaluated: &mut Evaluated) -> Result<(), String> {
        let Some((policy, run)) = self.policy.as_mut().zip(self.run.as_ref()) else { return Ok(()) };
        if index >= run.evaluations() {
            return Err(format!("has evaluation {} of a run of {}", index + 1, run.evaluations()));
        }
        let at = run.at(index);
        let decision = match policy.decide(&at) {
            Decision::Ask(_) => policy.answer(&at, evaluated.signal),
            decided => decided,
        };
        // (one that was to be reused is computed where nothing was kept)
        if decision == Decision::Compute && !evaluated.computed {
            let described = policy.describe();
            return Err(format!("reused step {}, where {described} computes; is it of another version?", index + 1));
        }
        if evaluated.computed {
            evaluated.rows = policy.finish(&at, &evaluated.changes);
        }
        Ok(())
    }

    /// Puts tensors where they belong.
    fn take(&mut self, Held { outline, tensors }: Held) -> Result<(), String> {
        if outline.count() != Some(tensors.len()) {
            return Err(format!("holds {} tensors of a cache, and speaks of others", tensors.len()));
        }
        let Some(run) = self.run.as_ref().filter(|_| self.policy.is_some()) else {
            let none = tensors.is_empty();
            return if none { Ok(()) } else { Err("holds tensors of a cache, and the run has none".into()) };
        };
        let stream = [run.batch, run.frames * run.patches, run.width];
        let bare = tensors.len() - usize::from(outline.probed);
        let wrong = tensors.iter().enumerate().find(|(i, t)| {
            // (a probe may be of some samples only; one of another size is never compared)
            t.dtype() != DType::F32 || (*i < bare && t.dims() != stream)
        });
        if let Some((i, tensor)) = wrong {
            return Err(format!("holds {tensor:?} as tensor {i} of its cache, expected F32{stream:?}"));
        }
        if let Some((range, _)) = outline.sums.as_ref().filter(|(range, _)| range.is_empty() || range.end > run.depth) {
            return Err(format!("holds sums of pairs {range:?}, the model has {}", run.depth));
        }
        let mut tensors = tensors.into_iter();
        let mut some = |count: usize| tensors.by_ref().take(count).collect::<VecDeque<Tensor>>();
        self.sums = outline.sums.map(|(range, count)| (range, some(count)));
        self.kept = outline.kept.into_iter().map(|(site, count)| (site, some(count))).collect();
        self.probed = tensors.next();
        self.peak = outline.peak;
        Ok(())
    }
}
