//! AdaCache: compute again when the residuals have changed enough, sooner in videos that move more.
//!
//! Source: "Adaptive Caching for Faster Video Generation with Diffusion Transformers" (arXiv 2411.02397),
//! decisions exactly as its released code takes them (STDiT3 of AdaCache-DiT/AdaCache), which differs from the
//! paper in the normalisation of the distance, the forced steps and the motion score.

use std::ops::Range;

use super::{Axis, Branch, CachePolicy, Change, Decision, Evaluation, Row, Run, Site, reuse_all};
use crate::error::{Error, Result};

/// Thresholds and rates: a distance below a threshold is answered by its rate, in order; the last rate
/// answers whatever is left, and its threshold is never asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Codebook(Vec<(f64, usize)>);

impl Codebook {
    /// Checks and takes a codebook.
    ///
    /// # Errors
    /// [`Error::Request`] if it is empty, not in ascending order, not finite, or holds a rate of 0.
    pub fn new(pairs: Vec<(f64, usize)>) -> Result<Self> {
        let wrong = |problem: String| Err(Error::request("cache codebook", problem));
        if pairs.is_empty() {
            return wrong("is empty; expected threshold:rate pairs such as 0.08:6/0.16:5/1.0:1".into());
        }
        if let Some((t, r)) = pairs.iter().find(|(t, r)| !t.is_finite() || *t < 0.0 || *r == 0) {
            return wrong(format!("has the pair {t}:{r}; thresholds are finite and not negative, rates at least 1"));
        }
        if let Some(w) = pairs.windows(2).find(|w| w[1].0 <= w[0].0) {
            return wrong(format!("has {} after {}; thresholds must ascend", w[1].0, w[0].0));
        }
        Ok(Self(pairs))
    }

    /// The released codebook for 30 steps, fast (paper, appendix A.1).
    pub fn fast() -> Self {
        Self(vec![(0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.40, 2), (1.0, 1)])
    }

    /// The released codebook for 30 steps, slow (paper, appendix A.1, with its typing error read as the code has it).
    pub fn slow() -> Self {
        Self(vec![(0.08, 3), (0.16, 2), (0.24, 1), (0.32, 1), (0.40, 1), (1.0, 1)])
    }

    /// The released codebook for 100 steps (paper, Table 3f, fast).
    pub fn steps100() -> Self {
        Self(vec![(0.03, 12), (0.05, 10), (0.07, 8), (0.09, 6), (0.11, 4), (1.0, 3)])
    }

    /// Threshold and rate pairs, in order.
    pub fn pairs(&self) -> &[(f64, usize)] {
        &self.0
    }

    /// The rate for a distance. NaN gets the last.
    pub fn rate(&self, distance: f64) -> usize {
        let (last, asked) = self.0.split_last().expect("a codebook is never empty");
        asked.iter().find(|(threshold, _)| distance < *threshold).unwrap_or(last).1
    }
}

/// Which residual is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// Gated self-attention of temporal blocks (the released default).
    TemporalAttn,
    /// Gated self-attention of spatial blocks.
    SpatialAttn,
    /// Cross-attention and MLP, of both blocks at a depth, spatial first.
    CrossMlp,
}

impl Residual {
    fn matches(self, site: Site) -> bool {
        match self {
            Residual::TemporalAttn => site.axis == Axis::Temporal && site.branch == Branch::SelfAttn,
            Residual::SpatialAttn => site.axis == Axis::Spatial && site.branch == Branch::SelfAttn,
            Residual::CrossMlp => site.branch == Branch::CrossMlp,
        }
    }

    /// The name in the released code and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Residual::TemporalAttn => "t-attn",
            Residual::SpatialAttn => "s-attn",
            Residual::CrossMlp => "ca-mlp",
        }
    }
}

/// Motion regularization: distances count for more where frames differ more.
#[derive(Clone, Debug, PartialEq)]
pub struct MoReg {
    /// Frame strides whose scores are averaged.
    pub strides: Vec<usize>,
    /// First and last step (from 1, inclusive) at which motion counts.
    pub window: (usize, usize),
    /// The raw score is divided by this …
    pub centre: f64,
    /// … raised to this …
    pub power: i32,
    /// … and divided by this.
    pub divide: f64,
    /// Weight of the change of the score from one computed step to the next.
    pub gradient: f64,
}

