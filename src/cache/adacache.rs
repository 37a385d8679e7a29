//! AdaCache: compute again when the residuals have changed enough, sooner in videos that move more.
//!
//! Source: "Adaptive Caching for Faster Video Generation with Diffusion Transformers" (arXiv 2411.02397),
//! decisions exactly as its released code takes them (STDiT3 of AdaCache-DiT/AdaCache), which differs from the
//! paper in the normalisation of the distance, the forced steps and the motion score.

use std::ops::Range;

use super::{
    Axis, Branch, CachePolicy, Change, Codebook, Decision, Distance, Evaluation, Measure, Row, Run, Site, Taylor,
};
use crate::error::{Error, Result};

/// Most differences of an extrapolation.
pub(super) const MOST_ORDER: usize = 4;

/// Which residual is measured (paper, Table 3e).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Residual {
    /// Gated self-attention of temporal blocks (the released default).
    #[default]
    #[serde(rename = "t-attn")]
    TemporalAttn,
    /// Gated self-attention of spatial blocks.
    #[serde(rename = "s-attn")]
    SpatialAttn,
    /// Cross-attention and MLP, of both blocks at a depth, spatial first.
    #[serde(rename = "ca-mlp")]
    CrossMlp,
    /// Cross-attention alone, of both blocks. (The paper has it, the released code does not.)
    #[serde(rename = "cross")]
    Cross,
    /// The gated MLP alone, of both blocks. (The paper has it, the released code does not.)
    #[serde(rename = "mlp")]
    Mlp,
}

impl Residual {
    fn matches(self, site: Site) -> bool {
        match self {
            Residual::TemporalAttn => site.axis == Axis::Temporal && site.branch == Branch::SelfAttn,
            Residual::SpatialAttn => site.axis == Axis::Spatial && site.branch == Branch::SelfAttn,
            Residual::CrossMlp => site.branch == Branch::CrossMlp,
            Residual::Cross => site.branch == Branch::Cross,
            Residual::Mlp => site.branch == Branch::Mlp,
        }
    }

    /// The name in the released code and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Residual::TemporalAttn => "t-attn",
            Residual::SpatialAttn => "s-attn",
            Residual::CrossMlp => "ca-mlp",
            Residual::Cross => "cross",
            Residual::Mlp => "mlp",
        }
    }
}

/// In which pairs it is measured (paper, Table 3d). With several, their distances are averaged.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layers {
    /// The first.
    Start,
    /// The one in the middle, counting down: 13 of 28 (from 0), as released.
    #[default]
    Mid,
    /// The last.
    End,
    /// First, middle and last. The paper does not say which it took.
    Multiple,
    /// These.
    #[serde(untagged)]
    These(Vec<usize>),
}

impl Layers {
    /// Of a stack of so many.
    fn of(&self, depth: usize) -> Vec<usize> {
        let last = depth.saturating_sub(1);
        let mut layers = match self {
            Layers::Start => vec![0],
            Layers::Mid => vec![last / 2],
            Layers::End => vec![last],
            Layers::Multiple => vec![0, last / 2, last],
            Layers::These(layers) => layers.clone(),
        };
        layers.dedup();
        layers
    }
}

/// Motion regularization: distances count for more where frames differ more.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
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

/// What AdaCache goes by.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Distances to rates.
    pub codebook: Codebook,
    /// Which residual is measured …
    pub residual: Residual,
    /// … where …
    pub layers: Layers,
    /// … and how.
    pub distance: Distance,
    /// Motion regularization, if it is on.
    pub moreg: Option<MoReg>,
    /// Steps at the beginning that are always computed, at least 1; released: 1, and the second because nothing has been
    /// compared before it.
    pub head: usize,
    /// Steps at the end that are always computed; released: 2.
    pub tail: usize,
    /// 0: residuals are reused as they were, as released. More: they are extrapolated by differences up to this order, as
    /// [`super::TaylorSeer`] does it.
    pub order: usize,
}

impl Settings {
    /// A codebook with everything else as released, without motion regularization.
    pub fn released(codebook: Codebook) -> Self {
        Self {
            codebook,
            residual: Residual::default(),
            layers: Layers::default(),
            distance: Distance::default(),
            moreg: None,
            head: 1,
            tail: 2,
            order: 0,
        }
    }
}

/// The policy and its state.
pub struct AdaCache {
    settings: Settings,
    // state of a run
    depth: usize,
    depths: Vec<usize>,
    motion_on: bool,
    last: usize,
    rate: usize,
    taylor: Taylor,
    /// Motion score of each measured site at its last evaluation.
    previous: Vec<(Site, f64)>,
}

impl AdaCache {
    /// The policy with these settings.
    pub fn new(settings: Settings) -> Self {
        let taylor = Taylor::new(settings.order, 0);
        Self {
            settings,
            depth: 0,
            depths: Vec::new(),
            motion_on: false,
            last: 0,
            rate: 1,
            taylor,
            previous: Vec::new(),
        }
    }

