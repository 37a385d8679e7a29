//! Branches reused by a schedule that is known before the run: what PAB and T-GATE have in common.

use super::{Axis, Branch, Run, Site};

/// For each kind of branch, whether it is reused at an evaluation.
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct Branches {
    pub spatial: Vec<bool>,
    pub temporal: Vec<bool>,
    pub cross: Vec<bool>,
    pub mlp: Vec<bool>,
    /// Pairs, from the first, whose MLP takes part.
    pub mlps: usize,
    /// The evaluation that runs.
    pub now: usize,
}

impl Branches {
    fn of(&self, site: Site) -> &[bool] {
        match (site.branch, site.axis) {
            (Branch::SelfAttn, Axis::Spatial) => &self.spatial,
            (Branch::SelfAttn, Axis::Temporal) => &self.temporal,
            (Branch::Cross, _) => &self.cross,
            (Branch::Mlp, _) if site.depth < self.mlps => &self.mlp,
            _ => &[],
        }
    }

    /// Whether the kept residual is added now.
    pub fn reuses(&self, site: Site) -> bool {
        self.of(site).get(self.now) == Some(&true)
    }

    /// Whether what is computed now is reused next.
    pub fn keeps(&self, site: Site) -> bool {
        !self.reuses(site) && self.of(site).get(self.now + 1) == Some(&true)
    }

    /// The most that is kept at a time.
    pub fn bytes(&self, run: &Run) -> u64 {
        let tensors_after = |now: usize| {
            let kept = |site: Site| {
                let after = [now, now + 1].map(|i| self.of(site).get(i) == Some(&true));
                after.contains(&true)
            };
            let sites = (0..run.depth)
                .flat_map(|depth| run.pair.iter().map(move |p| Site { depth, axis: p.axis, branch: p.branch }));
            sites.filter(|&site| kept(site)).count() as u64
        };
        run.stream_bytes() * (0..run.evaluations()).map(tensors_after).max().unwrap_or(0)
    }
}
