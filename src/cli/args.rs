//! The words of the command line. Flags of other programs of this kind are understood where they mean the same.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use residua::diffusion::noise::Rng;
use residua::gpu::{Class, DType, Prefs, Tune};
use residua::pipeline::Budget;

use super::bench::args::{BenchKernels, BenchModel, BenchTable};
use super::convert::args::{CONVERT_HELP, Convert};
use super::given;
use super::lab::args::{BenchCache, Calibrate};

/// Text to video with diffusion transformers on any GPU.
#[derive(Parser)]
#[command(name = "residua", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Make a video from a prompt
    #[command(visible_alias = "run", after_help = GENERATE_HELP)]
    Generate(Box<Generate>),
    /// Go on with an interrupted run from its state
    Resume(Box<Resume>),
    /// Make a video from a latents file
    Decode(Decode),
    /// Tell what a file is: a model folder, latents, a state, or a video with its recipe
    Info(Info),
    /// Download the files of a model into the hub's cache, from where every verb takes them
    Pull(Pull),
    /// List the models that are found by name
    List(List),
    /// Write weights anew: in f16, bf16, f32 or eight bits, of one part or a whole model
    #[command(after_help = CONVERT_HELP)]
    Convert(Convert),
    /// List adapters with limits and features; the default is marked
    Devices(Devices),
    /// Time this adapter, or compare caches
    #[command(subcommand)]
    Bench(Bench),
    /// Make the codebook of AdaCache for a model and a number of steps
    Calibrate(Box<Calibrate>),
}

#[derive(Subcommand)]
pub enum Bench {
    /// Time single kernels at the models' sizes, each checked before it counts
    Kernels(BenchKernels),
    /// Results as a table in Markdown, beside those of others
    Table(BenchTable),
    /// Time whole networks at their true sizes, with weights made on the device
    Model(BenchModel),
    /// Compare caches: speed against closeness to the uncached video, over many prompts
    Cache(Box<BenchCache>),
}

const GENERATE_HELP: &str = "Examples:
  residua generate -p \"a red circle moving right on a blue background\" -o out.mp4
  residua generate --prompts prompts.txt --num-videos 2 -o out/
  residua generate -p \"a red circle growing\" -i first.png --end-image last.png -f 34
  residua generate -p \"|0|a red circle|2|a green circle\" -f 34 --loop 4
  residua generate -p \"a red circle\" --cache adacache:preset=fast,moreg=on --verify-cache
  echo \"a red circle\" | residua generate -p - -o - | mpv -";

