//! `residua generate`: prompts to videos, everything checked before the first stage, each model loaded once.

mod kept;
mod manifest;
mod places;
mod resume;
mod saving;
mod video;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use residua::cache::CacheSpec;
use residua::models::stdit3::STDiT3;
use residua::models::vae::OpenSoraVae;
use residua::pipeline::{Caption, OpenSora, Plan, Request, caption_folder};
use residua::text::prompt::Scores;
use serde_json::{Value, json};

use super::args::Generate;
use super::exit::{Failure, Outcome};
use super::pace::{Paces, memory_line, seconds_line};
use super::prompts::Prompt;
use super::screen::{Screen, round, size};
use super::signals::Stop;
use super::{given, model, prompts, words};
use manifest::Manifest;
use places::Places;
pub use resume::run as resume;
use video::Job;

/// Most videos of a run that are taken for a wish and not for a slip.
const MOST_VIDEOS: usize = 10_000;
/// Videos told of beforehand, for people.
const TOLD: usize = 10;

/// Runs the verb.
///
/// # Errors
/// Whatever goes wrong; nothing is left half-written.
pub fn run(args: &Generate, screen: &Screen) -> Outcome {
    let stop = Stop::listen();
    let began = Instant::now();
    let work = async {
        match Batch::prepare(args, screen, &stop).await? {
            Some(batch) => batch.work(began).await,
            None => Ok(()), // a dry run
        }
    };
    pollster::block_on(work).map_err(|failure| stop.explain(failure))
}

/// What all videos of a run share.
struct Shared<'a> {
    args: &'a Generate,
    screen: &'a Screen,
    stop: &'a Stop,
    sora: OpenSora,
    /// How long stages took before.
    paces: Paces,
    model: String,
    /// The model's files, for recipes.
    files: Value,
    scores: Scores,
    /// Videos of this run.
    count: usize,
}

impl Shared<'_> {
    /// What `-m` finds the model by: its folder, or, where its parts lie apart, its name.
    fn place(&self) -> PathBuf {
        let parts = self.sora.parts();
        let whole = |root: &PathBuf| std::path::absolute(root).unwrap_or_else(|_| root.clone());
        parts.root.as_ref().map_or_else(|| PathBuf::from(&parts.name), whole)
    }

    /// An event of one video: where there are several, with its number.
    fn event(&self, name: &str, video: usize, mut fields: Value) {
        if self.count > 1 {
            fields["video"] = video.into();
        }
        self.screen.event(name, fields);
    }
}

/// What stages before denoising took, and when all of it began.
struct Times {
    text: Duration,
    began: Instant,
}

/// A run that can start.
struct Batch<'a> {
    shared: Shared<'a>,
    jobs: Vec<Job>,
    places: Places,
    /// What is left of several videos whose states are kept.
    manifest: RefCell<Option<Manifest>>,
}

