//! The store between a network and a policy.

mod held;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

pub use held::{Held, Outline};

use super::{CachePolicy, Change, Decision, Distance, Measure, Probe, Row, Run, Site};
use crate::error::Result;
use crate::ops::{self, Difference, Power};
use crate::tensor::Tensor;

/// How an evaluation went.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    /// Whether all pairs were computed, perhaps with some branches reused.
    pub computed: bool,
    /// Share of the floating point operations of all pairs that were done.
    pub work: f64,
    /// Branches that were computed; nobody counts them without a policy.
    pub branches: Option<usize>,
    /// Relative change of the policy's probe, if it asked and there was something to compare with.
    pub signal: Option<f64>,
    /// What was measured of residuals …
    pub changes: Vec<Change>,
    /// … and what the policy concluded from it.
    pub rows: Vec<Row>,
}

/// The tensors kept for one generation, and the policy that says which.
#[derive(Default)]
pub struct ResidualCache {
    policy: Option<Box<dyn CachePolicy>>,
    run: Option<Run>,
    /// Evaluations begun.
    begun: usize,
    decision: Option<Decision>,
    /// Weights of an evaluation that is not to count.
    supposed: Option<Vec<f64>>,
    /// What a range of pairs added, newest first.
    sums: Option<(Range<usize>, VecDeque<Tensor>)>,
    /// The stream where the range to be kept begins, and where the pairs under a probe do.
    before: [Option<Tensor>; 2],
    /// Residuals of single sites, newest first.
    kept: HashMap<Site, VecDeque<Tensor>>,
    /// What the probe is compared with.
    probed: Option<Tensor>,
    signal: Option<f64>,
    /// What was measured at this evaluation, still on the device.
    pending: Vec<Pending>,
    /// Operations done in this evaluation.
    done: f64,
    /// Branches computed in it.
    branches: usize,
    peak: u64,
}

impl ResidualCache {
    /// Computes everything and stores nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Works as `policy` decides.
    pub fn new(policy: Box<dyn CachePolicy>) -> Self {
        Self { policy: Some(policy), ..Self::default() }
    }

    /// Name and settings of the policy.
    pub fn describe(&self) -> String {
        self.policy.as_ref().map_or_else(|| "off".into(), |p| p.describe())
    }

    /// The most bytes that were held on the device between evaluations of this run.
    pub fn bytes(&self) -> u64 {
        self.peak
    }

    /// The most bytes the policy says it will hold.
    pub fn planned_bytes(&self) -> u64 {
        self.policy.as_ref().zip(self.run.as_ref()).map_or(0, |(policy, run)| policy.bytes(run))
    }

    /// Starts a run: whatever an earlier one left is gone.
    ///
    /// # Errors
    /// If the policy's settings do not fit the run.
    pub fn begin(&mut self, run: Run) -> Result<()> {
        let mut policy = self.policy.take();
        let outcome = policy.as_mut().map_or(Ok(()), |p| p.begin(&run));
        *self = Self { policy, run: Some(run), ..Self::default() };
        outcome
    }

    /// Starts the next evaluation.
    ///
    /// # Panics
    /// If there is a policy and the run has not begun, or is over.
    pub fn begin_step(&mut self) {
        (self.done, self.branches) = (0.0, 0);
        self.signal = None;
        self.decision = None;
        self.before = [None, None];
        if let Some((policy, run)) = self.policy.as_mut().zip(self.run.as_ref()) {
            let decision = policy.decide(&run.at(self.begun));
            self.settle(decision);
        }
        self.begun += 1;
    }

    /// Lets the next pass through the network, of the evaluation that is going on, add what all pairs added when they were
    /// computed, the newest first, each times its weight. It counts for nothing: nothing is kept, measured or decided.
    ///
    /// # Panics
    /// If fewer sums are kept than there are weights.
    pub fn suppose(&mut self, weights: Vec<f64>) {
        let kept = self.sums.as_ref().map_or(0, |(_, sums)| sums.len());
        assert!(weights.len() <= kept, "{} weights for {kept} sums", weights.len());
        self.supposed = Some(weights);
    }

    /// Ends the evaluation: reads what was measured, once, and lets the policy draw its conclusions.
    ///
    /// # Errors
    /// Whatever went wrong on the device.
    pub async fn end_step(&mut self) -> Result<Evaluated> {
        let pending = std::mem::take(&mut self.pending);
        let held = self.sums.iter().flat_map(|(_, sums)| sums).chain(self.kept.values().flatten()).chain(&self.probed);
        self.peak = self.peak.max(held.map(Tensor::bytes).sum());
        let Some((policy, run)) = self.policy.as_mut().zip(self.run.as_ref()) else {
            return Ok(Evaluated { computed: true, work: 1.0, ..Evaluated::default() });
        };
        let computed = self.decision == Some(Decision::Compute);
        let all = run.depth as f64 * run.pair.iter().map(|p| p.flops).sum::<f64>();
        let (mut changes, mut rows) = (Vec::new(), Vec::new());
        if computed {
            changes = read(&pending).await?;
            rows = policy.finish(&run.at(self.begun - 1), &changes);
        }
        let branches = Some(self.branches);
        Ok(Evaluated { computed, work: self.done / all, branches, signal: self.signal, changes, rows })
    }