#[derive(Args)]
pub struct Generate {
    #[command(flatten)]
    pub input: Input,
    #[command(flatten)]
    pub size: Size,
    #[command(flatten)]
    pub given: given::Flags,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    pub cache: Cache,
    #[command(flatten)]
    pub memory: Memory,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub saving: Saving,
    #[command(flatten)]
    pub device: Device,
    #[command(flatten)]
    pub talk: Talk,
    /// Say what would be done, how much memory and time it takes, and stop
    #[arg(long, help_heading = "Progress")]
    pub dry_run: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Input")]
pub struct Input {
    #[command(flatten)]
    pub model: Model,
    /// What the video shows; `-` reads standard input; once for each of several videos
    #[arg(short, long, value_name = "TEXT", required_unless_present = "prompts")]
    pub prompt: Vec<OsString>,
    /// Prompts from a file: one a line, `#` begins a comment; of .jsonl, each line with `prompt` and perhaps `seed`
    #[arg(long, value_name = "FILE", aliases = ["prompt-path", "prompt-file"])]
    pub prompts: Option<PathBuf>,
    /// Videos of each prompt, with one seed after the other
    #[arg(long, value_name = "N", default_value_t = 1, alias = "num-sample")]
    pub num_videos: usize,
    /// Aesthetic score told to the model, or `none`
    #[arg(long, value_name = "SCORE", value_parser = score)]
    pub aes: Option<Score>,
    /// Motion score told to the model, or `none`
    #[arg(long, value_name = "SCORE", value_parser = score)]
    pub flow: Option<Score>,
    /// Camera motion told to the model, such as "pan left"
    #[arg(long, value_name = "WORDS")]
    pub camera_motion: Option<String>,
    /// Start from this noise: tensor `latents`, f32 [1, 4, T, H, W]
    #[arg(long, value_name = "FILE")]
    pub latents_in: Option<PathBuf>,
    /// Encode prompts although they are known from earlier runs, and keep none
    #[arg(long)]
    pub no_caption_cache: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Input")]
pub struct Model {
    /// Model by folder or name: one in `weights` or RESIDUA_MODELS, `open-sora-1.2`, or org/name in the hub's cache; the
    /// shipped model if not given
    #[arg(short, long, value_name = "MODEL", env = "RESIDUA_MODEL", aliases = ["ckpt-path", "model-path"])]
    pub model: Option<PathBuf>,
}

#[derive(Args)]
#[command(next_help_heading = "Size")]
pub struct Size {
    /// Width in pixels; the model's if not given
    #[arg(short = 'W', long, value_name = "PIXELS")]
    pub width: Option<usize>,
    /// Height in pixels
    #[arg(short = 'H', long, value_name = "PIXELS")]
    pub height: Option<usize>,
    /// Height and width together
    #[arg(long, num_args = 2, value_names = ["H", "W"], hide = true, conflicts_with_all = ["width", "height"])]
    pub image_size: Option<Vec<usize>>,
    /// Resolution by name: 144p, 240p, 360p, 480p, 720p, 1080p, 2k, 256, 512, 1024, 2048
    #[arg(short, long, value_name = "NAME", conflicts_with_all = ["width", "height", "image_size"])]
    pub resolution: Option<String>,
    /// Aspect ratio of the resolution, width:height [default: 16:9]
    #[arg(long, value_name = "W:H", requires = "resolution")]
    pub aspect: Option<String>,
    /// The same as Open-Sora has it, height:width
    #[arg(long, value_name = "H:W", requires = "resolution", conflicts_with = "aspect")]
    pub aspect_ratio: Option<String>,
    /// Number of frames, or a length such as 4s; 1 is an image
    #[arg(short, long, value_name = "N", aliases = ["num-frames", "video-frames"])]
    pub frames: Option<String>,
    /// Frames per second, told to the model and written into the file
    #[arg(long, value_name = "RATE")]
    pub fps: Option<f64>,
    /// Frames per second of the file alone
    #[arg(long, value_name = "RATE", hide = true)]
    pub save_fps: Option<f64>,
}

#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// Seed of the start noise; random and printed if not given or -1
    #[arg(short, long, value_name = "NUMBER", value_parser = seed, allow_negative_numbers = true)]
    pub seed: Option<Seed>,
    /// Which noise a seed means: torch-cpu; philox, CUDA's on any GPU that is large enough; torch-cuda:132x2048,
    /// torch's on a GPU of so many multiprocessors and threads of each
    #[arg(long, value_name = "NAME", default_value = "torch-cpu")]
    pub rng: Rng,
    /// Denoising steps
    #[arg(long, value_name = "N", aliases = ["num-sampling-steps", "num-inference-steps"])]
    pub steps: Option<usize>,
    /// Guidance scale
    #[arg(long, value_name = "SCALE", aliases = ["cfg-scale", "guidance-scale"])]
    pub cfg: Option<f64>,
}

#[derive(Args)]
#[command(next_help_heading = "Cache")]
pub struct Cache {
    /// What may be reused between steps: off, adacache, adacache:preset=fast,moreg=on, static:every=2,
    /// teacache:threshold=0.1, fbcache:threshold=0.08,warmup=4, taylorseer:every=3,order=1, pab:preset=fast, tgate,
    /// magcache, delta-dit; a mistaken option is answered with those there are
    #[arg(long, value_name = "POLICY[:KEY=VALUE,…]", default_value = "off", alias = "cache-mode")]
    pub cache: String,
    /// Make the video without cache as well and report the difference
    #[arg(long)]
    pub verify_cache: bool,
    /// Write every step's distance, motion score, rate and time as JSON
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

#[derive(Args)]
#[command(next_help_heading = "Memory")]
pub struct Memory {
    /// What a run may take on the adapter: auto, all it has; low, as little as possible, which is slower; or GiB,
    /// negative to leave that many
    #[arg(
        long,
        value_name = "auto|low|GIB",
        default_value = "auto",
        env = "RESIDUA_MEMORY",
        alias = "max-vram",
        allow_negative_numbers = true
    )]
    pub memory: Budget,
}

