//! A schedule fixed beforehand: every so many evaluations, or the ones named.
//!
//! Source of the interval: FORA, "Fast-Forward Caching in Diffusion Transformer Acceleration" (arXiv 2407.01425), which
//! counts down to the last evaluation, so that this one is always computed and the first interval may be a short one.
//! Here the sum of all residuals is reused, where FORA keeps the ungated output of every branch.

use std::ops::Range;

use super::{CachePolicy, Decision, Evaluation, Run, reuse_all};
use crate::error::{Error, Result};

/// The policy and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    when: When,
    // state of a run
    depth: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum When {
    Every(usize),
    Mask(Vec<bool>),
}

impl Fixed {
    /// Computes the first evaluation and, counted from the last backwards, every `interval`-th.
    pub fn every(interval: usize) -> Self {
        Self { when: When::Every(interval.max(1)), depth: 0 }
    }

    /// Computes the evaluations that are true.
    ///
    /// # Errors
    /// [`Error::Request`] if the first is not: there is nothing to reuse yet.
    pub fn mask(mask: Vec<bool>) -> Result<Self> {
        if mask.first() != Some(&true) {
            return Err(Error::request("cache mask", "must begin with a computed step: there is nothing to reuse yet"));
        }
        Ok(Self { when: When::Mask(mask), depth: 0 })
    }
}

impl CachePolicy for Fixed {
    fn describe(&self) -> String {
        match &self.when {
            When::Every(interval) => format!("static every {interval}"),
            When::Mask(_) => "static mask".into(),
        }
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        if let When::Mask(mask) = &self.when
            && mask.len() != run.evaluations()
        {
            let problem = format!("names {} steps, the run has {}", mask.len(), run.evaluations());
            return Err(Error::request("cache mask", problem));
        }
        self.depth = run.depth;
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        run.stream_bytes()
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        let computes = match &self.when {
            When::Every(interval) => at.first || (at.count - 1 - at.index).is_multiple_of(*interval),
            When::Mask(mask) => mask[at.index],
        };
        if computes { Decision::Compute } else { reuse_all(self.depth) }
    }

    fn stores(&self) -> Option<Range<usize>> {
        Some(0..self.depth)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{run, schedule};
    use super::*;

    #[test]
    fn intervals_end_with_the_last() {
        let of = |interval, count| schedule(&mut Fixed::every(interval), &run(count), |_| None);
        assert_eq!(of(3, 7), [1, 0, 0, 1, 0, 0, 1]);
        assert_eq!(of(2, 6), [1, 1, 0, 1, 0, 1]);
        assert_eq!(of(1, 4), [1; 4]);
        assert_eq!(of(9, 4), [1, 0, 0, 1]);
    }

    #[test]
    fn masks_fit_the_run() {
        let mask = vec![true, false, true];
        assert_eq!(schedule(&mut Fixed::mask(mask.clone()).unwrap(), &run(3), |_| None), [1, 0, 1]);
        let message = Fixed::mask(mask).unwrap().begin(&run(4)).unwrap_err().to_string();
        assert!(message.contains("names 3 steps, the run has 4"), "{message}");
        assert!(Fixed::mask(vec![]).is_err() && Fixed::mask(vec![false, true]).is_err());
    }
}
