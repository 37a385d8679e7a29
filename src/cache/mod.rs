//! Reusing residuals between model calls.
//!
//! A network calls [`ResidualCache::stack`] around its blocks, [`ResidualCache::pair`] around each pair of them and
//! [`ResidualCache::add`] at each residual branch; that is all it knows. The policy behind answers what to compute,
//! what to keep and what to measure, and gets the measured numbers: plain arithmetic, testable without a GPU.
//! Without a policy every closure runs and nothing is stored.
//!
//! Whatever a policy does is of one form: at a place, at an evaluation, compute (and perhaps keep), or add a linear
//! combination of what was kept. The places are ranges of pairs and single branches; the numbers are relative
//! changes, read at the end of an evaluation, before its pairs, or after the first of them.

mod adacache;
mod branches;
mod calibration;
mod codebook;
mod delta_dit;
mod fbcache;
mod fixed;
mod magcache;
mod pab;
mod recorder;
pub mod replay;
mod spec;
mod store;
mod taylorseer;
mod teacache;
mod tgate;
mod wish;
mod words;

use std::ops::Range;

pub use adacache::{AdaCache, Layers, MoReg, Residual, Settings};
pub use calibration::{Calibration, MadeFor};
pub use codebook::Codebook;
pub use delta_dit::{DeltaDit, Phase};
pub use fbcache::FbCache;
pub use fixed::Fixed;
pub use magcache::MagCache;
pub use pab::Pab;
pub use recorder::Recorder;
pub use spec::CacheSpec;
pub use store::{Evaluated, Held, Outline, ResidualCache};
pub use taylorseer::{Taylor, TaylorSeer};
pub use teacache::TeaCache;
pub use tgate::TGate;
pub use wish::{Preset, Wish};

use crate::error::Result;

/// Along what a block attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Over the patches of one frame.
    Spatial,
    /// Over one patch through all frames.
    Temporal,
}

/// A residual branch of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Site {
    /// Index of the block among those of its axis, from 0: that of its pair.
    pub depth: usize,
    /// Axis of the block.
    pub axis: Axis,
    /// Branch of the block.
    pub branch: Branch,
}

/// One branch of every pair, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Axis of the block.
    pub axis: Axis,
    /// Branch of the block, never two of them together.
    pub branch: Branch,
    /// Floating point operations of one evaluation of it.
    pub flops: f64,
}

/// What a policy is told before the first evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Denoising steps asked for.
    pub steps: usize,
    /// Timestep of every evaluation (model call), 0 to 1000, noise first. Some samplers call the model more often
    /// than there are steps.
    pub timesteps: Vec<f64>,
    /// Blocks of each axis: pairs.
    pub depth: usize,
    /// Samples of a model call (both guidance halves).
    pub batch: usize,
    /// Latent frames, T.
    pub frames: usize,
    /// Tokens of a frame, S.
    pub patches: usize,
    /// Channels of a token, C.
    pub width: usize,
    /// The branches of a pair, in the order of execution.
    pub pair: Vec<Part>,
}

impl Run {
    /// Model calls of the run.
    pub fn evaluations(&self) -> usize {
        self.timesteps.len()
    }

    /// Bytes of the stream, and of anything added to it.
    pub fn stream_bytes(&self) -> u64 {
        4 * (self.batch * self.frames * self.patches * self.width) as u64
    }

    /// The evaluation at `index`.
    ///
    /// # Panics
    /// If the run has no such evaluation.
    pub fn at(&self, index: usize) -> Evaluation {
        Evaluation {
            index,
            count: self.evaluations(),
            steps: self.steps,
            timestep: self.timesteps[index],
            first: index == 0,
            last: index + 1 == self.evaluations(),
        }
    }
}

/// One model call, as a policy sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// From 0.
    pub index: usize,
    /// Model calls of the run.
    pub count: usize,
    /// Denoising steps asked for: not always `count`.
    pub steps: usize,
    /// 0 to 1000.
    pub timestep: f64,
    /// Nothing was computed before it.
    pub first: bool,
    /// Nothing comes after it.
    pub last: bool,
}

/// What a policy may want to know inside an evaluation, before it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The normalised and modulated input of the first block, against that of the evaluation before.
    Input,
    /// What the first so many pairs added, against what they added at the last evaluation that computed all.
    /// They are computed in any case.
    Pairs(usize),
}

/// What becomes of the pairs of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// All are computed.
    Compute,
    /// These are left out, and what they added when they were computed is added instead: the newest first, each times its weight.
    Reuse(Range<usize>, Vec<f64>),
    /// To be decided by [`CachePolicy::answer`], when this has been read.
    Ask(Probe),
}