    /// Score of the motion in a residual, if motion counts at this step; else 1.
    fn motion_score(&self, step: usize, raw: &[f64]) -> f64 {
        match self.settings.moreg.as_ref().filter(|m| self.motion_on && (m.window.0..=m.window.1).contains(&step)) {
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
        let moreg = if self.settings.moreg.is_some() { "+moreg" } else { "" };
        let taylor = if self.settings.order > 0 { "+taylor" } else { "" };
        format!("adacache{moreg}{taylor}")
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        self.depths = self.settings.layers.of(run.depth);
        if let Some(layer) = self.depths.iter().find(|&&l| l >= run.depth) {
            let problem = format!("{layer} is not there: the model has layers 0 to {}", run.depth.saturating_sub(1));
            return Err(Error::request("cache layers", problem));
        }
        if self.settings.order > MOST_ORDER {
            let problem = format!("{} is not between 0 and {MOST_ORDER}", self.settings.order);
            return Err(Error::request("cache order", problem));
        }
        // one frame has no motion; upstream divides 0 by 0 there
        self.motion_on = self.settings.moreg.is_some() && run.frames > 1;
        if let Some(m) = self.settings.moreg.as_ref().filter(|_| self.motion_on)
            && let Some(stride) = m.strides.iter().find(|&&s| s == 0 || s >= run.frames)
        {
            let problem =
                format!("a stride of {stride} needs more than {stride} latent frames, there are {}", run.frames);
            return Err(Error::request("cache moreg", problem));
        }
        self.depth = run.depth;
        self.last = 0;
        self.rate = 1;
        self.taylor.begin();
        self.previous.clear();
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        let sites = self.depths.iter().flat_map(|&depth| {
            let branches = [Branch::SelfAttn, Branch::CrossMlp, Branch::Cross, Branch::Mlp];
            let axes = [Axis::Spatial, Axis::Temporal];
            axes.into_iter().flat_map(move |axis| branches.map(|branch| Site { depth, axis, branch }))
        });
        let measured = sites.filter(|&site| self.settings.residual.matches(site)).count();
        (1 + self.settings.order as u64 + measured as u64) * run.stream_bytes()
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        let step = at.index + 1;
        let forced = at.first || step <= self.settings.head || at.count - step < self.settings.tail;
        if forced || step == self.last.saturating_add(self.rate) {
            self.taylor.computed(at.index);
            Decision::Compute
        } else {
            Decision::Reuse(0..self.depth, self.taylor.weights(at.index))
        }
    }

    fn stores(&self) -> Option<Range<usize>> {
        Some(0..self.depth)
    }

    fn history(&self) -> usize {
        1 + self.settings.order
    }

    fn measures(&self, site: Site) -> Option<Measure<'_>> {
        let here = self.settings.residual.matches(site) && self.depths.contains(&site.depth);
        let strides = || self.settings.moreg.as_ref().filter(|_| self.motion_on).map_or(&[][..], |m| &m.strides);
        here.then(|| Measure { distance: self.settings.distance, back: 1, strides: strides() })
    }

    fn finish(&mut self, at: &Evaluation, changes: &[Change]) -> Vec<Row> {
        let step = at.index + 1;
        self.last = step;
        let rate = self.rate;
        let mut mean = 0.0;
        let mut rows = Vec::with_capacity(changes.len());
        for (count, change) in changes.iter().enumerate() {
            // a change is never without a distance: it is the comparison with an older residual
            let distance = change.distances.first().map_or(f64::NAN, |d| d / rate as f64);
            mean = (distance + count as f64 * mean) / (count + 1) as f64;
            let score = self.motion_score(step, &change.motion);
            let gradient = match &self.settings.moreg {
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
            // before the head has ended the next step is computed, whatever is measured
            self.rate = if step < self.settings.head { 1 } else { self.settings.codebook.rate(asked) };
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
                    let change = Change { site, distances: vec![distance(step) * rate], motion: vec![] };
                    let changes = if step == 1 { vec![] } else { vec![change] };
                    policy.finish(&at, &changes);
                }
                computes
            })
            .collect()
    }

    fn plain(codebook: Codebook) -> AdaCache {
        AdaCache::new(Settings::released(codebook))
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
    fn both_ends_can_be_longer_or_shorter() {
        let settings = |head, tail| Settings { head, tail, ..Settings::released(Codebook::fast()) };
        let of = |head, tail| computed(&mut AdaCache::new(settings(head, tail)), 20, |_| 0.0);
        assert_eq!(of(4, 1), [1, 2, 3, 4, 10, 16, 20]);
        assert_eq!(of(1, 0), [1, 2, 8, 14, 20]);
        assert_eq!(of(1, 4), [1, 2, 8, 14, 17, 18, 19, 20]);
        // a distance is by the step, and in the head every step is one
        let mut policy = AdaCache::new(settings(3, 2));
        computed(&mut policy, 3, |_| 0.0);
        assert_eq!(computed(&mut policy, 20, |step| if step == 3 { 0.2 } else { 0.0 })[..4], [1, 2, 3, 7]);
    }

    #[test]
    fn the_middle_is_the_released_block() {
        let mut policy = plain(Codebook::fast());
        policy.begin(&run(30)).unwrap();
        assert!(policy.measures(Site { depth: 13, axis: Axis::Temporal, branch: Branch::SelfAttn }).is_some());
        assert!(policy.measures(Site { depth: 13, axis: Axis::Spatial, branch: Branch::SelfAttn }).is_none());
    }
}
