//! TaylorSeer: between computed evaluations, residuals are extrapolated by their differences.
//!
//! Source: "From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers" (arXiv 2503.06923), here of
//! the sum of all residuals. With g evaluations between computations, d₀ = feature, dₖ₊₁ = (dₖ − dₖ before) / g; s
//! evaluations later Σ dₖ·sᵏ/k! is added. All dₖ are linear in the features of the last computations, so that only
//! those are kept and the weights are numbers of the host.

use std::ops::Range;

use super::{CachePolicy, Decision, Evaluation, Run};
use crate::error::Result;

/// Weights of the newest features in their extrapolation.
#[derive(Clone, Debug, PartialEq)]
pub struct Taylor {
    order: usize,
    from: usize,
    // state of a run
    last: Option<usize>,
    /// dₖ as weights of the features, newest first.
    differences: Vec<Vec<f64>>,
}

impl Taylor {
    /// Differences up to `order`, formed at evaluations from `from` on.
    pub fn new(order: usize, from: usize) -> Self {
        Self { order, from, last: None, differences: Vec::new() }
    }

    /// The highest difference.
    pub fn order(&self) -> usize {
        self.order
    }

    /// Forgets everything.
    pub fn begin(&mut self) {
        (self.last, self.differences) = (None, Vec::new());
    }

    /// A feature was computed at this evaluation.
    pub fn computed(&mut self, index: usize) {
        let width = self.order + 1;
        let mut newest = vec![0.0; width];
        newest[0] = 1.0;
        let mut made = vec![newest];
        if let Some(last) = self.last.filter(|_| index >= self.from) {
            let gap = (index - last) as f64;
            for before in self.differences.iter().take(self.order) {
                // what was the newest feature then is the second now
                let before = std::iter::once(&0.0).chain(before);
                let next = made[made.len() - 1].iter().zip(before).map(|(now, before)| (now - before) / gap).collect();
                made.push(next);
            }
        }
        (self.last, self.differences) = (Some(index), made);
    }

    /// Weights of the features at an evaluation in between, newest first, as many as count.
    pub fn weights(&self, index: usize) -> Vec<f64> {
        let distance = (index - self.last.unwrap_or(index)) as f64;
        let mut power = 1.0;
        let mut sum = vec![0.0; self.differences.len()];
        for (k, difference) in self.differences.iter().enumerate() {
            if k > 0 {
                power *= distance / k as f64;
            }
            sum.iter_mut().zip(difference).for_each(|(sum, d)| *sum += d * power);
        }
        sum
    }
}

/// The policy and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct TaylorSeer {
    interval: usize,
    first: usize,
    taylor: Taylor,
    // state of a run
    depth: usize,
    reused: usize,
}

impl TaylorSeer {
    /// Computes the `first` evaluations and every `interval`-th after them; extrapolates by differences up to `order`.
    pub fn new(interval: usize, order: usize, first: usize) -> Self {
        Self { interval, first: first.max(1), taylor: Taylor::new(order, 0), depth: 0, reused: 0 }
    }
}

impl CachePolicy for TaylorSeer {
    fn describe(&self) -> String {
        format!("taylorseer every {}, order {}", self.interval, self.taylor.order)
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        (self.depth, self.reused) = (run.depth, 0);
        self.taylor.begin();
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        (1 + self.taylor.order as u64) * run.stream_bytes()
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        if at.index < self.first || self.reused + 1 >= self.interval {
            self.reused = 0;
            self.taylor.computed(at.index);
            Decision::Compute
        } else {
            self.reused += 1;
            Decision::Reuse(0..self.depth, self.taylor.weights(at.index))
        }
    }

    fn stores(&self) -> Option<Range<usize>> {
        Some(0..self.depth)
    }

    fn history(&self) -> usize {
        1 + self.taylor.order
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{run, schedule};
    use super::*;

    #[test]
    fn computed_evaluations() {
        let of = |interval, first, count| schedule(&mut TaylorSeer::new(interval, 1, first), &run(count), |_| None);
        assert_eq!(of(3, 1, 7), [1, 0, 0, 1, 0, 0, 1]);
        assert_eq!(of(4, 3, 8), [1, 1, 1, 0, 0, 0, 1, 0]);
        assert_eq!(of(1, 1, 3), [1; 3]);
    }

    /// A feature that is a polynomial of the evaluation, of no higher order than the differences, is met exactly where
    /// divided differences of the last computations are its derivatives: for a line always.
    #[test]
    fn a_line_is_continued() {
        let feature = |i: usize| 3.0 + 2.0 * i as f64;
        let mut taylor = Taylor::new(1, 0);
        let mut kept = Vec::new();
        for i in 0..20 {
            if [0, 1, 4, 9, 11].contains(&i) {
                taylor.computed(i);
                kept.insert(0, feature(i));
            } else if i > 1 {
                let weights = taylor.weights(i);
                let made: f64 = weights.iter().zip(&kept).map(|(w, f)| w * f).sum();
                assert!(weights.len() == 2 && (made - feature(i)).abs() < 1e-12, "{i}: {made} by {weights:?}");
            }
        }
    }

    #[test]
    fn weights_by_hand() {
        let mut taylor = Taylor::new(2, 0);
        taylor.computed(0);
        assert_eq!(taylor.weights(2), [1.0]);
        taylor.computed(2);
        assert_eq!(taylor.weights(3), [1.5, -0.5]);
        taylor.computed(4);
        // d₁ = (f₄ − f₂)/2, d₂ = (d₁ − (f₂ − f₀)/2)/2; one later f₄ + d₁ + d₂/2
        assert_eq!(taylor.weights(5), [1.625, -0.75, 0.125]);
        let mut late = Taylor::new(1, 2);
        late.computed(0);
        late.computed(1);
        assert_eq!(late.weights(2), [1.0], "no differences before evaluation 2");
    }
}
