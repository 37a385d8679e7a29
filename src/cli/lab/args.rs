//! The words of `bench cache` and `calibrate`.

use std::path::PathBuf;

use clap::Args;
use residua::cache::CacheSpec;

use crate::cli::args::{Device, Model, Size, Talk};

/// Which videos are made.
#[derive(Args)]
pub struct Work {
    #[command(flatten)]
    pub model: Model,
    /// A prompt; may be given several times
    #[arg(short, long = "prompt", value_name = "TEXT", help_heading = "Input")]
    pub prompts_given: Vec<String>,
    /// Prompts, one a line; or `.jsonl` with `prompt` and perhaps `group` and `seed` [default: the model's own]
    #[arg(long, value_name = "FILE", help_heading = "Input", conflicts_with = "prompts_given")]
    pub prompts: Option<PathBuf>,
    /// Of the prompts, only the first so many
    #[arg(long, value_name = "N", help_heading = "Input", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Seed of the start noise, where the list of prompts has none; may be given several times
    #[arg(short, long = "seed", value_name = "NUMBER", help_heading = "Sampling", default_values_t = [0])]
    pub seeds: Vec<u64>,
    /// Denoising steps
    #[arg(long, value_name = "N", help_heading = "Sampling", aliases = ["num-sampling-steps", "num-inference-steps"])]
    pub steps: Option<usize>,
    /// Guidance scale
    #[arg(long, value_name = "SCALE", help_heading = "Sampling", aliases = ["cfg-scale", "guidance-scale"])]
    pub cfg: Option<f64>,
    #[command(flatten)]
    pub size: Size,
    #[command(flatten)]
    pub device: Device,
    #[command(flatten)]
    pub talk: Talk,
}

/// `residua bench cache`
#[derive(Args)]
#[command(after_help = CACHE_HELP)]
pub struct BenchCache {
    #[command(flatten)]
    pub work: Work,
    /// A policy as `generate` takes it; may be given several times [default: one or two settings of each]
    #[arg(long = "cache", value_name = "POLICY", help_heading = "Cache")]
    pub caches: Vec<String>,
    /// How often each run is timed
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub repeats: u16,
    /// Prompts of which some frames are kept for the report
    #[arg(long, value_name = "N", default_value = "4", help_heading = "Output")]
    pub show: usize,
    /// Folder of results; what is in it already is not run again
    #[arg(short, long, value_name = "FOLDER", help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Throw away what is in the folder
    #[arg(long, help_heading = "Output")]
    pub force: bool,
}

const CACHE_HELP: &str = "Every run is compared with its uncached twin of the same prompt and seed, and timed in the same rounds. The folder gets
runs.jsonl (a line for each run; an interrupted comparison goes on from there), summary.json and report.html.

Examples:
  residua bench cache --out caches
  residua bench cache --cache adacache:preset=fast --cache static:every=3 -p \"a red circle\" --repeats 1";

/// What is chosen beside a codebook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fit {
    Head,
    Tail,
    Order,
    None,
}

/// `residua calibrate`
#[derive(Args)]
#[command(after_help = CALIBRATE_HELP)]
pub struct Calibrate {
    #[command(flatten)]
    pub work: Work,
    /// Prompts that are not learned from, to confirm the result on [default: the model's own]
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    pub held_out: Option<PathBuf>,
    /// How much faster denoising is to be
    #[arg(long, value_name = "TIMES", help_heading = "Goal", conflicts_with = "target_psnr", value_parser = speedup)]
    pub target_speedup: Option<f64>,
    /// How close to the uncached frames, in the mean over prompts, in dB
    #[arg(long, value_name = "DB", help_heading = "Goal", required_unless_present = "target_speedup", value_parser = decibel)]
    pub target_psnr: Option<f64>,
    /// Everything but the codebook: adacache with its options `residual`, `layers`, `distance`, `moreg`, `head`, `tail`, `order`
    #[arg(long, value_name = "POLICY", help_heading = "Cache", default_value = "adacache:preset=released-fast")]
    pub cache: CacheSpec,
    /// What else is chosen beside the codebook: steps always computed at the beginning (head) and at the end (tail), the
    /// order of extrapolation; `none` leaves all as --cache has them
    #[arg(long, value_name = "WHAT", help_heading = "Cache", value_enum, value_delimiter = ',', default_values = ["head", "tail"])]
    pub fit: Vec<Fit>,
    /// The largest rate [default: 6, from 60 steps on 12]
    #[arg(long, value_name = "STEPS", help_heading = "Cache", value_parser = clap::value_parser!(u16).range(2..=64))]
    pub most_rate: Option<u16>,
    /// Where the calibration goes, such as fast-30.cache.json
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
    /// Replace what is there
    #[arg(long, help_heading = "Output")]
    pub force: bool,
}

const CALIBRATE_HELP: &str = "The uncached runs of the prompts are watched, codebooks are tried on what they told without denoising again, and
the best is run on the prompts and on held-out ones. `--cache file:FILE` uses the result; as cache/fast-STEPS.cache.json or
slow-STEPS.cache.json in the model's folder it becomes the preset of that name.

Examples:
  residua calibrate --target-speedup 3 -o weights/toybox/cache/fast-30.cache.json
  residua calibrate --target-psnr 35 --steps 50 -o slow.cache.json";

fn speedup(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|v: &f64| *v > 1.0 && *v <= 100.0);
    number.ok_or_else(|| "expected a number above 1, 100 at the most".into())
}

fn decibel(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|v: &f64| *v > 0.0 && *v < 100.0);
    number.ok_or_else(|| "expected a number of decibels above 0 and below 100".into())
}
