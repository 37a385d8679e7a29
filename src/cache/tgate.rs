//! T-GATE: cross-attention matters early and self-attention late; each is reused in the other part.
//!
//! Source: "Faster Diffusion via Temporal Attention Decomposition" (arXiv 2404.02747) in its port to video (VideoSys),
//! which keeps guidance on and the self-attention with its gate.

use super::branches::Branches;
use super::{CachePolicy, Decision, Evaluation, Run, Site};
use crate::error::Result;

/// The policy and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct TGate {
    /// Cross-attention is reused at evaluations past this.
    pub gate: usize,
    /// Self-attention is reused before this evaluation …
    pub until: usize,
    /// … but at every so many.
    pub gap: usize,
    /// State of a run.
    pub(super) branches: Branches,
}

impl TGate {
    /// Open-Sora v1.2 (30 evaluations).
    pub fn open_sora() -> Self {
        Self { gate: 12, until: 12, gap: 2, branches: Branches::default() }
    }

    /// Latte (50).
    pub fn latte() -> Self {
        Self { gate: 20, until: 20, gap: 2, branches: Branches::default() }
    }

    /// Open-Sora-Plan v1.1 (150 steps), as its script runs.
    pub fn open_sora_plan() -> Self {
        Self { gate: 90, until: 60, gap: 3, branches: Branches::default() }
    }
}

impl CachePolicy for TGate {
    fn describe(&self) -> String {
        format!("tgate {}, every {}", self.gate, self.gap)
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        let attention: Vec<bool> =
            (0..run.evaluations()).map(|i| i < self.until && !i.is_multiple_of(self.gap)).collect();
        let cross = (0..run.evaluations()).map(|i| i > self.gate).collect();
        self.branches = Branches { spatial: attention.clone(), temporal: attention, cross, ..Branches::default() };
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        self.branches.bytes(run)
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        self.branches.now = at.index;
        Decision::Compute
    }

    fn reuses(&self, site: Site) -> bool {
        self.branches.reuses(site)
    }

    fn keeps(&self, site: Site) -> bool {
        self.branches.keeps(site)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::run;
    use super::*;

    #[test]
    fn attention_early_cross_late() {
        let mut policy = TGate { gate: 4, until: 4, gap: 2, ..TGate::open_sora() };
        policy.begin(&run(8)).unwrap();
        assert_eq!(policy.branches.spatial, [false, true, false, true, false, false, false, false]);
        assert_eq!(policy.branches.cross, [false, false, false, false, false, true, true, true]);
        assert!(policy.branches.mlp.is_empty());
        // the two parts do not overlap: attentions and cross-attentions are as many
        assert_eq!(policy.bytes(&run(8)), 28 * 2 * run(8).stream_bytes());
    }
}
