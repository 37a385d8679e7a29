//! ∆-DiT: leave out a range of pairs at some evaluations and add what it added before.
//!
//! Source: "∆-DiT: A Training-Free Acceleration Method Tailored for Diffusion Transformers" (arXiv 2406.01125). What is
//! kept is the output of the last block less the input of the first. The only public code for video subtracts in
//! the other order, so numbers published for it say nothing about this method; its schedule is the default here.

use std::ops::Range;

use super::{CachePolicy, Decision, Evaluation, Run};
use crate::error::{Error, Result};

/// Some pairs, spared during some evaluations.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// The pairs; `None`: the first 6 of 28, in proportion.
    pub pairs: Option<Range<usize>>,
    /// First and last evaluation, from 0.
    pub window: (usize, usize),
}

/// The policy and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaDit {
    phases: Vec<Phase>,
    gap: usize,
    // state of a run
    depth: usize,
    now: Option<Range<usize>>,
}

impl DeltaDit {
    /// In each of `phases`, the first evaluation and every `gap`-th after it are computed.
    pub fn new(phases: Vec<Phase>, gap: usize) -> Self {
        Self { phases, gap: gap.max(1), depth: 0, now: None }
    }

    fn pairs(&self, phase: &Phase) -> Range<usize> {
        phase.pairs.clone().unwrap_or(0..(6 * self.depth / 28).max(1))
    }
}

impl Default for DeltaDit {
    /// As in the public code for Open-Sora v1.2.
    fn default() -> Self {
        Self::new(vec![Phase { pairs: None, window: (0, 5) }], 2)
    }
}

impl CachePolicy for DeltaDit {
    fn describe(&self) -> String {
        "delta-dit".into()
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        (self.depth, self.now) = (run.depth, None);
        for pairs in self.phases.iter().filter_map(|p| p.pairs.as_ref()) {
            if pairs.is_empty() || pairs.end > run.depth {
                let problem = format!(
                    "{}-{} are not there: the model has pairs 0 to {}",
                    pairs.start,
                    pairs.end.saturating_sub(1),
                    run.depth.saturating_sub(1)
                );
                return Err(Error::request("cache blocks", problem));
            }
        }
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        run.stream_bytes()
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        let phase = self.phases.iter().find(|p| (p.window.0..=p.window.1).contains(&at.index));
        self.now = phase.map(|p| self.pairs(p));
        match (phase, &self.now) {
            (Some(phase), Some(pairs)) if !(at.index - phase.window.0).is_multiple_of(self.gap) => {
                Decision::Reuse(pairs.clone(), vec![1.0])
            }
            _ => Decision::Compute,
        }
    }

    fn stores(&self) -> Option<Range<usize>> {
        self.now.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{run, schedule};
    use super::*;

    #[test]
    fn the_public_schedule() {
        assert_eq!(schedule(&mut DeltaDit::default(), &run(8), |_| None), [1, 0, 1, 0, 1, 0, 1, 1]);
        let mut policy = DeltaDit::default();
        policy.begin(&run(30)).unwrap();
        policy.decide(&run(30).at(0));
        assert_eq!(policy.stores(), Some(0..6));
    }

    #[test]
    fn phases_have_pairs_of_their_own() {
        let phases = [(14..28, (0, 2)), (0..14, (3, 5))];
        let phases = phases.map(|(pairs, window)| Phase { pairs: Some(pairs), window }).to_vec();
        let mut policy = DeltaDit::new(phases, 3);
        assert_eq!(schedule(&mut policy, &run(7), |_| None), [1, 0, 0, 1, 0, 0, 1]);
        assert_eq!(policy.decide(&run(7).at(1)), Decision::Reuse(14..28, vec![1.0]));
        assert_eq!(policy.decide(&run(7).at(4)), Decision::Reuse(0..14, vec![1.0]));
        let outside = Phase { pairs: Some(20..29), window: (0, 5) };
        let message = DeltaDit::new(vec![outside], 2).begin(&run(7)).unwrap_err().to_string();
        assert!(message.contains("pairs 0 to 27"), "{message}");
    }
}