    /// Runs the pairs, or adds what they added before. `input` makes the normalised and modulated input of the first
    /// block, should it be wanted; it needs to be of one guidance half only, which have it in common.
    ///
    /// Moves 12 bytes a number of the stream either way: to add, or to take the difference that the next steps add. No
    /// neighbour could do it: the blocks' input is long gone when the last product ends. A block moves some hundred.
    ///
    /// # Errors
    /// Whatever went wrong on the device, if something had to be read.
    pub async fn stack(
        &mut self,
        x: &Tensor,
        input: impl FnOnce() -> Tensor,
        pairs: impl AsyncFnOnce(&mut Self, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if let Some(weights) = self.supposed.take() {
            return Ok(self.instead(x, &weights));
        }
        if self.decision == Some(Decision::Ask(Probe::Input)) {
            let seen = input();
            let signal = self.compare(&seen).await?;
            self.probed = Some(seen);
            self.answer(signal);
        }
        match (&self.decision, &self.run) {
            (Some(Decision::Reuse(range, weights)), Some(run)) if *range == (0..run.depth) => {
                Ok(self.instead(x, weights))
            }
            _ => pairs(self, x).await,
        }
    }

    /// Runs the pair at `depth`, or, where a range is left out, passes the stream on with what the range added before.
    ///
    /// # Errors
    /// As [`ResidualCache::stack`].
    pub async fn pair(
        &mut self,
        depth: usize,
        x: &Tensor,
        blocks: impl FnOnce(&mut Self, &Tensor) -> Tensor,
    ) -> Result<Tensor> {
        let stored = match (&self.decision, &self.policy) {
            (Some(Decision::Reuse(range, weights)), _) if range.contains(&depth) => {
                return Ok(if depth == range.start { self.instead(x, weights) } else { x.clone() });
            }
            (Some(_), Some(policy)) => policy.stores(),
            _ => return Ok(blocks(self, x)),
        };
        if stored.as_ref().is_some_and(|range| range.start == depth) {
            self.before[0] = Some(x.clone());
        }
        if depth == 0 {
            self.before[1] = Some(x.clone());
        }
        let y = blocks(self, x);
        if self.decision == Some(Decision::Ask(Probe::Pairs(depth + 1)))
            && let Some(start) = self.before[1].take()
        {
            let added = ops::sub(&y, &start);
            let signal = self.compare(&added).await?;
            self.answer(signal);
            if self.decision == Some(Decision::Compute) {
                self.probed = Some(added);
            }
        }
        if let Some(range) = stored.filter(|range| range.end == depth + 1)
            && let Some(start) = self.before[0].take()
        {
            self.keep_sum(range, ops::sub(&y, &start));
        }
        Ok(y)
    }

    /// Adds a residual branch to the stream. Where the residual is kept it cannot be added on the branch's way out: that
    /// costs 12 bytes a number to add it, and 8 for each comparison. `branch` is told where to add (so that it may do so on its way
    /// out), or, if the residual itself is wanted here, that it should return just that.
    pub fn add(&mut self, site: Site, x: &Tensor, branch: impl FnOnce(&mut Self, Option<&Tensor>) -> Tensor) -> Tensor {
        let Some((policy, run)) = self.policy.as_ref().zip(self.run.as_ref()) else { return branch(self, Some(x)) };
        if let Some(kept) = self.kept.get(&site).and_then(VecDeque::front).filter(|_| policy.reuses(site)) {
            return ops::add(x, kept);
        }
        for part in run.pair.iter().filter(|p| p.axis == site.axis && p.branch == site.branch) {
            self.done += part.flops;
            self.branches += 1;
        }
        let wanted = policy.measures(site).is_some();
        if !wanted && !policy.keeps(site) {
            self.kept.remove(&site);
            return branch(self, Some(x));
        }
        let residual = branch(self, None);
        self.keep(site, &residual);
        ops::add(x, &residual)
    }

    /// Takes a decision; what cannot be reused is computed.
    fn settle(&mut self, decision: Decision) {
        let possible = match &decision {
            Decision::Reuse(range, weights) => {
                self.sums.as_ref().is_some_and(|(of, sums)| of == range && weights.len() <= sums.len())
            }
            _ => true,
        };
        self.decision = Some(if possible { decision } else { Decision::Compute });
    }

    fn answer(&mut self, signal: Option<f64>) {
        self.signal = signal;
        if let Some((policy, run)) = self.policy.as_mut().zip(self.run.as_ref()) {
            let decision = policy.answer(&run.at(self.begun - 1), signal);
            self.settle(decision);
        }
    }

    /// Relative change of a probe; the only wait inside an evaluation.
    async fn compare(&self, new: &Tensor) -> Result<Option<f64>> {
        let Some(old) = self.probed.as_ref().filter(|old| old.count() == new.count()) else { return Ok(None) };
        let sums = ops::difference(old, new, whole(old), Power::One).read().await?;
        Ok(Some(Distance::L1.of([sums[0], sums[1], sums[2]].map(f64::from))))
    }

    /// x and what was kept of the pairs left out.
    fn instead(&self, x: &Tensor, weights: &[f64]) -> Tensor {
        let sums = self.sums.iter().flat_map(|(_, sums)| sums);
        let counting = sums.zip(weights).filter(|(_, weight)| **weight != 0.0);
        counting.fold(x.clone(), |x, (sum, &weight)| ops::add_scaled(&x, sum, weight as f32))
    }

    fn keep_sum(&mut self, range: Range<usize>, sum: Tensor) {
        let most = self.policy.as_ref().map_or(1, |p| p.history()).max(1);
        match &mut self.sums {
            Some((of, sums)) if *of == range => {
                sums.push_front(sum);
                sums.truncate(most);
            }
            other => *other = Some((range, VecDeque::from([sum]))),
        }
    }

    /// Measures a new residual against those kept, and keeps it.
    fn keep(&mut self, site: Site, new: &Tensor) {
        let Some((policy, run)) = self.policy.as_ref().zip(self.run.as_ref()) else { return };
        let kept = self.kept.entry(site).or_default();
        let measure = policy.measures(site);
        if let Some(Measure { distance, back, strides }) = measure.filter(|_| !kept.is_empty()) {
            let apart = kept.iter().take(back).map(|old| ops::difference(old, new, whole(old), distance.power()));
            let frame = new.count() / (run.batch * run.frames);
            let moved = strides.iter().map(|&stride| {
                let len = (run.frames - stride) * frame;
                let which = Difference { segments: run.batch, len, x_at: stride * frame, y_at: 0 };
                ops::difference(new, new, which, Power::One)
            });
            self.pending.push(Pending { site, distance, apart: apart.collect(), moved: moved.collect() });
        }
        kept.push_front(new.clone());
        kept.truncate(measure.map_or(1, |m| m.back));
    }
}

/// Sums that have been recorded and not read yet.
struct Pending {
    site: Site,
    distance: Distance,
    /// Of the new residual and each of the older ones.
    apart: Vec<Tensor>,
    /// Of its frames a stride apart, for each stride.
    moved: Vec<Tensor>,
}

impl Distance {
    fn power(self) -> Power {
        match self {
            Distance::L1 => Power::One,
            Distance::L2 | Distance::Cosine => Power::Two,
        }
    }