/// How far a residual is from an older one, over all samples, tokens and channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// Σ|old − new| / Σ|old|
    #[default]
    L1,
    /// ‖old − new‖₂ / ‖old‖₂
    L2,
    /// 1 − old · new / (‖old‖₂ ‖new‖₂)
    Cosine,
}

impl Distance {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Distance::L1 => "l1",
            Distance::L2 => "l2",
            Distance::Cosine => "cosine",
        }
    }
}

/// What is wanted of a site's residual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure<'a> {
    /// How it is told from those kept before.
    pub distance: Distance,
    /// With how many of them it is compared, the newest.
    pub back: usize,
    /// Frame strides at which its motion is wanted.
    pub strides: &'a [usize],
}

/// What one site told about itself at a computed evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub site: Site,
    /// From the residuals kept before, the newest first.
    pub distances: Vec<f64>,
    /// For each stride asked for: Σ|later − earlier| / (Σ|later| + Σ|earlier|) of the new residual, frames a stride apart.
    pub motion: Vec<f64>,
}

/// One evaluation of AdaCache's metric, for traces.
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
///
/// What it decides hangs on its settings and on what it is told, call by call, and on nothing else: an interrupted run goes
/// on with a fresh instance that is told the same once more ([`ResidualCache::resume`]), so no policy has state to save.
pub trait CachePolicy: Send {
    /// Name and settings, for people.
    fn describe(&self) -> String;

    /// Forgets everything and learns about the run.
    ///
    /// # Errors
    /// If the settings do not fit the model or the run.
    fn begin(&mut self, run: &Run) -> Result<()>;

    /// The most bytes kept between evaluations of a run that has begun.
    fn bytes(&self, run: &Run) -> u64;

    /// What becomes of the pairs at this evaluation. A range of which nothing is kept is computed all the same.
    fn decide(&mut self, at: &Evaluation) -> Decision;

    /// After [`Decision::Ask`]: Σ|old − new| / Σ|old| of the probe, `None` if there is nothing old yet.
    fn answer(&mut self, _at: &Evaluation, _relative_l1: Option<f64>) -> Decision {
        Decision::Compute
    }

    /// The pairs whose sum is kept when they are computed, now that the evaluation is decided.
    fn stores(&self) -> Option<Range<usize>> {
        None
    }

    /// How many of these sums are kept, the newest.
    fn history(&self) -> usize {
        1
    }

    /// Whether the kept residual of this site is added, where its pair is computed.
    fn reuses(&self, _site: Site) -> bool {
        false
    }

    /// Whether the residual of this site is to be kept when it is computed.
    fn keeps(&self, _site: Site) -> bool {
        false
    }

    /// What is wanted of this site's residual when it is computed.
    fn measures(&self, _site: Site) -> Option<Measure<'_>> {
        None
    }

    /// What was measured at a computed evaluation, in the order of execution; empty at the first.
    fn finish(&mut self, _at: &Evaluation, _changes: &[Change]) -> Vec<Row> {
        Vec::new()
    }
}

/// The whole of a run's pairs, reused as they were.
fn reuse_all(depth: usize) -> Decision {
    Decision::Reuse(0..depth, vec![1.0])
}

#[cfg(test)]
mod testing {
    use super::*;

    /// A run over evenly spaced timesteps of the published network at a small size.
    pub fn run(steps: usize) -> Run {
        over((0..steps).map(|i| 1000.0 - 1000.0 * i as f64 / steps as f64).collect(), steps)
    }

    /// A run over these timesteps.
    pub fn over(timesteps: Vec<f64>, steps: usize) -> Run {
        let part = |axis, branch| Part { axis, branch, flops: 1.0 };
        let pair = [Axis::Spatial, Axis::Temporal]
            .into_iter()
            .flat_map(|axis| [Branch::SelfAttn, Branch::Cross, Branch::Mlp].map(|branch| part(axis, branch)))
            .collect();
        Run { steps, timesteps, depth: 28, batch: 2, frames: 15, patches: 4, width: 8, pair }
    }

    /// 1 where all pairs are computed, given the probe's relative change at each evaluation (`None`: none yet).
    pub fn schedule(policy: &mut dyn CachePolicy, run: &Run, signal: impl Fn(usize) -> Option<f64>) -> Vec<u8> {
        policy.begin(run).unwrap();
        (0..run.evaluations())
            .map(|i| {
                let at = run.at(i);
                let decision = match policy.decide(&at) {
                    Decision::Ask(_) => policy.answer(&at, signal(i)),
                    decided => decided,
                };
                if decision == Decision::Compute {
                    policy.finish(&at, &[]);
                }
                u8::from(decision == Decision::Compute)
            })
            .collect()
    }
}
