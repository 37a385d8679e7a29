//! First-Block-Cache: compute the first pair, and the others when what it adds has changed enough.
//!
//! Source: ParaAttention, `first_block_cache`. The change is relative to the last evaluation that computed all, not to
//! the one before. A pair (one spatial, one temporal block) stands for the first block.

use std::ops::Range;

use super::{CachePolicy, Decision, Evaluation, Probe, Run, Taylor};
use crate::error::{Error, Result};

/// The policy and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct FbCache {
    threshold: f64,
    warmup: usize,
    taylor: Taylor,
    // state of a run
    depth: usize,
}

/// ParaAttention forms differences from this evaluation on.
const DIFFERENCES_FROM: usize = 2;

impl FbCache {
    /// Reuses where the first pair's residual changed by less than `threshold` (0: never), from evaluation `warmup` on;
    /// extrapolates with so many differences (0: reuses as is).
    pub fn new(threshold: f64, warmup: usize, order: usize) -> Self {
        Self { threshold, warmup, taylor: Taylor::new(order, DIFFERENCES_FROM), depth: 0 }
    }
}

impl CachePolicy for FbCache {
    fn describe(&self) -> String {
        let taylor = if self.taylor.order() > 0 { "+taylor" } else { "" };
        format!("fbcache{taylor} {}", self.threshold)
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        if run.depth < 2 {
            let problem = format!("looks at the first pair of blocks to spare the others, the model has {}", run.depth);
            return Err(Error::request("cache fbcache", problem));
        }
        self.depth = run.depth;
        self.taylor.begin();
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        (2 + self.taylor.order() as u64) * run.stream_bytes()
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        // the last evaluation of the warm-up leaves the first one to compare with
        if at.index + 1 < self.warmup {
            self.taylor.computed(at.index);
            return Decision::Compute;
        }
        Decision::Ask(Probe::Pairs(1))
    }

    fn answer(&mut self, at: &Evaluation, relative_l1: Option<f64>) -> Decision {
        match relative_l1 {
            Some(change) if at.index >= self.warmup && change < self.threshold => {
                Decision::Reuse(1..self.depth, self.taylor.weights(at.index))
            }
            _ => {
                self.taylor.computed(at.index);
                Decision::Compute
            }
        }
    }

    fn stores(&self) -> Option<Range<usize>> {
        Some(1..self.depth)
    }

    fn history(&self) -> usize {
        1 + self.taylor.order()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{run, schedule};
    use super::*;

    #[test]
    fn small_changes_are_reused_after_the_warm_up() {
        let changes = [None, Some(0.1), Some(0.3), Some(0.1), Some(0.1), Some(0.2), Some(f64::NAN), Some(0.1)];
        let of = |threshold, warmup| schedule(&mut FbCache::new(threshold, warmup, 0), &run(8), |i| changes[i]);
        assert_eq!(of(0.2, 0), [1, 0, 1, 0, 0, 1, 1, 0]);
        assert_eq!(of(0.2, 4), [1, 1, 1, 1, 0, 1, 1, 0]);
        assert_eq!(of(0.0, 0), [1; 8]);
    }

    #[test]
    fn one_pair_is_too_few() {
        let mut short = run(4);
        short.depth = 1;
        assert!(FbCache::new(0.1, 0, 0).begin(&short).is_err());
    }
}
