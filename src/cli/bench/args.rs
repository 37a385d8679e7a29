//! The words of `residua bench`; those of `bench cache` are beside `calibrate`'s.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args::{Device, Talk};

#[derive(Args)]
pub struct BenchModel {
    /// Networks and the size of the video: 51 frames at 16:9, or all of it scaled down
    #[arg(long, value_name = "CONFIG", value_enum, default_value = "open-sora-480p")]
    pub config: BenchConfig,
    /// Where the weights come from
    #[arg(long, value_name = "WEIGHTS", value_enum, default_value = "random")]
    pub weights: BenchWeights,
    /// What is timed
    #[arg(long, value_name = "PARTS", value_enum, value_delimiter = ',', default_values = ["step", "run", "decode", "text"])]
    pub parts: Vec<BenchPart>,
    /// Denoising steps of the run [default: 30, of the tiny one 6]
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub steps: Option<u16>,
    /// The run computes every n-th step and reuses the others, unless --cache says otherwise
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..))]
    pub every: u16,
    /// Cache policy of the run, such as adacache:preset=fast
    #[arg(long, value_name = "POLICY")]
    pub cache: Option<residua::cache::CacheSpec>,
    /// How long single steps are repeated [default: 5, tiny: 0.2]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Say how much memory and work each part needs, and stop: takes no memory of the adapter
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub device: Device,
    #[command(flatten)]
    pub talk: Talk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchConfig {
    #[value(name = "open-sora-240p")]
    OpenSora240p,
    #[value(name = "open-sora-480p")]
    OpenSora480p,
    #[value(name = "open-sora-720p")]
    OpenSora720p,
    Tiny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchWeights {
    Random,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchPart {
    /// One guided step, computed and skipped, and the metric of a cache
    Step,
    /// A whole run
    Run,
    /// Latents to pixels
    Decode,
    /// The text encoder on 300 tokens
    Text,
}

#[derive(Args)]
pub struct BenchKernels {
    /// Only cases whose name contains this
    #[arg(long, value_name = "PART")]
    pub filter: Option<String>,
    /// Name the cases and stop
    #[arg(long)]
    pub list: bool,
    /// full: the models' own sizes; small: the same roles, scaled for software drivers [default: by the adapter]
    #[arg(long, value_name = "SIZE", value_enum)]
    pub size: Option<BenchSize>,
    /// How long each case is repeated [default: 0.5, on software drivers 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<f64>,
    #[command(flatten)]
    pub device: Device,
    #[command(flatten)]
    pub talk: Talk,
}

#[derive(Args)]
pub struct BenchTable {
    /// Lines of JSON, as `bench kernels --json` writes them
    #[arg(value_name = "RESULTS")]
    pub results: PathBuf,
    /// The same of something else, such as `benches/torch_baseline.py`: a column of its speed for each
    #[arg(value_name = "BASELINE")]
    pub baselines: Vec<PathBuf>,
    #[command(flatten)]
    pub talk: Talk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchSize {
    Full,
    Small,
}

fn seconds(text: &str) -> Result<f64, String> {
    let most = 3600.0;
    let number = text.parse().ok().filter(|v: &f64| *v > 0.0 && *v <= most);
    number.ok_or_else(|| format!("expected a number of seconds above 0, {most} at the most"))
}
