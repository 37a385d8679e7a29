//! From a request to numbers that cannot be wrong.

use super::given::{Given, Long};
use super::mask_strategy::Copy;
use super::sizes;
use super::{Defaults, Footprint, Request};
use crate::cache::CacheSpec;
use crate::diffusion::noise::Rng;
use crate::diffusion::schedule::{RectifiedFlow, Rounding, TimestepTransform};
use crate::error::{Error, Result};
use crate::models::{stdit3, vae};
use crate::text::clean::clean_caption;
use crate::text::prompt::{Embedded, Scores, Segments};

/// Largest side of a frame in pixels, and most frames and steps, that are taken for a wish and not for a slip.
const MOST_PIXELS: usize = 8192;
const MOST_FRAMES: usize = 4096;
const MOST_STEPS: usize = 10_000;
/// Frames that are encoded together.
const CHUNK_FRAMES: usize = 17;
/// Longest prompt in bytes that is read at all.
const MOST_PROMPT: usize = 64 << 10;

/// A request resolved against a model: every number of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The text that is tokenised, of the first clip.
    pub text: String,
    /// The same of every clip, the first included.
    pub texts: Vec<String>,
    /// Pixels as told to the model.
    pub height: usize,
    /// Pixels as told to the model.
    pub width: usize,
    /// Frames of a clip, and of the video if it is the only one; see [`Plan::all_frames`].
    pub frames: usize,
    /// Frames per second of the video.
    pub fps: f64,
    /// Latent size `[channels, T, H, W]`.
    pub latent: [usize; 4],
    /// Timesteps, noise first.
    pub timesteps: Vec<f64>,
    /// Guidance scale.
    pub guidance: f64,
    /// Seed of all noise.
    pub seed: u64,
    /// Which noise a seed means.
    pub rng: Rng,
    /// The start latent, if one was given.
    pub latents: Option<Vec<f32>>,
    /// The cache asked for.
    pub cache: CacheSpec,
    /// Frames it is to contain.
    pub given: Given,
    /// How many clips make it, and how they hang together.
    pub long: Long,
    /// What it takes on the adapter.
    pub memory: Footprint,
    /// Side of a latent cell in pixels.
    factor: usize,
    /// Latent frames of every reference.
    held: Vec<usize>,
}

