//! PAB, Pyramid Attention Broadcast: in a window of timesteps, each kind of branch is computed every so many evaluations.
//!
//! Source: "Real-Time Video Generation with Pyramid Attention Broadcast" (arXiv 2408.12588), schedules as VideoSys has
//! them: counters run from the first evaluation, not from the window, and both ends of the window are left out.
//! Self-attention is kept with its gate, cross-attention as it is.

use super::branches::Branches;
use super::{CachePolicy, Decision, Evaluation, Run, Site};
use crate::error::Result;

/// The policy and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct Pab {
    /// Of spatial, temporal and cross-attention: one in so many evaluations is computed.
    pub ranges: [usize; 3],
    /// Timesteps between which branches are reused.
    pub window: (f64, f64),
    /// Timesteps after which the MLPs of the first pairs are reused: at the evaluations that come nearest. (The public
    /// code compares rounded timesteps, which for other schedules than its own never are equal.)
    pub mlp: Vec<f64>,
    /// How many pairs' MLPs, from the first.
    pub mlps: usize,
    /// For how many evaluations.
    pub skip: usize,
    /// State of a run.
    pub(super) branches: Branches,
}

impl Pab {
    /// Open-Sora v1.2: ranges 2, 4, 6 (slow), 3, 5, 7 or 5, 7, 9 (fast).
    pub fn open_sora(ranges: [usize; 3]) -> Self {
        let mlp = vec![864.0, 788.0, 676.0];
        Self { ranges, window: (450.0, 930.0), mlp, mlps: 5, skip: 2, branches: Branches::default() }
    }

    /// Latte: ranges 2, 3, 6 (slow), 3, 4, 7 or 4, 6, 9 (fast).
    pub fn latte(ranges: [usize; 3]) -> Self {
        let mlp = vec![720.0, 640.0, 560.0, 480.0, 400.0];
        Self { ranges, window: (100.0, 800.0), mlp, mlps: 5, skip: 2, branches: Branches::default() }
    }

    /// Open-Sora-Plan v1.1: ranges as for Open-Sora.
    pub fn open_sora_plan(ranges: [usize; 3]) -> Self {
        let mlp = (0..14).map(|i| 738.0 - 24.0 * f64::from(i)).collect();
        Self { ranges, window: (100.0, 850.0), mlp, mlps: 7, skip: 2, branches: Branches::default() }
    }
}

impl CachePolicy for Pab {
    fn describe(&self) -> String {
        let [spatial, temporal, cross] = self.ranges;
        format!("pab {spatial}/{temporal}/{cross}")
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        let inside = |t: f64| self.window.0 < t && t < self.window.1;
        let reused = |range: usize| -> Vec<bool> {
            let counts = (0..run.evaluations()).map(|i| i % run.steps.max(1));
            counts.zip(&run.timesteps).map(|(n, &t)| !n.is_multiple_of(range) && inside(t)).collect()
        };
        let distance = |key: f64, i: usize| (run.timesteps[i] - key).abs();
        let mut keys: Vec<usize> = self
            .mlp
            .iter()
            .filter_map(|&key| (0..run.evaluations()).min_by(|&a, &b| distance(key, a).total_cmp(&distance(key, b))))
            .collect();
        keys.sort_unstable();
        let mut mlp = vec![false; run.evaluations()];
        for &key in &keys {
            mlp.iter_mut().skip(key + 1).take(self.skip).for_each(|reused| *reused = true);
        }
        keys.iter().for_each(|&key| mlp[key] = false);
        let [spatial, temporal, cross] = self.ranges.map(reused);
        self.branches = Branches { spatial, temporal, cross, mlp, mlps: self.mlps, now: 0 };
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
    use super::super::testing::{over, run};
    use super::super::{Axis, Branch};
    use super::*;

    fn line(reused: &[bool]) -> String {
        reused.iter().map(|&r| if r { '1' } else { '0' }).collect()
    }

    /// Open-Sora's timesteps for 51 frames of 480p at 30 steps.
    #[rustfmt::skip]
    const OPEN_SORA_480P: [f64; 30] = [
        1000.0, 992.93, 985.47, 977.57, 969.21, 960.34, 950.91, 940.87, 930.16, 918.70, 906.42, 893.22, 879.00, 863.64, 846.98,
        828.86, 809.08, 787.40, 763.52, 737.11, 707.74, 674.86, 637.83, 595.80, 547.67, 492.03, 426.97, 349.86, 257.02, 143.11,
    ];

    #[test]
    fn the_schedule_of_open_sora() {
        let mut policy = Pab::open_sora([2, 4, 6]);
        policy.begin(&over(OPEN_SORA_480P.to_vec(), 30)).unwrap();
        assert_eq!(line(&policy.branches.spatial), "000000000101010101010101010000");
        assert_eq!(line(&policy.branches.temporal), "000000000111011101110111010000");
        assert_eq!(line(&policy.branches.cross), "000000000111011111011111010000");
        assert_eq!(line(&policy.branches.mlp), "000000000000001100110011000000");
        policy.ranges = [5, 7, 9];
        policy.begin(&over(OPEN_SORA_480P.to_vec(), 30)).unwrap();
        assert_eq!(line(&policy.branches.cross), "000000000011111111011111110000", "nothing is left of the other run");
    }

    #[test]
    fn counters_wrap_at_the_steps_asked_for() {
        let mut policy = Pab { window: (0.0, 1000.0), ..Pab::open_sora([2, 3, 4]) };
        policy.begin(&over(vec![500.0; 7], 5)).unwrap();
        assert_eq!(line(&policy.branches.temporal), "0110101");
    }

    #[test]
    fn what_is_kept_is_used_next() {
        let mut policy = Pab::open_sora([2, 4, 6]);
        let run = over(OPEN_SORA_480P.to_vec(), 30);
        policy.begin(&run).unwrap();
        let site = |axis, branch, depth| Site { depth, axis, branch };
        policy.decide(&run.at(8));
        assert!(policy.keeps(site(Axis::Temporal, Branch::Cross, 27)));
        assert!(!policy.keeps(site(Axis::Temporal, Branch::Mlp, 0)));
        policy.decide(&run.at(13));
        assert!(
            policy.keeps(site(Axis::Spatial, Branch::Mlp, 4)) && !policy.keeps(site(Axis::Spatial, Branch::Mlp, 5))
        );
        policy.decide(&run.at(14));
        assert!(policy.reuses(site(Axis::Temporal, Branch::Mlp, 0)));
        assert!(!policy.reuses(site(Axis::Temporal, Branch::CrossMlp, 0)));
        // 28 pairs of two attentions and two cross-attentions, five of two MLPs
        assert_eq!(policy.bytes(&run), (28 * 4 + 5 * 2) * run.stream_bytes());
    }

    #[test]
    fn other_schedules_have_keys_too() {
        let mut policy = Pab::open_sora([2, 4, 6]);
        policy.begin(&run(20)).unwrap();
        // 1000, 950, …: nearest to 864 is 850 (3), to 788 800 (4), to 676 700 (6), and these are computed
        assert_eq!(line(&policy.branches.mlp), "00000101100000000000");
    }
}