    /// Of Σ|old − new|ᵖ, Σ|old|ᵖ, Σ|new|ᵖ.
    fn of(self, [apart, old, new]: [f64; 3]) -> f64 {
        match self {
            Distance::L1 => apart / old,
            Distance::L2 => (apart / old).sqrt(),
            // 1 − old·new/(‖old‖‖new‖) without the difference of two numbers near 1
            Distance::Cosine => (apart - (old.sqrt() - new.sqrt()).powi(2)) / (2.0 * (old * new).sqrt()),
        }
    }
}

fn whole(x: &Tensor) -> Difference {
    Difference { segments: 1, len: x.count(), x_at: 0, y_at: 0 }
}

/// All sums in one read.
async fn read(pending: &[Pending]) -> Result<Vec<Change>> {
    let tensors: Vec<&Tensor> = pending.iter().flat_map(|p| p.apart.iter().chain(&p.moved)).collect();
    let Some(first) = tensors.first() else { return Ok(Vec::new()) };
    let gpu = first.gpu().clone();
    let read = gpu.read_all(&tensors).await?;
    let mut sums = read.iter().map(|s| [s[0], s[1], s[2]].map(f64::from));
    let change = |p: &Pending| Change {
        site: p.site,
        distances: sums.by_ref().take(p.apart.len()).map(|s| p.distance.of(s)).collect(),
        motion: sums.by_ref().take(p.moved.len()).map(|[d, later, earlier]| d / (later + earlier)).collect(),
    };
    Ok(pending.iter().map(change).collect())
}