impl MoReg {
    /// The released settings; the window is the released one at 30 and at 100 steps, in proportion elsewhere.
    pub fn released(steps: usize) -> Self {
        let window = match steps {
            30 => (4, 26),
            100 => (10, 90),
            n => (n.div_ceil(10).max(1), n - n.div_ceil(10).min(n)),
        };
        Self { strides: vec![1], window, centre: 0.385, power: 8, divide: 1.0, gradient: 10.0 }
    }
}

/// The policy and its state.
pub struct AdaCache {
    codebook: Codebook,
    residual: Residual,
    /// `None`: the middle of the stack, as the released block 13 of 28 (from 0).
    layers: Option<Vec<usize>>,
    moreg: Option<MoReg>,
    // state of a run
    depth: usize,
    depths: Vec<usize>,
    motion_on: bool,
    last: usize,
    rate: usize,
    /// Motion score of each measured site at its last evaluation.
    previous: Vec<(Site, f64)>,
}

impl AdaCache {
    /// A policy with the given codebook, measured at `layers` (the middle one if none are named).
    pub fn new(codebook: Codebook, residual: Residual, layers: Option<Vec<usize>>, moreg: Option<MoReg>) -> Self {
        Self {
            codebook,
            residual,
            layers,
            moreg,
            depth: 0,
            depths: Vec::new(),
            motion_on: false,
            last: 0,
            rate: 1,
            previous: Vec::new(),
        }
    }

    /// Score of the motion in a residual, if motion counts at this step; else 1.
    fn motion_score(&self, step: usize, raw: &[f64]) -> f64 {
        match self.moreg.as_ref().filter(|m| self.motion_on && (m.window.0..=m.window.1).contains(&step)) {
            Some(m) => {
                let mean = raw.iter().sum::<f64>() / raw.len() as f64;
                (mean / m.centre).powi(m.power) / m.divide
            }
            None => 1.0,
        }
    }
}

impl CachePolicy for AdaCache {
    fn describe(&self) -> String {
        format!("adacache{}", if self.moreg.is_some() { "+moreg" } else { "" })
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        // 13 of 28: the middle, counting down
        self.depths = self.layers.clone().unwrap_or_else(|| vec![run.depth.saturating_sub(1) / 2]);
        if let Some(layer) = self.depths.iter().find(|&&l| l >= run.depth) {
            let problem = format!("{layer} is not there: the model has layers 0 to {}", run.depth.saturating_sub(1));
            return Err(Error::request("cache layers", problem));
        }
        // one frame has no motion; upstream divides 0 by 0 there
        self.motion_on = self.moreg.is_some() && run.frames > 1;
        if let Some(m) = self.moreg.as_ref().filter(|_| self.motion_on)
            && let Some(stride) = m.strides.iter().find(|&&s| s == 0 || s >= run.frames)
        {
            let problem =
                format!("a stride of {stride} needs more than {stride} latent frames, there are {}", run.frames);
            return Err(Error::request("cache moreg", problem));
        }
        self.depth = run.depth;
        self.last = 0;
        self.rate = 1;
        self.previous.clear();
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        let sites = self.depths.iter().flat_map(|&depth| {
            let branches = [Branch::SelfAttn, Branch::CrossMlp];
            let axes = [Axis::Spatial, Axis::Temporal];
            axes.into_iter().flat_map(move |axis| branches.map(|branch| Site { depth, axis, branch }))
        });
        (1 + sites.filter(|&site| self.residual.matches(site)).count() as u64) * run.stream_bytes()
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        let step = at.index + 1;
        let computes = step == self.last + self.rate || at.first || step + 1 >= at.count;
        if computes { Decision::Compute } else { reuse_all(self.depth) }
    }

    fn stores(&self) -> Option<Range<usize>> {
        Some(0..self.depth)
    }

    fn measures(&self, site: Site) -> Option<&[usize]> {
        let here = self.residual.matches(site) && self.depths.contains(&site.depth);
        here.then(|| self.moreg.as_ref().filter(|_| self.motion_on).map_or(&[][..], |m| &m.strides))
    }

