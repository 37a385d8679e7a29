//! What a user asks for, and what a model folder offers by default.

use std::path::Path;

use super::Budget;
use super::given::{Given, Long};
use crate::cache::CacheSpec;
use crate::diffusion::noise::Rng;
use crate::error::{Error, Result};
use crate::text::prompt::Scores;

/// A video to make. Fields left `None` take the model's default.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What the video shows, in the prompt grammar of [`crate::text::prompt`].
    pub prompt: String,
    /// Height in pixels. What the VAE's factor of 8 does not divide is cut off.
    pub height: Option<usize>,
    /// Width in pixels.
    pub width: Option<usize>,
    /// Frames; 1 makes an image.
    pub frames: Option<usize>,
    /// Frames per second, told to the model and written into files.
    pub fps: Option<f64>,
    /// Denoising steps.
    pub steps: Option<usize>,
    /// Guidance scale.
    pub guidance: Option<f64>,
    /// Seed of all noise.
    pub seed: u64,
    /// Which noise a seed means.
    pub rng: Rng,
    /// Start latent `[1, ch, T, H, W]` in place of noise from the seed.
    pub latents: Option<Vec<f32>>,
    /// Quality words to append; `None`: the model's.
    pub scores: Option<Scores>,
    /// What may be reused between steps.
    pub cache: CacheSpec,
    /// Frames it is to contain.
    pub given: Given,
    /// How many clips make it, and how they hang together.
    pub long: Long,
    /// How much memory it may take on the adapter.
    pub memory: Budget,
}

impl Request {
    /// A request with every default.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), ..Self::default() }
    }

    /// The same with another seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same with a cache.
    pub fn cache(mut self, cache: CacheSpec) -> Self {
        self.cache = cache;
        self
    }
}

/// What a folder's `model_index.json` (`defaults`) and `scheduler/scheduler_config.json` say, over Open-Sora's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// Frames.
    pub frames: usize,
    /// Frames per second.
    pub fps: f64,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
    /// Whether timesteps are bent by the size of the video.
    pub timestep_transform: bool,
    /// Whether prompts are cleaned as Open-Sora's captions were.
    pub clean_caption: bool,
    /// Quality words appended to prompts.
    pub scores: Scores,
}

impl Default for Defaults {
    /// Open-Sora v1.2: configs/opensora-v1-2/inference/sample.py at tag v1.2.0, at its smallest video size.
    fn default() -> Self {
        Self {
            height: 240,
            width: 426,
            frames: 51,
            fps: 24.0,
            steps: 30,
            guidance: 7.0,
            timestep_transform: true,
            clean_caption: true,
            scores: Scores { aesthetic: Some(6.5), ..Scores::default() },
        }
    }
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Index {
    defaults: Option<Stated>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Stated {
    height: Option<usize>,
    width: Option<usize>,
    num_frames: Option<usize>,
    fps: Option<f64>,
    num_steps: Option<usize>,
    guidance_scale: Option<f64>,
    clean_caption: Option<bool>,
    aes: Option<f64>,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Scheduler {
    num_sampling_steps: Option<usize>,
    cfg_scale: Option<f64>,
    use_timestep_transform: Option<bool>,
}

impl Defaults {
    /// Reads what a model folder says; files that are not there say nothing.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a file is there but not what it should be, or a value is absurd.
    pub fn read(folder: &Path) -> Result<Self> {
        let index: Index = read_json(&folder.join("model_index.json"))?.unwrap_or_default();
        let mut own = Self::default().scheduled(&folder.join("scheduler"))?;
        if let Some(stated) = index.defaults {
            own.height = stated.height.unwrap_or(own.height);
            own.width = stated.width.unwrap_or(own.width);
            own.frames = stated.num_frames.unwrap_or(own.frames);
            own.fps = stated.fps.unwrap_or(own.fps);
            own.steps = stated.num_steps.unwrap_or(own.steps);
            own.guidance = stated.guidance_scale.unwrap_or(own.guidance);
            own.clean_caption = stated.clean_caption.unwrap_or(own.clean_caption);
            // a model that states its defaults states this one too: `null` means no suffix
            own.scores = Scores { aesthetic: stated.aes, ..Scores::default() };
        }
        Ok(own)
    }

    /// The same with what a scheduler's folder says.
    pub(super) fn scheduled(mut self, folder: &Path) -> Result<Self> {
        let scheduler: Scheduler = read_json(&folder.join("scheduler_config.json"))?.unwrap_or_default();
        self.steps = scheduler.num_sampling_steps.unwrap_or(self.steps);
        self.guidance = scheduler.cfg_scale.unwrap_or(self.guidance);
        self.timestep_transform = scheduler.use_timestep_transform.unwrap_or(self.timestep_transform);
        Ok(self)
    }
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map(Some).map_err(|e| Error::checkpoint(path, format!("cannot be understood: {e}")))
}
