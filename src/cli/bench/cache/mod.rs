//! `residua bench cache`: what each cache costs and what it loses, over many prompts.

mod picture;
pub mod record;
mod report;
pub mod stats;
mod store;
mod table;

use std::path::{Path, PathBuf};

use residua::cache::CacheSpec;
use residua::media::Frames;
use residua::pipeline::{Caption, Plan, Sampled};
use serde_json::json;

use self::record::{Head, Line, Record, VERSION};
use self::stats::Results;
use self::store::Store;
use crate::cli::exit::Outcome;
use crate::cli::lab::args::BenchCache;
use crate::cli::lab::{self, Job, Lab};
use crate::cli::output::{write_file, write_json};
use crate::cli::screen::{Screen, round};
use crate::cli::signals::Stop;
use crate::cli::{bench, model};

/// What every policy is measured against.
const UNCACHED: &str = "off";

/// Where nobody says otherwise: the model's presets, the released ones, and the others at one or two settings each.
const POLICIES: [&str; 21] = [
    "adacache:preset=fast",
    "adacache:preset=fast,moreg=on",
    "adacache:preset=slow",
    "adacache:preset=released-fast",
    "adacache:preset=released-fast,moreg=on",
    "adacache:preset=released-slow",
    "static:every=2",
    "static:every=3",
    "static:every=4",
    "taylorseer:every=2",
    "taylorseer:every=3",
    "taylorseer:every=4",
    "teacache:threshold=0.1",
    "teacache:threshold=0.2",
    "fbcache:threshold=0.1",
    "fbcache:threshold=0.2",
    "magcache",
    "pab:preset=slow",
    "pab:preset=fast",
    "tgate",
    "delta-dit",
];

/// Runs the verb.
///
/// # Errors
/// Wrong words before any work; whatever goes wrong in a run. What has run is kept.
pub fn run(args: &BenchCache, screen: &Screen) -> Outcome {
    let stop = Stop::listen();
    pollster::block_on(work(args, screen, &stop)).map_err(|failure| stop.explain(failure))
}

async fn work(args: &BenchCache, screen: &Screen, stop: &Stop) -> Outcome {
    let names = policies(args);
    let specs = names.iter().map(|name| Ok(name.parse()?)).collect::<Outcome<Vec<CacheSpec>>>()?;
    let parts = model::find(args.work.model.model.as_deref())?;
    let jobs = lab::jobs(&args.work, &parts, "evaluation")?;
    let lab = Lab::open(&args.work, &specs, screen, stop).await?;
    let policies: Vec<(String, CacheSpec)> = names.into_iter().zip(specs).collect();
    // every prompt and seed is checked before the first runs
    let plans = jobs.iter().map(|job| lab.plan(job, &CacheSpec::Off)).collect::<Outcome<Vec<_>>>()?;
    let Some(first) = plans.first() else { return Ok(()) };
    let head = head(&lab, first, args.repeats.into())?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("caches-{}-{}", model::label(&head.model), head.steps)));
    let mut store = Store::open(&out, &head, args.force)?;
    let wanted = jobs.len() * policies.len();
    let (prompts, repeats) = (jobs.len(), head.repeats);
    screen.say(format!("{}: {prompts} prompts under {} policies, {repeats} repeats", head.line(), policies.len()));
    if !store.records().is_empty() {
        screen.say(format!("{} of {wanted} runs are in {} already", store.records().len(), out.display()));
    }

    let mut warm = false;
    let bar = screen.bar("caches", wanted);
    for (number, job) in jobs.iter().enumerate() {
        let missing: Vec<&(String, CacheSpec)> =
            policies.iter().filter(|(name, _)| !store.has((&job.prompt, job.seed, name))).collect();
        if !missing.is_empty() {
            let mut bench = Runs { lab: &lab, job, repeats: args.repeats.into(), show: number < args.show, out: &out };
            for record in bench.all(&missing, &mut warm).await? {
                screen.event("run", serde_json::to_value(&record).unwrap_or_default());
                store.add(record)?;
            }
        }
        bar.runs((number + 1) * policies.len(), &job.prompt);
    }
    drop(bar);

    let records = store.of(&jobs, &policies);
    let results = Results::new(&head, &records);
    let summary = serde_json::to_value(&results).unwrap_or_default();
    write_json(&out.join("summary.json"), &summary, true)?;
    let pictures = |name: &str| std::fs::read(out.join(name)).ok();
    write_file(&out.join("report.html"), report::page(&results, &records, &pictures).as_bytes(), true)?;
    screen.event("summary", summary);
    if !screen.json {
        screen.data(table::of(&results));
    }
    screen.say(format!("wrote   {}", out.join("report.html").display()));
    screen.event("done", json!({"out": out.display().to_string(), "runs": records.len()}));
    Ok(())
}