    fn finish(&mut self, at: &Evaluation, changes: &[Change]) -> Vec<Row> {
        let step = at.index + 1;
        self.last = step;
        let rate = self.rate;
        let mut mean = 0.0;
        let mut rows = Vec::with_capacity(changes.len());
        for (count, change) in changes.iter().enumerate() {
            let distance = change.relative_l1 / rate as f64;
            mean = (distance + count as f64 * mean) / (count + 1) as f64;
            let score = self.motion_score(step, &change.motion);
            let gradient = match &self.moreg {
                Some(m) if self.motion_on => {
                    let slot = match self.previous.iter().position(|(site, _)| *site == change.site) {
                        Some(i) => i,
                        None => {
                            self.previous.push((change.site, 1.0));
                            self.previous.len() - 1
                        }
                    };
                    let before = std::mem::replace(&mut self.previous[slot].1, score);
                    m.gradient * (score - before) / rate as f64
                }
                _ => 0.0,
            };
            let factor = score + gradient.abs();
            let asked = mean * factor;
            self.rate = self.codebook.rate(asked);
            rows.push(Row {
                step,
                site: change.site,
                prev_rate: rate,
                avg_diff: mean,
                motion_score: score,
                motion_gradient: gradient,
                motion_factor: factor,
                cache_diff: asked,
                new_rate: self.rate,
            });
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::run;
    use super::*;

    /// Computed steps, from 1.
    fn computed(policy: &mut AdaCache, steps: usize, distance: impl Fn(usize) -> f64) -> Vec<usize> {
        let run = run(steps);
        policy.begin(&run).unwrap();
        let site = Site { depth: 13, axis: Axis::Temporal, branch: Branch::SelfAttn };
        (1..=run.steps)
            .filter(|&step| {
                let at = run.at(step - 1);
                let computes = policy.decide(&at) == Decision::Compute;
                if computes {
                    let rate = policy.rate as f64;
                    let change = Change { site, relative_l1: distance(step) * rate, motion: vec![] };
                    let changes = if step == 1 { vec![] } else { vec![change] };
                    policy.finish(&at, &changes);
                }
                computes
            })
            .collect()
    }

    fn plain(codebook: Codebook) -> AdaCache {
        AdaCache::new(codebook, Residual::TemporalAttn, None, None)
    }

    #[test]
    fn still_videos_reach_the_bounds_of_the_released_codebooks() {
        assert_eq!(computed(&mut plain(Codebook::fast()), 30, |_| 0.0), [1, 2, 8, 14, 20, 26, 29, 30]);
        assert_eq!(computed(&mut plain(Codebook::slow()), 30, |_| 0.0).len(), 12);
        assert_eq!(computed(&mut plain(Codebook::steps100()), 100, |_| 0.0).len(), 12);
        assert_eq!(computed(&mut plain(Codebook::steps100()), 100, |_| 9.0).len(), 36);
    }

    #[test]
    fn large_changes_compute_every_step_and_a_run_starts_afresh() {
        let mut policy = plain(Codebook::fast());
        computed(&mut policy, 30, |_| 0.0);
        assert_eq!(computed(&mut policy, 30, |_| 1.0).len(), 30);
        assert_eq!(computed(&mut policy, 30, |_| f64::NAN).len(), 30);
    }

    #[test]
    fn the_middle_is_the_released_block() {
        let mut policy = plain(Codebook::fast());
        policy.begin(&run(30)).unwrap();
        assert!(policy.measures(Site { depth: 13, axis: Axis::Temporal, branch: Branch::SelfAttn }).is_some());
        assert!(policy.measures(Site { depth: 13, axis: Axis::Spatial, branch: Branch::SelfAttn }).is_none());
    }

    #[test]
    fn codebooks_of_any_length_are_checked() {
        assert_eq!(Codebook::new(vec![(1.0, 1)]).unwrap().rate(0.0), 1);
        let two = Codebook::new(vec![(0.1, 3), (0.2, 2)]).unwrap();
        assert_eq!([0.05, 0.1, 0.3, f64::NAN].map(|d| two.rate(d)), [3, 2, 2, 2]);
        for bad in [vec![], vec![(0.2, 2), (0.1, 1)], vec![(0.1, 0)], vec![(f64::NAN, 1)], vec![(-0.1, 1)]] {
            assert!(Codebook::new(bad).is_err());
        }
    }
}
