//! What a comparison of caches keeps of its runs: lines of JSON, the head first, then one for each run.

use residua::diffusion::sampler::Step;
use serde::{Deserialize, Serialize};

/// The version that is written and read.
pub const VERSION: u32 = 1;
/// PSNR of equal videos, in dB. The field's tools say 100 too.
pub const EQUAL_PSNR: f64 = 100.0;

/// What all runs have in common. Runs of another head are not continued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub v: u32,
    pub model: String,
    /// Of the transformer's weights.
    pub weights: String,
    pub adapter: String,
    pub driver: String,
    pub kernels: String,
    pub dtype: String,
    pub commit: Option<String>,
    pub steps: usize,
    pub guidance: f64,
    /// Width, height, frames.
    pub size: [usize; 3],
    pub fps: f64,
    /// How often each run was timed.
    pub repeats: usize,
    /// Of all blocks at one computed step.
    pub step_flops: f64,
    /// Residual branches of all blocks.
    pub branches: usize,
}

/// One prompt with one seed under one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub prompt: String,
    /// What kind of content the prompt asks for, if the list of prompts says.
    pub group: Option<String>,
    pub seed: u64,
    /// As `--cache` takes it.
    pub policy: String,
    /// In the policy's own words.
    pub name: String,
    /// Denoising, each repeat.
    pub seconds: Vec<f64>,
    /// Denoising without a cache, in the same rounds.
    pub uncached_seconds: Vec<f64>,
    /// Of the last repeat, in order.
    pub steps: Vec<Line>,
    /// The most the cache held, and the most it said it would.
    pub cache_bytes: u64,
    pub planned_bytes: u64,
    /// Of the uncached frames: how much neighbours differ, in hundredths of how much pixels differ from their frame's mean.
    pub motion: f64,
    /// Against the uncached frames of the same prompt and seed; none of the uncached run itself.
    pub quality: Option<Quality>,
    /// A PNG beside this file: some frames side by side.
    pub picture: Option<String>,
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Whether all pairs were computed, perhaps with branches reused.
    pub computed: bool,
    /// Share of the blocks' operations.
    pub work: f64,
    /// Residual branches that were computed, where they are counted.
    pub branches: Option<usize>,
    pub seconds: f64,
    /// What a policy asked for before it decided.
    pub signal: Option<f64>,
    /// AdaCache: the distance a step.
    pub distance: Option<f64>,
    /// AdaCache: what motion multiplied it by.
    pub motion: Option<f64>,
    /// AdaCache: steps until the next computed one.
    pub rate: Option<usize>,
}

/// How close a video is to its uncached twin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// In dB, at most [`EQUAL_PSNR`].
    pub psnr: f64,
    pub ssim: f64,
    /// 0 if equal.
    pub flip: f64,
    /// The frame of the lowest PSNR, from 0, and that.
    pub worst_frame: usize,
    pub worst_psnr: f64,
}

impl Head {
    /// What is made, in one line.
    pub fn line(&self) -> String {
        let [width, height, frames] = self.size;
        format!("{}, {width}x{height} x {frames} frames, {} steps, cfg {}", self.model, self.steps, self.guidance)
    }
}

impl Line {
    pub fn of(step: &Step) -> Self {
        let row = step.rows.last();
        Self {
            computed: step.computed,
            work: step.work,
            branches: step.branches,
            seconds: step.seconds.as_secs_f64(),
            signal: step.signal.filter(|v| v.is_finite()),
            distance: row.map(|r| r.avg_diff).filter(|v| v.is_finite()),
            motion: row.map(|r| r.motion_factor).filter(|v| v.is_finite()),
            rate: row.map(|r| r.new_rate),
        }
    }
}

impl Record {
    /// Which run it is, among those of one head.
    pub fn key(&self) -> (&str, u64, &str) {
        (&self.prompt, self.seed, &self.policy)
    }

    /// Steps at which all pairs were computed.
    pub fn computed(&self) -> usize {
        self.steps.iter().filter(|s| s.computed).count()
    }

    /// Share of the blocks' operations that were done.
    pub fn work(&self) -> f64 {
        self.steps.iter().map(|s| s.work).sum::<f64>() / self.steps.len().max(1) as f64
    }
}
