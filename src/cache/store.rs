//! The store between a network and a policy.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::{CachePolicy, Change, Decision, Probe, Row, Run, Site};
use crate::error::Result;
use crate::ops::{self, Difference};
use crate::tensor::Tensor;

/// How an evaluation went.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    /// Whether all pairs were computed, perhaps with some branches reused.
    pub computed: bool,
    /// Share of the floating point operations of all pairs that were done.
    pub work: f64,
    /// Relative change of the policy's probe, if it asked and there was something to compare with.
    pub signal: Option<f64>,
    /// What the policy concluded from measured residuals.
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
    /// What a range of pairs added, newest first.
    sums: Option<(Range<usize>, VecDeque<Tensor>)>,
    /// The stream where the range to be kept begins, and where the pairs under a probe do.
    before: [Option<Tensor>; 2],
    /// Residuals of single sites.
    kept: HashMap<Site, Tensor>,
    /// What the probe is compared with.
    probed: Option<Tensor>,
    signal: Option<f64>,
    /// Sums of this evaluation, still on the device: the change first, then one for each stride.
    pending: Vec<(Site, Vec<Tensor>)>,
    /// Operations done in this evaluation.
    done: f64,
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
        self.done = 0.0;
        self.signal = None;
        self.decision = None;
        self.before = [None, None];
        if let Some((policy, run)) = self.policy.as_mut().zip(self.run.as_ref()) {
            let decision = policy.decide(&run.at(self.begun));
            self.settle(decision);
        }
        self.begun += 1;
    }

    /// Ends the evaluation: reads what was measured, once, and lets the policy draw its conclusions.
    ///
    /// # Errors
    /// Whatever went wrong on the device.
    pub async fn end_step(&mut self) -> Result<Evaluated> {
        let pending = std::mem::take(&mut self.pending);
        let held = self.sums.iter().flat_map(|(_, sums)| sums).chain(self.kept.values()).chain(&self.probed);
        self.peak = self.peak.max(held.map(Tensor::bytes).sum());
        let Some((policy, run)) = self.policy.as_mut().zip(self.run.as_ref()) else {
            return Ok(Evaluated { computed: true, work: 1.0, ..Evaluated::default() });
        };
        let computed = self.decision == Some(Decision::Compute);
        let all = run.depth as f64 * run.pair.iter().map(|p| p.flops).sum::<f64>();
        let mut rows = Vec::new();
        if computed {
            let changes = read(&pending).await?;
            rows = policy.finish(&run.at(self.begun - 1), &changes);
        }
        Ok(Evaluated { computed, work: self.done / all, signal: self.signal, rows })
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
        if let Some(kept) = self.kept.get(&site).filter(|_| policy.reuses(site)) {
            return ops::add(x, kept);
        }
        let own = run.pair.iter().filter(|p| p.axis == site.axis && p.branch == site.branch);
        self.done += own.map(|p| p.flops).sum::<f64>();
        let strides = policy.measures(site).map(<[usize]>::to_vec);
        if strides.is_none() && !policy.keeps(site) {
            self.kept.remove(&site);
            return branch(self, Some(x));
        }
        let residual = branch(self, None);
        let old = self.kept.insert(site, residual.clone());
        if let Some((old, strides)) = old.zip(strides) {
            self.measure(site, &old, &residual, &strides);
        }
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
        let sums = ops::difference(old, new, whole(old)).read().await?;
        Ok(Some(f64::from(sums[0]) / f64::from(sums[1])))
    }

    /// x and what was kept of the pairs left out.
    fn instead(&self, x: &Tensor, weights: &[f64]) -> Tensor {
        let sums = self.sums.iter().flat_map(|(_, sums)| sums);
        sums.zip(weights).fold(x.clone(), |x, (sum, &weight)| ops::add_scaled(&x, sum, weight as f32))
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

    fn measure(&mut self, site: Site, old: &Tensor, new: &Tensor, strides: &[usize]) {
        let Some(run) = &self.run else { return };
        // Σ|old − new|, Σ|old|, Σ|new|
        let mut sums = vec![ops::difference(old, new, whole(old))];
        let frame = new.count() / (run.batch * run.frames);
        for &stride in strides {
            let len = (run.frames - stride) * frame;
            let apart = Difference { segments: run.batch, len, x_at: stride * frame, y_at: 0 };
            sums.push(ops::difference(new, new, apart));
        }
        self.pending.push((site, sums));
    }
}

fn whole(x: &Tensor) -> Difference {
    Difference { segments: 1, len: x.count(), x_at: 0, y_at: 0 }
}

/// All sums in one read.
async fn read(pending: &[(Site, Vec<Tensor>)]) -> Result<Vec<Change>> {
    let Some((_, first)) = pending.first() else { return Ok(Vec::new()) };
    let gpu = first[0].gpu().clone();
    let tensors: Vec<&Tensor> = pending.iter().flat_map(|(_, sums)| sums).collect();
    let mut sums = gpu.read_all(&tensors).await?.into_iter();
    let change = |(site, parts): &(Site, Vec<Tensor>)| {
        let mut own = sums.by_ref().take(parts.len()).map(|s| [f64::from(s[0]), f64::from(s[1]), f64::from(s[2])]);
        let [difference, old, _] = own.next().unwrap_or_default();
        let motion = own.map(|[d, later, earlier]| d / (later + earlier)).collect();
        Change { site: *site, relative_l1: difference / old, motion }
    };
    Ok(pending.iter().map(change).collect())
}