/// The uncached run first, then those asked for, each once.
fn policies(args: &BenchCache) -> Vec<String> {
    let asked: Vec<String> =
        if args.caches.is_empty() { POLICIES.map(String::from).to_vec() } else { args.caches.clone() };
    let mut names = vec![UNCACHED.to_string()];
    for name in asked {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn head(lab: &Lab<'_>, plan: &Plan, repeats: usize) -> Outcome<Head> {
    let adapter = model::adapter(lab.sora.gpu());
    let word = |field: &str| adapter[field].as_str().unwrap_or_default().to_string();
    let made_for = lab.sora.made_for(plan)?;
    let (step_flops, branches) = lab.sora.step_work(plan);
    Ok(Head {
        v: VERSION,
        model: made_for.model,
        weights: made_for.weights,
        adapter: word("name"),
        driver: word("driver"),
        kernels: word("kernels"),
        dtype: word("dtype"),
        commit: bench::commit(),
        steps: made_for.steps,
        guidance: made_for.guidance,
        size: made_for.size,
        fps: plan.fps,
        repeats,
        step_flops,
        branches,
    })
}

/// All runs of one prompt and seed.
struct Runs<'a> {
    lab: &'a Lab<'a>,
    job: &'a Job,
    repeats: usize,
    show: bool,
    out: &'a Path,
}

/// A policy's runs of it.
struct Timed {
    plan: Plan,
    seconds: Vec<f64>,
    sampled: Option<Sampled>,
}

impl Runs<'_> {
    /// The policies and the uncached twin in rounds, one after the other, so that whatever changes on the machine meanwhile
    /// meets them all alike. The first job's first round is not counted: it builds pipelines.
    async fn all(&mut self, policies: &[&(String, CacheSpec)], warm: &mut bool) -> Outcome<Vec<Record>> {
        let twin = self.lab.plan(self.job, &CacheSpec::Off)?;
        let caption = self.lab.caption(&twin).await?;
        let mut uncached = Timed { plan: twin, seconds: Vec::new(), sampled: None };
        let mut timed = Vec::with_capacity(policies.len());
        for (_, spec) in policies {
            timed.push(Timed { plan: self.lab.plan(self.job, spec)?, seconds: Vec::new(), sampled: None });
        }
        if !std::mem::replace(warm, true) {
            for own in [&mut uncached].into_iter().chain(&mut timed) {
                own.round(self.lab, &caption).await?;
                own.seconds.clear();
            }
        }
        for _ in 0..self.repeats {
            uncached.round(self.lab, &caption).await?;
            for own in timed.iter_mut().filter(|own| own.plan.cache != CacheSpec::Off) {
                own.round(self.lab, &caption).await?;
            }
        }
        let reference = uncached.frames(self.lab).await?;
        let motion = motion(&reference);
        let mut records = Vec::with_capacity(policies.len());
        for ((name, _), own) in policies.iter().zip(&timed) {
            let off = own.plan.cache == CacheSpec::Off;
            let frames = if off { reference.clone() } else { own.frames(self.lab).await? };
            let own = if off { &uncached } else { own };
            let Some(sampled) = &own.sampled else { continue };
            records.push(Record {
                prompt: self.job.prompt.clone(),
                group: self.job.group.clone(),
                seed: self.job.seed,
                policy: name.clone(),
                name: sampled.cache.clone(),
                seconds: own.seconds.clone(),
                uncached_seconds: uncached.seconds.clone(),
                steps: sampled.steps.iter().map(Line::of).collect(),
                cache_bytes: sampled.cache_bytes,
                planned_bytes: sampled.cache_planned,
                motion,
                quality: (!off).then(|| lab::compare(&reference, &frames)),
                picture: self.picture(name, &frames)?,
            });
        }
        Ok(records)
    }

    fn picture(&self, policy: &str, frames: &Frames) -> Outcome<Option<String>> {
        if !self.show {
            return Ok(None);
        }
        let name = format!("{}-{}-{}.png", crate::cli::output::slug(&self.job.prompt), self.job.seed, slug(policy));
        write_file(&self.out.join(&name), &picture::strip(frames)?, true)?;
        Ok(Some(name))
    }
}

