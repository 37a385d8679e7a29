//! TeaCache: compute again when the input of the first block has changed enough since the last computation.
//!
//! Source: "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model" (arXiv 2411.19108), as its released
//! code does it: changes are summed over evaluations, each through a polynomial fitted per model to how far the output
//! changes then. The polynomial is used as it is, negative values too.

use std::ops::Range;

use super::{CachePolicy, Decision, Evaluation, Probe, Run, reuse_all};
use crate::error::Result;

/// The policy and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct TeaCache {
    threshold: f64,
    coefficients: [f64; 5],
    // state of a run
    depth: usize,
    accumulated: f64,
    asked: Option<f64>,
}

impl TeaCache {
    /// Fitted to Open-Sora v1.2, from x⁴ to x⁰.
    pub const OPEN_SORA: [f64; 5] = [217.546007, -118.329252, 26.8662585, -0.0459364272, 0.048442624];
    /// Fitted to Latte.
    pub const LATTE: [f64; 5] = [-2464.34137, 308.044764, 80.7447667, -4.11385132, 0.111001402];
    /// Fitted to Open-Sora-Plan v1.1.
    pub const OPEN_SORA_PLAN: [f64; 5] = [205943.668, -14875.9286, 306.085986, 1.3141808, 0.00239658469];

    /// Computes when the sum reaches `threshold` (released: 0.1 slow, 0.2 fast); `coefficients` from x⁴ to x⁰.
    pub fn new(threshold: f64, coefficients: [f64; 5]) -> Self {
        Self { threshold, coefficients, depth: 0, accumulated: 0.0, asked: None }
    }

    /// What was compared with the threshold at the last evaluation, if it was.
    pub fn asked(&self) -> Option<f64> {
        self.asked
    }

    fn compute(&mut self) -> Decision {
        self.accumulated = 0.0;
        Decision::Compute
    }
}

impl CachePolicy for TeaCache {
    fn describe(&self) -> String {
        format!("teacache {}", self.threshold)
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        (self.depth, self.accumulated, self.asked) = (run.depth, 0.0, None);
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        run.stream_bytes() + run.stream_bytes() / 2
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        self.asked = None;
        // the last one is always computed
        if at.last && !at.first { self.compute() } else { Decision::Ask(Probe::Input) }
    }

    fn answer(&mut self, _at: &Evaluation, relative_l1: Option<f64>) -> Decision {
        let Some(x) = relative_l1 else { return self.compute() };
        self.accumulated += self.coefficients.iter().fold(0.0, |sum, c| sum * x + c);
        self.asked = Some(self.accumulated);
        if self.accumulated < self.threshold { reuse_all(self.depth) } else { self.compute() }
    }

    fn stores(&self) -> Option<Range<usize>> {
        Some(0..self.depth)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{run, schedule};
    use super::*;

    const LINE: [f64; 5] = [0.0, 0.0, 0.0, 1.0, 0.0];

    #[test]
    fn changes_add_up_to_the_threshold() {
        let quarter = |i| (i > 0).then_some(0.25);
        assert_eq!(schedule(&mut TeaCache::new(0.5, LINE), &run(8), quarter), [1, 0, 1, 0, 1, 0, 1, 1]);
        assert_eq!(schedule(&mut TeaCache::new(0.0, LINE), &run(4), quarter), [1; 4]);
        let mut policy = TeaCache::new(9.0, LINE);
        assert_eq!(schedule(&mut policy, &run(5), quarter), [1, 0, 0, 0, 1]);
        assert_eq!(schedule(&mut policy, &run(5), |i| (i > 0).then_some(f64::NAN)), [1; 5], "NaN computes");
        assert_eq!(schedule(&mut policy, &run(1), |_| None), [1]);
    }

    #[test]
    fn a_falling_polynomial_puts_computing_off() {
        // Latte's turns negative past 0.237: upstream has no floor, so neither has this
        let jump = |i| (i > 0).then_some(if i == 1 { 0.3 } else { 0.05 });
        assert_eq!(schedule(&mut TeaCache::new(0.1, TeaCache::LATTE), &run(6), jump), [1, 0, 0, 0, 0, 1]);
    }
}
