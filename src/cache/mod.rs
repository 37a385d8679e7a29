//! Reusing residuals between denoising steps.
//!
//! A network calls [`ResidualCache::stack`] around its blocks and [`ResidualCache::add`] at each residual
//! branch; that is all it knows. The policy behind answers what to compute, what to keep and what to measure,
//! and gets the measured changes after the step: plain arithmetic on numbers, testable without a GPU.
//! Without a policy every closure runs and nothing is stored.

mod adacache;
mod spec;

use std::collections::HashMap;

pub use adacache::{AdaCache, Codebook, MoReg, Residual};
pub use spec::CacheSpec;

use crate::error::Result;
use crate::ops::{self, Difference};
use crate::tensor::Tensor;

/// Along what a block attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Over the patches of one frame.
    Spatial,
    /// Over one patch through all frames.
    Temporal,
}

/// A residual branch of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Branch {
    /// Gated self-attention.
    SelfAttn,
    /// Cross-attention and gated MLP together.
    CrossMlp,
    /// Cross-attention alone.
    Cross,
    /// Gated MLP alone.
    Mlp,
}

/// A place where a residual is added to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Site {
    /// Index of the block among those of its axis, from 0.
    pub depth: usize,
    /// Axis of the block.
    pub axis: Axis,
    /// Branch of the block.
    pub branch: Branch,
}

/// What a policy is told before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Denoising steps, N.
    pub steps: usize,
    /// Blocks of each axis.
    pub depth: usize,
    /// Samples of a model call (both guidance halves).
    pub batch: usize,
    /// Latent frames, T.
    pub frames: usize,
    /// Tokens of a frame, S.
    pub patches: usize,
}

/// What one site told about itself at a computed step.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub site: Site,
    /// Σ|old − new| / Σ|old| over all samples, tokens and channels.
    pub relative_l1: f64,
    /// For each stride asked for: Σ|later − earlier| / (Σ|later| + Σ|earlier|) of the new residual, frames a stride apart.
    pub motion: Vec<f64>,
}

/// One evaluation of a policy's metric, for traces.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Row {
    /// Step, from 1.
    pub step: usize,
    /// Where it was measured.
    pub site: Site,
    /// Rate in force before this step.
    pub prev_rate: usize,
    /// Running mean of the rate-normalised distances of this step's sites.
    pub avg_diff: f64,
    /// Motion score (1 where unused).
    pub motion_score: f64,
    /// Motion gradient (0 where unused).
    pub motion_gradient: f64,
    /// score + |gradient|.
    pub motion_factor: f64,
    /// avg_diff · motion_factor: what the codebook is asked.
    pub cache_diff: f64,
    /// Steps until the next computed one.
    pub new_rate: usize,
}

/// Decides what is computed. One instance serves one run at a time; `begin` starts it afresh.
pub trait CachePolicy: Send {
    /// Name and settings, for people.
    fn describe(&self) -> String;

    /// Forgets everything and learns about the run.
    ///
    /// # Errors
    /// If the settings do not fit the model or the run.
    fn begin(&mut self, run: &Run) -> Result<()>;

    /// Whether the blocks are computed at this step (from 1). If not, the sum of all their residuals at the
    /// last computed step is added instead: two tensors in memory whatever the depth.
    fn computes(&mut self, step: usize) -> bool;

    /// Whether the change of this site's residual is wanted, and at which frame strides its motion.
    fn measures(&self, site: Site) -> Option<&[usize]>;

    /// What was measured at a computed step, in the order of execution; empty at the first.
    fn finish_step(&mut self, step: usize, changes: &[Change]) -> Vec<Row>;
}

/// The store between a network and a policy, for one generation.
#[derive(Default)]
pub struct ResidualCache {
    policy: Option<Box<dyn CachePolicy>>,
    run: Option<Run>,
    step: usize,
    computing: bool,
    /// Sum of all residuals of the last computed step.
    stack: Option<Tensor>,
    /// Residuals of measured sites at the last computed step.
    kept: HashMap<Site, Tensor>,
    /// Sums of this step, still on the device: the change first, then one for each stride.
    pending: Vec<(Site, Vec<Tensor>)>,
}

impl ResidualCache {
    /// Computes everything and stores nothing.
    pub fn off() -> Self {
        Self { computing: true, ..Self::default() }
    }

    /// Works as `policy` decides.
    pub fn new(policy: Box<dyn CachePolicy>) -> Self {
        Self { policy: Some(policy), ..Self::off() }
    }