#[derive(Args)]
#[command(next_help_heading = "Output")]
pub struct Output {
    #[command(flatten)]
    pub video: Video,
    /// Write the recipe and the times beside the video, as JSON
    #[arg(long)]
    pub sidecar: bool,
    /// Leave out videos that are there already
    #[arg(long, conflicts_with = "force")]
    pub skip_existing: bool,
    /// Save the final latents, before they are decoded
    #[arg(long, value_name = "FILE")]
    pub latents_out: Option<PathBuf>,
}

#[derive(Args)]
#[command(next_help_heading = "Output")]
pub struct Saving {
    /// Keep the state of the run in this folder while it lasts: `residua resume` goes on from it; of a single video that
    /// is expected to take more than five minutes, in `OUTPUT.state` if not given
    #[arg(long, value_name = "FOLDER")]
    pub save_state: Option<PathBuf>,
    /// Keep none, however long it takes
    #[arg(long, conflicts_with = "save_state")]
    pub no_save_state: bool,
    /// Save it after every so many steps [default: as often as takes a twentieth of the time]
    #[arg(long, value_name = "N", requires = "save_state", value_parser = clap::value_parser!(u32).range(1..))]
    pub state_every: Option<u32>,
}

#[derive(Args)]
#[command(next_help_heading = "Output")]
pub struct Video {
    /// .mp4, .gif, .png (animated), .y4m, .rgb, a folder of PNGs, or `-` for Y4M on standard output; of several videos
    /// a folder of MP4s, or a template with {index}, {index:04}, {seed}, {take}, {prompt}, {slug}, {model}: as Open-Sora
    /// names them by --prompt-as-path, `{prompt}-{take}.mp4`
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Quality of an MP4, 0 (best) to 51
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u8).range(0..=51))]
    pub crf: u8,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
    /// Keep the recipe out of the files
    #[arg(long)]
    pub no_metadata: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Device")]
pub struct Device {
    /// Adapter: a number or part of a name of `residua devices`, or `software`
    #[arg(long, value_name = "ADAPTER", env = "RESIDUA_DEVICE", aliases = ["backend", "gpu"])]
    pub device: Option<String>,
    /// Kernel family to use in place of the adapter's own: portable, simd8, coop (coop8, coop16)
    #[arg(long, value_name = "FAMILY", env = "RESIDUA_KERNELS")]
    pub kernels: Option<Class>,
    /// How weights and what feeds products are kept: f32, f16 [default: f16]
    #[arg(long, value_name = "TYPE", env = "RESIDUA_DTYPE")]
    pub dtype: Option<DType>,
    /// Use best guesses in place of measuring kernels against each other (once, on a GPU)
    #[arg(long, env = "RESIDUA_NO_TUNE", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_tune: bool,
}

impl Device {
    /// The same as the library takes it.
    pub fn prefs(&self) -> Prefs {
        Prefs {
            device: self.device.clone(),
            class: self.kernels,
            dtype: self.dtype,
            tune: if self.no_tune { Tune::Off } else { Tune::Auto },
            ..Prefs::default()
        }
    }
}