impl<'a> Batch<'a> {
    /// Everything that can be wrong is found here, before weights are loaded. `None` after a dry run, and if there
    /// is nothing to make.
    async fn prepare(args: &'a Generate, screen: &'a Screen, stop: &'a Stop) -> Outcome<Option<Self>> {
        let prompts = prompts::read(&args.input)?;
        let count = prompts.len().saturating_mul(args.input.num_videos);
        if !(1..=MOST_VIDEOS).contains(&count) {
            return Err(Failure::wrong("num-videos", format!("{count} videos are not between 1 and {MOST_VIDEOS}")));
        }
        let mut base = words::request(args, args.cache.cache.parse()?, screen)?;
        if args.cache.verify_cache && base.cache == CacheSpec::Off {
            let problem = "there is no cache to verify; give one, such as --cache adacache";
            return Err(Failure::wrong("verify-cache", problem));
        }
        let mut places = Places::look(args, screen, count)?;
        let given = given::take(&args.given, &mut base)?;
        let mut requests = Vec::with_capacity(count);
        for Prompt { prompt, seed, .. } in prompts {
            let mut request = Request { prompt, ..base.clone() };
            let files = given::embedded(&given, &mut request)?;
            for take in 0..args.input.num_videos {
                let seed = seed.unwrap_or(base.seed).wrapping_add(take as u64);
                requests.push((take, Request { seed, ..request.clone() }, files.clone()));
            }
        }
        let parts = model::find(args.input.model.model.as_deref())?;
        model::check(&parts)?;
        let kept = if args.input.no_caption_cache { None } else { caption_folder() };
        let sora = model::open(&parts, &args.device).await?.captions_in(kept);
        let (model, scores) = (parts.name.clone(), words::scores(&args.input, sora.defaults()));
        let paces = Paces::read(sora.gpu());
        let mut shared = Shared { args, screen, stop, sora, paces, model, files: Value::Null, scores, count };
        let mut jobs = Vec::with_capacity(count);
        for (index, (take, request, files)) in requests.into_iter().enumerate() {
            jobs.extend(Job::prepare(&shared, &mut places, (index, take), request, files)?);
        }
        if jobs.len() < count {
            screen.say(format!("{} of {count} videos are there already", count - jobs.len()));
        }
        if jobs.is_empty() {
            screen.event("done", json!({"videos": 0}));
            return Ok(None);
        }
        let folder = args.saving.save_state.as_deref().filter(|_| count > 1);
        let mut manifest = folder.map(|f| Manifest::begin(f, args.output.video.force)).transpose()?;
        if !args.dry_run {
            shared.files = model::fingerprint(&parts)?;
            places.make()?;
            let mut made = jobs.iter_mut().try_for_each(|job| job.make(&shared));
            if let Some(manifest) = manifest.as_mut().filter(|_| made.is_ok()) {
                made = manifest.set(jobs.iter().filter_map(Job::left).collect());
            }
            if let Err(failure) = made {
                jobs.iter().for_each(Job::unmake);
                places.unmake();
                return Err(failure);
            }
        }
        let batch = Self { shared, jobs, places, manifest: RefCell::new(manifest) };
        batch.announce()?;
        Ok((!args.dry_run).then_some(batch))
    }

    /// What is going to happen.
    fn announce(&self) -> Outcome {
        let (screen, count) = (self.shared.screen, self.jobs.len());
        for (i, job) in self.jobs.iter().enumerate() {
            let lines = job.lines(&self.shared)?;
            if i < TOLD {
                lines.iter().for_each(|line| screen.say(line));
            } else if i == TOLD {
                screen.say(format!("and {} more videos", count - TOLD));
            }
        }
        if let Some(plan) = self.jobs.first().map(|job| &job.plan)
            && let Some(origin) = plan.cache.origin()
        {
            screen.say(format!("cache   {origin}, up to {}", size(self.shared.sora.cache_bytes(plan)?)));
        }
        let gpu = self.shared.sora.gpu();
        let adapter = model::adapter(gpu);
        let kernels = adapter["kernels"].as_str().unwrap_or("");
        screen.say(format!("{} ({}, kernels {kernels})", gpu.info().name, gpu.info().backend));
        if let Some(largest) = self.jobs.iter().map(|job| &job.plan.memory).max_by_key(|memory| memory.peak_bytes()) {
            screen.say(memory_line(largest, self.keeps()));
        }
        screen.say(seconds_line(
            self.jobs.iter().map(|job| &job.seconds),
            self.jobs.iter().any(|job| job.plan.cache != CacheSpec::Off),
        ));
        for job in &self.jobs {
            self.shared.event("plan", job.index, job.plan_event(&self.shared, &adapter));
        }
        Ok(())
    }

    /// Whether networks stay from one video to the next.
    fn keeps(&self) -> bool {
        self.jobs.len() > 1 && self.jobs.iter().all(|job| job.plan.memory.may_keep())
    }

    async fn work(self, began: Instant) -> Outcome {
        let done = self.all(began).await;
        if done.is_err() {
            self.places.unmake();
            self.jobs.iter().for_each(Job::unmake);
        }
        done
    }