impl Timed {
    async fn round(&mut self, lab: &Lab<'_>, caption: &Caption) -> Outcome {
        let (sampled, seconds) = lab.sample(caption, &self.plan).await?;
        log::debug!("{}: {} s", sampled.cache, round(seconds));
        self.seconds.push(seconds);
        self.sampled = Some(sampled);
        Ok(())
    }

    async fn frames(&self, lab: &Lab<'_>) -> Outcome<Frames> {
        let sampled = self.sampled.as_ref().expect("a round has run");
        lab.frames(sampled, &self.plan).await
    }
}

/// The words of a policy as part of a file name; no two policies have the same.
fn slug(policy: &str) -> String {
    let sum = policy.bytes().fold(5381u32, |h, b| h.wrapping_mul(33) ^ u32::from(b));
    format!("{}-{sum:08x}", crate::cli::output::slug(policy))
}

/// How much neighbouring frames differ, in hundredths of how much pixels differ from the mean of their frame: neither the
/// contrast nor the size of what moves counts for much.
fn motion(frames: &Frames) -> f64 {
    let all: Vec<&[u8]> = frames.iter().collect();
    let apart = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
    let spread = |frame: &[u8]| {
        let of = |channel: usize| frame.iter().skip(channel).step_by(3).map(|&v| f64::from(v));
        let pixels = (frame.len() / 3) as f64;
        let own = |channel: usize| {
            let mean = of(channel).sum::<f64>() / pixels;
            of(channel).map(|v| (v - mean).abs()).sum::<f64>()
        };
        (0..3).map(own).sum::<f64>()
    };
    let moved: f64 = all.windows(2).map(|w| apart(w[0], w[1])).sum();
    let there: f64 = all.iter().skip(1).map(|frame| spread(frame)).sum();
    // one frame, or frames of one colour, have no motion
    if there > 0.0 { 100.0 * moved / there } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn motion_is_that_of_the_picture() {
        // a pixel of another colour, at rest or moving by itself
        let video = |places: &[usize], high: u8| Frames {
            width: 8,
            height: 1,
            fps: 8.0,
            rgb: places.iter().flat_map(|&at| (0..24).map(move |i| if i / 3 == at { high } else { 10 })).collect(),
        };
        assert_eq!(motion(&video(&[3, 3, 3], 200)), 0.0);
        let (bright, dim) = (motion(&video(&[3, 4, 5], 200)), motion(&video(&[3, 4, 5], 20)));
        // two pixels of eight change by h; from the mean differ one by 7/8 h and seven by 1/8 h
        assert!((bright - 100.0 * 2.0 / (14.0 / 8.0)).abs() < 1e-9 && (dim - bright).abs() < 1e-9, "{bright} {dim}");
        assert_eq!(motion(&video(&[3], 200)), 0.0);
        assert_eq!(motion(&video(&[3, 4], 10)), 0.0);
    }
}