    /// Name and settings of the policy.
    pub fn describe(&self) -> String {
        self.policy.as_ref().map_or_else(|| "off".into(), |p| p.describe())
    }

    /// Bytes held on the device between steps.
    pub fn bytes(&self) -> u64 {
        self.stack.iter().chain(self.kept.values()).map(Tensor::bytes).sum()
    }

    /// Starts a run: whatever an earlier one left is gone.
    ///
    /// # Errors
    /// If the policy's settings do not fit the run.
    pub fn begin(&mut self, run: Run) -> Result<()> {
        self.stack = None;
        self.kept.clear();
        self.pending.clear();
        self.step = 0;
        self.run = Some(run);
        self.policy.as_mut().map_or(Ok(()), |p| p.begin(&run))
    }

    /// Starts the next step; says whether its blocks are computed.
    pub fn begin_step(&mut self) -> bool {
        self.step += 1;
        self.computing = match &mut self.policy {
            Some(policy) => policy.computes(self.step) || self.stack.is_none(),
            None => true,
        };
        self.computing
    }

    /// Ends the step: reads what was measured, once, and lets the policy draw its conclusions.
    ///
    /// # Errors
    /// Whatever went wrong on the device.
    pub async fn end_step(&mut self) -> Result<Vec<Row>> {
        let pending = std::mem::take(&mut self.pending);
        let Some(policy) = self.policy.as_mut().filter(|_| self.computing) else { return Ok(Vec::new()) };
        let mut changes = Vec::with_capacity(pending.len());
        if let Some((_, first)) = pending.first() {
            let gpu = first[0].gpu().clone();
            let tensors: Vec<&Tensor> = pending.iter().flat_map(|(_, sums)| sums).collect();
            let mut sums = gpu.read_all(&tensors).await?.into_iter();
            for (site, parts) in &pending {
                let mut own =
                    sums.by_ref().take(parts.len()).map(|s| [f64::from(s[0]), f64::from(s[1]), f64::from(s[2])]);
                let [difference, old, _] = own.next().unwrap_or_default();
                let motion = own.map(|[d, later, earlier]| d / (later + earlier)).collect();
                changes.push(Change { site: *site, relative_l1: difference / old, motion });
            }
        }
        Ok(policy.finish_step(self.step, &changes))
    }

    /// Runs the blocks, or adds what they added at the last computed step.
    ///
    /// Moves 12 bytes a number of the stream either way: to add, or to take the difference that the next steps add. No
    /// neighbour could do it: the blocks' input is long gone when the last product ends. A block moves some hundred.
    pub fn stack(&mut self, x: &Tensor, blocks: impl FnOnce(&mut Self, &Tensor) -> Tensor) -> Tensor {
        if let Some(sum) = self.stack.as_ref().filter(|_| !self.computing) {
            return ops::add(x, sum);
        }
        let y = blocks(self, x);
        if self.policy.is_some() {
            self.stack = Some(ops::sub(&y, x));
        }
        y
    }

    /// Adds a residual branch to the stream. Where the residual is measured it cannot be added on the branch's way out:
    /// that costs 12 bytes a number to add it, and 8 for each comparison; a policy measures at one or two sites.
    /// `branch` is told where to add (so that it may do so on its way
    /// out), or, if the residual itself is wanted here, that it should return just that.
    pub fn add(&mut self, site: Site, x: &Tensor, branch: impl FnOnce(&mut Self, Option<&Tensor>) -> Tensor) -> Tensor {
        let Some(strides) = self.policy.as_ref().and_then(|p| p.measures(site)).map(<[usize]>::to_vec) else {
            return branch(self, Some(x));
        };
        let residual = branch(self, None);
        if let Some(old) = self.kept.insert(site, residual.clone()) {
            self.measure(site, &old, &residual, &strides);
        }
        ops::add(x, &residual)
    }

    fn measure(&mut self, site: Site, old: &Tensor, new: &Tensor, strides: &[usize]) {
        let Some(run) = self.run else { return };
        let all = Difference { segments: 1, len: old.count(), x_at: 0, y_at: 0 };
        // Σ|old − new|, Σ|old|, Σ|new|
        let mut sums = vec![ops::difference(old, new, all)];
        let frame = new.count() / (run.batch * run.frames);
        for &stride in strides {
            let len = (run.frames - stride) * frame;
            let apart = Difference { segments: run.batch, len, x_at: stride * frame, y_at: 0 };
            sums.push(ops::difference(new, new, apart));
        }
        self.pending.push((site, sums));
    }
}