    async fn all(&self, began: Instant) -> Outcome {
        // (of several some may be there already: what is told of one tells it from the others all the same)
        let (shared, count, several) = (&self.shared, self.jobs.len(), self.shared.count > 1);
        shared.stop.check()?;
        let (captions, text_time) = self.encode().await?;
        let mut loaded = Loaded { keep: self.keeps(), transformer: None, vae: None };
        let mut captions = captions.as_slice();
        let mut cache = Value::Null;
        for job in &self.jobs {
            let (own, rest) = captions.split_at(job.plan.texts.len());
            captions = rest;
            let times = Times { text: text_time, began: if several { Instant::now() } else { began } };
            cache = job.work(shared, own, &mut loaded, &times).await.map_err(|failure| job.advise(failure))?;
            if let Some(manifest) = &mut *self.manifest.borrow_mut() {
                manifest.done()?;
            }
        }
        self.jobs.iter().for_each(Job::unmake);
        let (seconds, peak) = (round(began.elapsed().as_secs_f64()), shared.sora.gpu().held().1);
        let mut fields = json!({"seconds": seconds, "peak_bytes": peak});
        if several {
            fields["videos"] = count.into();
            shared.screen.say(format!("{count} videos in {seconds:.1} s, peak {} on the adapter", size(peak)));
        } else {
            fields["cache"] = cache;
        }
        shared.screen.event("done", fields);
        Ok(())
    }

    /// The captions of all clips of all videos, by an encoder that is loaded once.
    async fn encode(&self) -> Outcome<(Vec<Caption>, Duration)> {
        if let [job] = self.jobs.as_slice()
            && let Some(known) = job.captions()
        {
            return Ok(known);
        }
        let began = Instant::now();
        let budgets: Option<Vec<u64>> = self.jobs.iter().map(|job| job.plan.memory.budget).collect();
        self.shared.sora.gpu().set_budget(budgets.and_then(|all| all.into_iter().max()));
        let texts: Vec<&str> = self.jobs.iter().flat_map(|j| j.plan.texts.iter().map(String::as_str)).collect();
        let captions = self.shared.sora.encode_texts(&texts).await?;
        let took = began.elapsed();
        let mut first = 0;
        for job in &self.jobs {
            let own = &captions[first..first + job.plan.texts.len()];
            first += own.len();
            let (tokens, seconds) = (own[0].tokens.len(), round(took.as_secs_f64()));
            let cached = own.iter().all(|c| c.known);
            self.shared.event("text", job.index, json!({"tokens": tokens, "seconds": seconds, "cached": cached}));
        }
        let known = captions.iter().filter(|c| c.known).count();
        let cached = match known {
            0 => String::new(),
            n if n == captions.len() => ", cached".into(),
            n => format!(", {n} of {} cached", captions.len()),
        };
        let what = match self.jobs.len() {
            1 => format!("{} tokens{cached}", captions[0].tokens.len()),
            n => format!("{n} prompts{cached}"),
        };
        self.shared.screen.say(format!("text    ok {:.1} s, {what}", took.as_secs_f64()));
        self.shared.stop.check()?;
        Ok((captions, took))
    }
}

/// Networks on the device. A single video loads each when its stage begins and frees it at its end, so that the largest
/// stage decides the memory; of several, all stay if there is room.
struct Loaded {
    keep: bool,
    transformer: Option<STDiT3>,
    vae: Option<OpenSoraVae>,
}

impl Loaded {
    fn transformer(&mut self, sora: &OpenSora, plan: &Plan) -> Outcome<&STDiT3> {
        if self.transformer.is_none() {
            self.transformer = Some(sora.load_transformer_for(plan)?);
        }
        Ok(self.transformer.as_ref().expect("set above"))
    }

    fn vae(&mut self, sora: &OpenSora) -> Outcome<&OpenSoraVae> {
        if self.vae.is_none() {
            self.vae = Some(sora.open_vae()?);
        }
        Ok(self.vae.as_ref().expect("set above"))
    }

    /// A stage is over.
    fn rest(&mut self, sora: &OpenSora) {
        if !self.keep {
            (self.transformer, self.vae) = (None, None);
            sora.gpu().trim();
        }
    }
}
