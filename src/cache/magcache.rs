//! MagCache: reuse until the residual's size, by ratios measured beforehand, must have drifted too far.
//!
//! Source: "MagCache: Fast Video Generation with Magnitude-Aware Cache" (arXiv 2506.09045), as its script for Open-Sora
//! v1.2 does it. Ratio i is the mean over tokens of ‖residual‖₂ at evaluation i to that at i − 1. Once these are given
//! the schedule is fixed.

use std::ops::Range;

use super::{CachePolicy, Decision, Evaluation, Run, reuse_all};
use crate::error::Result;

/// Ratios measured on Open-Sora v1.2 over 30 evaluations, of evaluations 1 to 29.
#[rustfmt::skip]
const OPEN_SORA: [f64; 29] = [
    0.9662246115681384, 0.9822626939877133, 0.9980430852423156, 1.0, 0.9980430852423156, 0.9980430852423156,
    0.9960873455676466, 1.0, 1.0, 0.9980430852423156, 0.9960873455676466, 1.0,
    0.9960873455676466, 0.9980430852423156, 0.9960873455676466, 0.9980430852423156, 0.9980430852423156,
    0.9980430852423156, 0.9960873455676466, 0.9960873455676466, 0.9960873455676466, 0.9941227288418669,
    0.9941227288418669, 0.9921592614091752, 0.9921592614091752, 0.9882105038907449, 0.9882105038907449,
    0.9822626939877133, 0.9822626939877133,
];

/// Share of evaluations that are always computed, from the first.
const RETAINED: f64 = 0.2;

/// The policy and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct MagCache {
    threshold: f64,
    most: usize,
    ratios: Vec<f64>,
    // state of a run
    depth: usize,
    computes: Vec<bool>,
}

impl MagCache {
    /// Reuses while the accumulated error is at most `threshold` (released: 0.12), `most` times in a row (3); `ratios` of
    /// the evaluations from 1 on, those of Open-Sora v1.2 if there are none. Other lengths are resampled.
    pub fn new(threshold: f64, most: usize, ratios: Option<Vec<f64>>) -> Self {
        let ratios = ratios.filter(|r| !r.is_empty()).unwrap_or_else(|| OPEN_SORA.to_vec());
        Self { threshold, most, ratios, depth: 0, computes: Vec::new() }
    }
}

impl CachePolicy for MagCache {
    fn describe(&self) -> String {
        format!("magcache {}, {} in a row", self.threshold, self.most)
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        let count = run.evaluations();
        self.depth = run.depth;
        let (mut product, mut error, mut reused) = (1.0, 0.0, 0);
        let step = (self.ratios.len() - 1) as f64 / count.saturating_sub(2).max(1) as f64;
        let retained = ((RETAINED * count as f64 + 0.5) as usize).max(1);
        let computes = |i: usize| {
            if i < retained {
                return true;
            }
            let nearest = ((i - 1) as f64 * step).round_ties_even() as usize;
            product *= self.ratios[nearest.min(self.ratios.len() - 1)];
            error += (1.0f64 - product).abs();
            reused += 1;
            let computes = error > self.threshold || reused > self.most;
            if computes {
                (product, error, reused) = (1.0, 0.0, 0);
            }
            computes
        };
        self.computes = (0..count).map(computes).collect();
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        run.stream_bytes()
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        if self.computes[at.index] { Decision::Compute } else { reuse_all(self.depth) }
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
    fn the_released_schedule() {
        let made = schedule(&mut MagCache::new(0.12, 3, None), &run(30), |_| None);
        let computed: Vec<usize> = (0..30).filter(|&i| made[i] == 1).collect();
        assert_eq!(computed, [0, 1, 2, 3, 4, 5, 9, 13, 17, 21, 25, 29]);
    }

    #[test]
    fn errors_add_up_by_hand() {
        // from evaluation 2 on; after one reuse the error is 0.1, after two 0.1 + 0.19
        let mut policy = MagCache::new(0.2, 9, Some(vec![0.9; 9]));
        assert_eq!(schedule(&mut policy, &run(10), |_| None), [1, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
        let mut steady = MagCache::new(0.2, 2, Some(vec![1.0]));
        assert_eq!(schedule(&mut steady, &run(10), |_| None), [1, 1, 0, 0, 1, 0, 0, 1, 0, 0]);
        assert_eq!(schedule(&mut steady, &run(1), |_| None), [1]);
    }
}
