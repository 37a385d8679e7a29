//! `residua generate`: prompts to videos, everything checked before the first stage, each model loaded once.

mod places;
mod video;

use std::time::{Duration, Instant};

use residua::cache::CacheSpec;
use residua::models::stdit3::STDiT3;
use residua::models::vae::OpenSoraVae;
use residua::pipeline::{Caption, OpenSora, Request};
use residua::text::prompt::Scores;
use serde_json::{Value, json};

use super::args::Generate;
use super::exit::{Failure, Outcome};
use super::screen::{Screen, round, size};
use super::signals::Stop;
use super::{given, model, prompts, words};
use places::Places;
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
    model: String,
    /// The model's files, for recipes.
    files: Value,
    scores: Scores,
    /// Videos of this run.
    count: usize,
}

impl Shared<'_> {
    /// An event of one video: where there are several, with its number.
    fn event(&self, name: &str, video: usize, mut fields: Value) {
        if self.count > 1 {
            fields["video"] = video.into();
        }
        self.screen.event(name, fields);
    }
}

/// A run that can start.
struct Batch<'a> {
    shared: Shared<'a>,
    jobs: Vec<Job>,
    places: Places,
}

impl<'a> Batch<'a> {
    /// Everything that can be wrong is found here, before weights are loaded. `None` after a dry run.
    async fn prepare(args: &'a Generate, screen: &'a Screen, stop: &'a Stop) -> Outcome<Option<Self>> {
        let prompts = prompts::read(&args.input)?;
        let count = prompts.len().saturating_mul(args.input.num_videos);
        if !(1..=MOST_VIDEOS).contains(&count) {
            return Err(Failure::wrong("num-videos", format!("{count} videos are not between 1 and {MOST_VIDEOS}")));
        }
        let mut base = words::request(args, screen)?;
        if args.cache.verify_cache && base.cache == CacheSpec::Off {
            let problem = "there is no cache to verify; give one, such as --cache adacache";
            return Err(Failure::wrong("verify-cache", problem));
        }
        let mut places = Places::look(args, screen, count)?;
        let given = given::take(&args.given, &mut base)?;
        let mut requests = Vec::with_capacity(count);
        for prompt in prompts {
            let mut request = Request { prompt, ..base.clone() };
            let files = given::embedded(&given, &mut request)?;
            for i in 0..args.input.num_videos {
                requests.push((Request { seed: base.seed.wrapping_add(i as u64), ..request.clone() }, files.clone()));
            }
        }
        let parts = model::find(args.input.model.model.as_deref())?;
        model::check(&parts)?;
        let sora = model::open(&parts, &args.device).await?;
        let (model, scores) = (parts.name.clone(), words::scores(&args.input, sora.defaults()));
        let mut shared = Shared { args, screen, stop, sora, model, files: Value::Null, scores, count };
        let mut jobs = Vec::with_capacity(count);
        for (index, (request, files)) in requests.into_iter().enumerate() {
            jobs.push(Job::prepare(&shared, &mut places, index, request, files)?);
        }
        if !args.dry_run {
            shared.files = model::fingerprint(&parts)?;
            places.make()?;
        }
        let batch = Self { shared, jobs, places };
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
        for job in &self.jobs {
            self.shared.event("plan", job.index, job.plan_event(&self.shared, &adapter));
        }
        Ok(())
    }

    async fn work(self, began: Instant) -> Outcome {
        let done = self.all(began).await;
        if done.is_err() {
            self.places.unmake();
        }
        done
    }

    async fn all(&self, began: Instant) -> Outcome {
        let (shared, count) = (&self.shared, self.jobs.len());
        shared.stop.check()?;
        let (captions, text_time) = self.encode().await?;
        let mut loaded = Loaded { keep: count > 1, transformer: None, vae: None };
        let mut captions = captions.as_slice();
        let mut cache = Value::Null;
        for job in &self.jobs {
            let (own, rest) = captions.split_at(job.plan.texts.len());
            captions = rest;
            cache =
                job.work(shared, own, text_time, &mut loaded, if count > 1 { Instant::now() } else { began }).await?;
        }
        let (seconds, peak) = (round(began.elapsed().as_secs_f64()), shared.sora.gpu().memory().1);
        let mut fields = json!({"seconds": seconds, "peak_bytes": peak});
        if count > 1 {
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
        let began = Instant::now();
        let texts: Vec<&str> = self.jobs.iter().flat_map(|j| j.plan.texts.iter().map(String::as_str)).collect();
        let captions = self.shared.sora.encode_texts(&texts).await?;
        let took = began.elapsed();
        let mut first = 0;
        for job in &self.jobs {
            let tokens = captions[first].tokens.len();
            first += job.plan.texts.len();
            let seconds = round(took.as_secs_f64());
            self.shared.event("text", job.index, json!({"tokens": tokens, "seconds": seconds}));
        }
        let what = match self.jobs.len() {
            1 => format!("{} tokens", captions[0].tokens.len()),
            n => format!("{n} prompts"),
        };
        self.shared.screen.say(format!("text    ok {:.1} s, {what}", took.as_secs_f64()));
        self.shared.stop.check()?;
        Ok((captions, took))
    }
}

/// Networks on the device. A single video loads each when its stage begins and frees it at its end, so that the largest
/// stage decides the memory; of several, all stay.
struct Loaded {
    keep: bool,
    transformer: Option<STDiT3>,
    vae: Option<OpenSoraVae>,
}

impl Loaded {
    fn transformer(&mut self, sora: &OpenSora) -> Outcome<&STDiT3> {
        if self.transformer.is_none() {
            self.transformer = Some(sora.load_transformer()?);
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