impl Plan {
    pub(super) fn new(request: &Request, defaults: &Defaults, net: &stdit3::Config, vae: &vae::Config) -> Result<Self> {
        let within = |field: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                Ok(value)
            } else {
                Err(Error::request(field, format!("{value} is not between {least} and {most}")))
            }
        };
        // the smallest video is a patch of two by two latent cells
        let factor = vae.spatial.factor();
        let height = within("height", request.height.unwrap_or(defaults.height), 2 * factor, MOST_PIXELS)?;
        let width = within("width", request.width.unwrap_or(defaults.width), 2 * factor, MOST_PIXELS)?;
        let frames = within("frames", request.frames.unwrap_or(defaults.frames), 1, MOST_FRAMES)?;
        if defaults.timestep_transform && (2..17).contains(&frames) {
            let problem =
                format!("{frames} is too short for this model's schedule; ask for 1 (an image) or at least 17");
            return Err(Error::request("frames", problem));
        }
        let steps = within("steps", request.steps.unwrap_or(defaults.steps), 1, MOST_STEPS)?;
        let number = |field: &str, value: f64, least: f64, most: f64| {
            if value >= least && value <= most {
                Ok(value)
            } else {
                Err(Error::request(field, format!("{value} is not between {least} and {most}")))
            }
        };
        let fps = number("fps", request.fps.unwrap_or(defaults.fps), 0.1, 1000.0)?;
        let guidance = number("guidance scale", request.guidance.unwrap_or(defaults.guidance), 0.0, 1000.0)?;
        let [t, h, w] = vae.latent_size([frames, height, width]);
        let latent = [net.in_channels, t, h, w];
        if let Some(given) = &request.latents {
            let count: usize = latent.iter().product();
            if given.len() != count {
                let problem = format!(
                    "{} numbers were given, this video starts from [1, {}, {t}, {h}, {w}]",
                    given.len(),
                    latent[0]
                );
                return Err(Error::request("latents", problem));
            }
            if let Some(i) = given.iter().position(|v| !v.is_finite()) {
                return Err(Error::request("latents", format!("number {i} is {}", given[i])));
            }
        }
        let transform = defaults.timestep_transform.then_some(TimestepTransform {
            height,
            width,
            num_frames: frames,
            rounding: Rounding::Exact,
        });
        request.long.check(frames, t)?;
        let held = request.given.check(&request.long, t, |frames| vae.latent_size([frames, height, width])[0])?;
        let texts = texts_of(request, defaults)?;
        Ok(Self {
            text: texts[0].clone(),
            texts,
            height,
            width,
            frames,
            fps,
            latent,
            timesteps: RectifiedFlow { steps, transform }.timesteps(),
            guidance,
            seed: request.seed,
            rng: request.rng,
            latents: request.latents.clone(),
            cache: request.cache.clone(),
            given: request.given.clone(),
            held,
            long: request.long,
            memory: Footprint::default(),
            factor,
        })
    }

    /// Frame rate as told to the model: single images have their own.
    pub fn model_fps(&self) -> f64 {
        sizes::model_fps(self.frames, self.fps)
    }

    /// Frames of the whole video: those of every clip, less those that a clip shares with the one before.
    pub fn all_frames(&self) -> usize {
        self.long.frames(self.frames)
    }

    /// Latent frames of the whole video.
    pub fn all_latents(&self) -> usize {
        self.latent[1] + (self.long.clips - 1) * (self.latent[1] - self.long.condition_frames.min(self.latent[1]))
    }

    /// Denoising steps of the whole video.
    pub fn all_steps(&self) -> usize {
        self.long.clips * self.timesteps.len()
    }

    /// Where given frames go in a clip (from 0), in latent frames; what it takes over from the one before comes on top.
    ///
    /// # Errors
    /// None for clips of this plan.
    pub fn places(&self, clip: usize) -> Result<Vec<Copy>> {
        Ok(self.given.places(clip, self.latent[1], &self.held)?.copies)
    }

    /// Latent frames of every reference.
    pub(super) fn held(&self) -> &[usize] {
        &self.held
    }

    /// Size of the video's frames: whole latent cells.
    pub fn pixels(&self) -> [usize; 2] {
        [self.latent[2] * self.factor, self.latent[3] * self.factor]
    }

    /// Frames, rows and columns of the largest video that is encoded at once, if any is.
    pub(super) fn encoded_together(&self) -> Option<[usize; 3]> {
        let given = self.given.references.iter().map(|r| r.frames().count()).max();
        let most = given.into_iter().chain((self.long.clips > 1).then(|| self.long.shared())).max()?;
        Some([most.min(CHUNK_FRAMES), self.height, self.width])
    }
}

/// The text of every clip for the tokeniser: grammar, scores and cleaning.
fn texts_of(request: &Request, defaults: &Defaults) -> Result<Vec<String>> {
    let prompt = &request.prompt;
    let wrong = |problem: String| Err(Error::request("prompt", problem));
    if prompt.trim().is_empty() {
        return wrong("is empty; say what the video shows".into());
    }
    if prompt.len() > MOST_PROMPT {
        return wrong(format!("is {} bytes long, at most {MOST_PROMPT} are read", prompt.len()));
    }
    let embedded = Embedded::split(prompt)?;
    if embedded.reference_path.is_some() || embedded.mask_strategy.is_some() {
        return wrong("has `reference_path` or `mask_strategy` in it; `Request::take_embedded` reads them".into());
    }
    let segments = Segments::split(&embedded.text)?;
    let clips = request.long.clips;
    if let Some(late) = segments.starts.iter().flatten().find(|&&start| start >= clips) {
        let made = if clips == 1 { "one is".to_string() } else { format!("{clips} are") };
        return wrong(format!("has a text for clip {late} (counted from 0), but {made} made; a loop makes more"));
    }
    let scores: &Scores = request.scores.as_ref().unwrap_or(&defaults.scores);
    let scored = segments.map(|text| scores.append(text));
    let clean = |text: &str| if defaults.clean_caption { clean_caption(text) } else { text.trim().to_lowercase() };
    let cleaned = scored.map(clean);
    Ok((0..clips).map(|clip| cleaned.at(clip).to_string()).collect())
}