#[derive(Args)]
#[command(next_help_heading = "Progress")]
pub struct Talk {
    /// Events as lines of JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Errors only
    #[arg(short, long)]
    pub quiet: bool,
    /// More words on standard error; twice for more still
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

#[derive(Args)]
pub struct Resume {
    /// The state, or the folder it is in, as `generate --save-state` keeps it
    #[arg(value_name = "STATE")]
    pub state: PathBuf,
    /// Where the video goes, if not where the interrupted run would have put it
    #[arg(short, long, value_name = "PATH", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Replace what is there
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Model folder, if it is elsewhere now
    #[arg(short, long, value_name = "FOLDER", help_heading = "Input")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub device: Device,
    #[command(flatten)]
    pub talk: Talk,
}

#[derive(Args)]
pub struct Decode {
    /// The latents, as `generate --latents-out` writes them
    #[arg(value_name = "LATENTS")]
    pub latents: PathBuf,
    #[command(flatten)]
    pub model: Model,
    /// Frames of the video; those the file names if not given
    #[arg(short, long, value_name = "N", help_heading = "Input", aliases = ["num-frames", "video-frames"])]
    pub frames: Option<String>,
    /// Frames per second of the video; those the file names, or 24
    #[arg(long, value_name = "RATE", help_heading = "Input", alias = "save-fps")]
    pub fps: Option<f64>,
    /// Most GiB of the adapter's memory; where they end, fewer frames are decoded at a time
    #[arg(
        long,
        value_name = "GIB",
        env = "RESIDUA_MEMORY",
        help_heading = "Memory",
        default_value = "auto",
        alias = "max-vram"
    )]
    pub memory: Budget,
    #[command(flatten)]
    pub video: Video,
    #[command(flatten)]
    pub device: Device,
    #[command(flatten)]
    pub talk: Talk,
}

#[derive(Args)]
pub struct Info {
    /// A model by folder or name, a file of weights or latents, a state, a video, or a folder of frames
    pub path: PathBuf,
    /// Print the command that makes this video again
    #[arg(long)]
    pub rerun: bool,
    #[command(flatten)]
    pub talk: Talk,
}

#[derive(Args)]
pub struct Pull {
    /// `open-sora-1.2`, or a repository of the hub: org/name, org/name/folder, either with @revision
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Download without asking
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub talk: Talk,
}

#[derive(Args)]
pub struct List {
    #[command(flatten)]
    pub talk: Talk,
}

#[derive(Args)]
pub struct Devices {
    #[command(flatten)]
    pub talk: Talk,
}

/// `None` is a random one.
#[derive(Clone, Copy)]
pub struct Seed(pub Option<u64>);

fn seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        return Ok(Seed(None));
    }
    text.parse().map(|n| Seed(Some(n))).map_err(|_| "expected a whole number from 0 to 2^64 - 1, or -1".into())
}

/// `None` leaves the score out.
#[derive(Clone, Copy)]
pub struct Score(pub Option<f64>);

fn score(text: &str) -> Result<Score, String> {
    if text == "none" {
        return Ok(Score(None));
    }
    let number = text.parse().ok().filter(|v: &f64| v.is_finite());
    number.map(|v| Score(Some(v))).ok_or_else(|| "expected a number or `none`".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_of_other_programs() {
        let words = "residua run --ckpt-path m -p x --num-frames 4s --num-sampling-steps 9 --cfg-scale 7 --gpu 0 -s -1 --rng cpu";
        let Verb::Generate(args) = Cli::parse_from(words.split(' ')).verb else { panic!("another verb") };
        assert_eq!(args.size.frames.as_deref(), Some("4s"));
        assert_eq!((args.sampling.steps, args.sampling.cfg), (Some(9), Some(7.0)));
        assert!(matches!(args.sampling.seed, Some(Seed(None))));
        assert_eq!((args.device.device.as_deref(), args.sampling.rng), (Some("0"), Rng::TorchCpu));
    }
}
