//! Runs by the dozen: one model, some prompts and seeds, and the frames of each.

pub mod args;

use std::path::{Path, PathBuf};
use std::time::Instant;

use residua::cache::CacheSpec;
use residua::media::{Frames, quality};
use residua::models::stdit3::STDiT3;
use residua::pipeline::{Caption, OpenSora, Parts, Plan, Request, Sampled, caption_folder, sizes};

use self::args::Work;
use super::bench::cache::record::{EQUAL_PSNR, Quality};
use super::exit::{Failure, Outcome};
use super::prompts::{self, Prompt};
use super::screen::Screen;
use super::signals::Stop;
use super::{model, words};

/// Folder of a model's own lists.
const LISTS: &str = "prompts";

/// A model that is loaded, and what it is asked for.
pub struct Lab<'a> {
    pub sora: OpenSora,
    net: STDiT3,
    stop: &'a Stop,
    request: Request,
}

/// A prompt with a seed.
#[derive(Clone, Debug)]
pub struct Job {
    pub prompt: String,
    pub group: Option<String>,
    pub seed: u64,
}

impl<'a> Lab<'a> {
    /// Opens the model and checks what all runs have in common, then loads the denoiser.
    ///
    /// # Errors
    /// Whatever is wrong with the model, the size or the adapter.
    pub async fn open(work: &Work, policies: &[CacheSpec], screen: &Screen, stop: &'a Stop) -> Outcome<Self> {
        let parts = model::find(work.model.model.as_deref())?;
        let (height, width) = words::size(&work.size, screen)?;
        let frames = work.size.frames.as_deref().map(sizes::frames).transpose()?;
        let request = Request {
            height,
            width,
            frames,
            fps: work.size.fps,
            steps: work.steps,
            guidance: work.cfg,
            ..Request::new("a prompt")
        };
        model::check(&parts)?;
        let sora = model::open(&parts, &work.device).await?.captions_in(caption_folder());
        // what is wrong with a policy is found before anything is loaded
        for policy in policies {
            sora.plan(&Request { cache: policy.clone(), ..request.clone() })?;
        }
        let net = sora.load_transformer()?;
        Ok(Self { sora, net, stop, request })
    }

    /// The plan of a job under a policy.
    ///
    /// # Errors
    /// As [`OpenSora::plan`].
    pub fn plan(&self, job: &Job, policy: &CacheSpec) -> Outcome<Plan> {
        let request = Request {
            prompt: job.prompt.clone(),
            seed: job.seed,
            cache: policy.clone(),
            scores: Some(self.sora.defaults().scores.clone()),
            ..self.request.clone()
        };
        Ok(self.sora.plan(&request)?)
    }

    /// Encodes the prompt.
    ///
    /// # Errors
    /// As [`OpenSora::encode`].
    pub async fn caption(&self, plan: &Plan) -> Outcome<Caption> {
        self.stop.check()?;
        Ok(self.sora.encode(plan).await?)
    }

    /// Denoises, and says how many seconds that took.
    ///
    /// # Errors
    /// As [`OpenSora::sample`]; if somebody asked to stop.
    pub async fn sample(&self, caption: &Caption, plan: &Plan) -> Outcome<(Sampled, f64)> {
        self.stop.check()?;
        self.sora.gpu().wait()?;
        let start = Instant::now();
        let sampled = self.sora.sample(&self.net, caption, plan, &mut |_| !self.stop.asked()).await?;
        self.sora.gpu().wait()?;
        Ok((sampled, start.elapsed().as_secs_f64()))
    }

    /// Denoises and is watched, as [`OpenSora::record`] has it.
    ///
    /// # Errors
    /// As [`OpenSora::record`]; if somebody asked to stop.
    pub async fn record(
        &self,
        caption: &Caption,
        plan: &Plan,
        settings: &residua::cache::Settings,
        [back, probes]: [usize; 2],
    ) -> Outcome<(Sampled, residua::cache::replay::Recording)> {
        let mut seen = |_: &_| !self.stop.asked();
        Ok(self.sora.record(&self.net, caption, plan, settings, back, probes, &mut seen).await?)
    }

    /// Decodes.
    ///
    /// # Errors
    /// As [`OpenSora::decode`]; if somebody asked to stop.
    pub async fn frames(&self, sampled: &Sampled, plan: &Plan) -> Outcome<Frames> {
        let mut seen = |_, _| !self.stop.asked();
        Ok(self.sora.decode(&sampled.latents, plan.frames, plan.fps, &mut seen).await?)
    }
}

/// Every prompt with every seed; `list` is the model's own, where none is given.
///
/// # Errors
/// A list that cannot be read, or none.
pub fn jobs(work: &Work, parts: &Parts, list: &str) -> Outcome<Vec<Job>> {
    let mut found: Vec<Prompt> = if !work.prompts_given.is_empty() {
        let given = work.prompts_given.iter();
        given.map(|prompt| Prompt { prompt: prompt.clone(), group: None, seed: None }).collect()
    } else {
        prompts::list(&listed(work.prompts.as_deref(), parts, list, "prompts")?)?
    };
    found.truncate(work.limit.map_or(usize::MAX, |n| n as usize));
    let jobs = found.iter().flat_map(|p| {
        let seeds = p.seed.map_or_else(|| work.seeds.clone(), |seed| vec![seed]);
        seeds.into_iter().map(|seed| Job { prompt: p.prompt.clone(), group: p.group.clone(), seed })
    });
    Ok(jobs.collect())
}

/// The list given, or the model's own.
///
/// # Errors
/// If there is neither, naming the flag.
pub fn listed(given: Option<&Path>, parts: &Parts, list: &str, flag: &str) -> Outcome<PathBuf> {
    let own = parts.root.as_ref().map(|root| root.join(LISTS).join(format!("{list}.jsonl")));
    match (given, own.filter(|path| path.is_file())) {
        (Some(path), _) => Ok(path.to_path_buf()),
        (None, Some(own)) => Ok(own),
        (None, None) => {
            Err(Failure::wrong(flag, format!("is needed: this model has no list {LISTS}/{list}.jsonl of its own")))
        }
    }
}

/// How close a video is to its uncached twin.
pub fn compare(uncached: &Frames, frames: &Frames) -> Quality {
    let cap = |db: f64| db.min(EQUAL_PSNR);
    let each = quality::psnr_frames(uncached, frames);
    let (worst_frame, worst_psnr) = quality::worst_frame(&each).unwrap_or_default();
    Quality {
        psnr: cap(quality::psnr(&uncached.rgb, &frames.rgb)),
        ssim: quality::ssim(uncached, frames),
        flip: quality::flip(uncached, frames),
        worst_frame,
        worst_psnr: cap(worst_psnr),
    }
}
