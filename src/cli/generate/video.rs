//! One video of a run: from its plan to its file, stage by stage.

use std::path::Path;
use std::time::{Duration, Instant};

use residua::Error;
use residua::cache::CacheSpec;
use residua::media::{Frames, quality};
use residua::models::stdit3::Residence;
use residua::pipeline::{Caption, GivenLatents, OpenSora, Plan, Request, Sampled, State};
use residua::tensor::{Tensor, sha256};
use serde_json::{Value, json};

use super::super::args::Generate;
use super::super::exit::{Failure, Outcome};
use super::super::given::{self, Files};
use super::super::output::write_json;
use super::super::pace::Seconds;
use super::super::report::{self, Summary};
use super::super::screen::{round, size};
use super::super::{decode, latents, recipe};
use super::kept::{KeptLatents, with_ending};
use super::manifest::Left;
use super::places::{Facts, Place, Places};
use super::saving::{Record, Saving, THERE};
use super::{Loaded, Shared, Times};

/// Runs expected to take more seconds keep their state.
const LONG: f64 = 300.0;
/// Unless it is larger, and nobody asked.
const UNASKED: u64 = 1 << 30;

/// One video of a run.
pub struct Job {
    pub index: usize,
    pub plan: Plan,
    /// How long it is expected to take.
    pub seconds: Seconds,
    place: Place,
    prompt: String,
    given: Files,
    /// SHA-256 of the file it starts from.
    latents_in: Option<String>,
    /// Of the file; the model may have been told another.
    fps: f64,
    /// Where its state is kept, if it is …
    saving: Option<Saving>,
    /// … and the one that it goes on from.
    from: Option<State>,
}

impl Job {
    /// Finds whatever can be wrong with it. `take` tells it from others of its prompt; `None` if it is left out.
    pub fn prepare(
        shared: &Shared<'_>,
        places: &mut Places,
        (index, take): (usize, usize),
        mut request: Request,
        given: Files,
    ) -> Outcome<Option<Self>> {
        let args = shared.args;
        request.scores = Some(shared.scores.clone());
        let (plan, latents_in) = plan(&shared.sora, &mut request, args)?;
        given.check_end(&plan)?;
        let fps = args.size.save_fps.unwrap_or(plan.fps);
        if !(0.1..=1000.0).contains(&fps) {
            return Err(Failure::wrong("save-fps", format!("{fps} is not between 0.1 and 1000")));
        }
        let prompt = request.prompt;
        let facts = Facts { index, take, plan: &plan, prompt: &prompt, model: &shared.model };
        let Some(place) = places.of(args, &facts)? else { return Ok(None) };
        let seconds = shared.paces.predict(shared.sora.gpu(), &plan.memory);
        let saves = shared.count == 1 && !args.dry_run && !args.saving.no_save_state && !place.target.is_stdout();
        let small = shared.sora.cache_bytes(&plan)? <= UNASKED;
        let beside = (saves && small && seconds.total() > LONG).then(|| with_ending(&place.target.path, ".state"));
        let begin = |folder: &Path, unasked: bool| {
            let record = Record::new(args, &plan, &given, &place, &shared.place())?;
            Saving::begin(args, folder, record, &facts, shared.count > 1, unasked)
        };
        let saving = match (&args.saving.save_state, beside) {
            (Some(folder), _) => Some(begin(folder, false)?),
            (None, Some(folder)) => match begin(&folder, true) {
                Ok(saving) => Some(saving),
                // somebody may want to go on with that run
                Err(failure) if failure.code == THERE => {
                    let hint = failure.hint.clone().unwrap_or_default();
                    return Err(failure.hint(format!("{hint}; --no-save-state keeps none")));
                }
                Err(failure) => {
                    log::warn!("no state is kept of this run: {}", failure.message);
                    None
                }
            },
            (None, None) => None,
        };
        Ok(Some(Self { index, plan, seconds, place, prompt, given, latents_in, fps, saving, from: None }))
    }

    /// One of an interrupted run, from its state if it has begun.
    ///
    /// # Errors
    /// If the video's place is taken.
    pub fn resumed(
        shared: &Shared<'_>,
        mut request: Request,
        given: Files,
        saving: Saving,
        from: Option<State>,
    ) -> Outcome<Self> {
        let (args, recipe) = (shared.args, &saving.record.recipe);
        request.scores = Some(shared.scores.clone());
        request.latents = from.as_ref().and_then(State::start).map(<[f32]>::to_vec);
        let plan = shared.sora.plan(&request)?;
        let over = from.as_ref().is_some_and(|state| state.steps() == plan.all_steps());
        let (video, output) = (&args.output, args.output.video.output.clone().unwrap_or_default());
        let sidecar = video.sidecar.then(|| output.with_extension("json"));
        let beside = [sidecar, video.latents_out.clone(), args.cache.trace.clone()];
        let place = Place::at(&video.video, output, beside, over)?;
        let now = Record::new(args, &plan, &given, &place, &shared.place())?;
        let latents_in = recipe["latents_in"].as_str().map(String::from);
        let fps = recipe["file_fps"].as_f64().unwrap_or(plan.fps);
        if !(0.1..=1000.0).contains(&fps) {
            return Err(saving.wrong(format!("says that the video has {fps} frames a second")));
        }
        let mut saving = if from.is_some() { saving.begun() } else { saving };
        saving.record = saving.record.clone().moved(now);
        let seconds = shared.paces.predict(shared.sora.gpu(), &plan.memory);
        Ok(Self {
            index: 0,
            plan,
            seconds,
            place,
            prompt: request.prompt,
            given,
            latents_in,
            fps,
            saving: Some(saving),
            from,
        })
    }

    /// What has to be there before it begins.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn make(&mut self, shared: &Shared<'_>) -> Outcome {
        let recipe = self.recipe(shared, None);
        let Some(saving) = &mut self.saving else { return Ok(()) };
        saving.record.recipe = recipe;
        match saving.make() {
            Err(failure) if shared.args.saving.save_state.is_none() => {
                log::warn!("no state is kept of this run: {}", failure.message);
                self.saving = None;
                Ok(())
            }
            made => made,
        }
    }

    /// What is kept of it for a run that goes on.
    pub fn left(&self) -> Option<Left> {
        self.saving.as_ref().map(Saving::left)
    }

    /// Takes away what nobody needs after a failure.
    pub fn unmake(&self) {
        self.saving.iter().for_each(Saving::unmake);
    }

    /// The captions of the state that it goes on from, and what encoding took then.
    pub fn captions(&self) -> Option<(Vec<Caption>, Duration)> {
        let (state, saving) = self.from.as_ref().zip(self.saving.as_ref())?;
        let seconds = Duration::try_from_secs_f64(saving.record.text_seconds).unwrap_or_default();
        Some((state.captions(), seconds))
    }

    /// What is going to happen, for people.
    pub fn lines(&self, shared: &Shared<'_>) -> Outcome<Vec<String>> {
        let (plan, mut lines) = (&self.plan, Vec::new());
        let [height, width] = plan.pixels();
        if [height, width] != [plan.height, plan.width] && self.index == 0 {
            let asked = format!("{}x{}", plan.width, plan.height);
            lines.push(format!("note: {asked} is rounded down to {width}x{height}: frames are made of blocks of 8x8"));
        }
        let (frames, clips, steps) = (plan.all_frames(), plan.long.clips, plan.timesteps.len());
        let seconds = frames as f64 / self.fps;
        let clips = if clips > 1 { format!(" in {clips} clips") } else { String::new() };
        lines.push(format!(
            "{}  {width}x{height} x {frames} frames ({seconds:.1} s){clips}, {steps} steps, cfg {}, seed {}, cache {}",
            shared.model, plan.guidance, plan.seed, shared.args.cache.cache
        ));
        lines.extend(self.given.lines(plan)?);
        lines.extend(self.saving.as_ref().map(|saving| format!("state   kept in {}", saving.path().display())));
        if let Some(state) = &self.from {
            lines.push(format!("goes on behind step {} of {}", state.steps(), plan.all_steps()));
        }
        Ok(lines)
    }

    /// The same for programs.
    pub fn plan_event(&self, shared: &Shared<'_>, adapter: &Value) -> Value {
        let (plan, memory, seconds) = (&self.plan, &self.plan.memory, &self.seconds);
        let [height, width] = plan.pixels();
        let mut event = json!({
            "model": shared.model, "prompt": self.prompt, "text": plan.text, "size": [width, height],
            "frames": plan.all_frames(), "fps": self.fps, "steps": plan.timesteps.len(), "cfg": plan.guidance,
            "seed": plan.seed, "rng": plan.rng.to_string(), "cache": shared.args.cache.cache, "latent": plan.latent,
            "adapter": adapter, "output": self.place.target.path.display().to_string(),
            "given": self.given.recipe(plan), "loop": given::loop_recipe(plan),
            "peak_bytes": memory.peak_bytes(), "budget_bytes": memory.budget, "available_bytes": memory.available,
            "streamed": memory.residence == Residence::Streamed, "stages": memory.stages,
            "seconds": round(seconds.total()), "seconds_measured": seconds.measured,
            "state": self.saving.as_ref().map(|saving| saving.path().display().to_string()),
        });
        if let Some(state) = &self.from {
            event["resumed"] = state.steps().into();
        }
        event
    }

    /// What to do about a failure on the way to it.
    pub fn advise(&self, failure: Failure) -> Failure {
        self.saving.iter().fold(failure, |failure, saving| saving.advise(failure))
    }

    /// Makes it. Returns what is told of its cache.
    pub async fn work(
        &self,
        shared: &Shared<'_>,
        captions: &[Caption],
        loaded: &mut Loaded,
        times: &Times,
    ) -> Outcome<Value> {
        let (args, screen, plan) = (shared.args, shared.screen, &self.plan);
        shared.stop.check()?;
        shared.sora.gpu().set_budget(plan.memory.budget);
        if shared.count > 1 {
            let (number, of, seed) = (self.index + 1, shared.count, plan.seed);
            screen.say(format!("video   {number} of {of}, seed {seed}: {}", self.prompt.trim()));
            shared.event("video", self.index, json!({"n": of, "seed": seed, "prompt": self.prompt}));
        }
        let (sampled, denoise_time) = self.denoise(shared, captions, plan, loaded, Some(times)).await?;

        let summary = Summary::new(&sampled);
        let recipe = self.recipe(shared, Some(&summary));
        // what goes beside the video may be there from before the interruption
        let over = self.from.as_ref().is_some_and(|state| state.steps() == plan.all_steps());
        let replace = args.output.video.force || over;
        let numbers = sampled.latents.read().await?;
        let shape = sampled.latents.sizes::<5>();
        if let Some(path) = &self.place.latents {
            latents::write(path, shape, &numbers, &self.embedded(args, &recipe), replace)?;
            shared.event("latents", self.index, json!({"path": path.display().to_string(), "shape": shape}));
            screen.say(format!("wrote   {} (latents)", path.display()));
        }
        if plan.cache != CacheSpec::Off {
            screen.say(report::strip(&sampled.steps));
            screen.say(summary.line());
        }
        if let Some(path) = &self.place.trace {
            write_json(path, &report::trace(&recipe, &sampled, &summary), replace)?;
        }

        let kept = self.keep_latents(args, shape, &numbers, &recipe);
        let decoded = async {
            let (frames, took) = self.decode(shared, &sampled.latents, loaded, "").await?;
            shared.stop.check()?;
            let embedded = (!args.output.video.no_metadata).then_some(&recipe);
            let bytes = self.place.target.write(&frames, embedded, screen)?;
            Ok((frames, took, bytes))
        };
        let (frames, decode_time, bytes) = decoded.await.map_err(|failure: Failure| kept.advise(failure))?;
        kept.remove();
        self.learn(shared, &sampled, [times.text, denoise_time, decode_time]);
        let before = self.saving.as_ref().map_or(0.0, |saving| saving.record.seconds);
        let total = times.began.elapsed() + Duration::try_from_secs_f64(before).unwrap_or_default();
        if let Some(path) = &self.place.sidecar {
            let mut whole = recipe.clone();
            let seconds = |d: Duration| round(d.as_secs_f64());
            whole["seconds"] = json!({
                "text": seconds(times.text), "denoise": seconds(denoise_time), "decode": seconds(decode_time),
                "total": seconds(total), "saved": round(summary.saved)
            });
            write_json(path, &whole, replace)?;
        }
        self.saving.iter().for_each(Saving::remove);
        screen.say(format!(
            "wrote   {}  {}  total {:.1} s, peak {} on the adapter",
            self.place.target.path.display(),
            size(bytes),
            total.as_secs_f64(),
            size(shared.sora.gpu().held().1)
        ));
        if args.cache.verify_cache {
            self.verify(shared, captions, &frames, loaded).await?;
        }
        let cache = summary.event();
        if shared.count > 1 {
            let seconds = round(times.began.elapsed().as_secs_f64());
            shared.event("finished", self.index, json!({"seconds": seconds, "cache": cache}));
        }
        Ok(cache)
    }

    /// Encodes given frames and runs the sampler, from the state and saving it; without `times` the uncached twin, which
    /// is made in one go.
    async fn denoise(
        &self,
        shared: &Shared<'_>,
        captions: &[Caption],
        plan: &Plan,
        loaded: &mut Loaded,
        times: Option<&Times>,
    ) -> Outcome<(Sampled, Duration)> {
        let (sora, screen) = (&shared.sora, shared.screen);
        let from = self.from.as_ref().filter(|_| times.is_some());
        let before = Duration::try_from_secs_f64(from.map_or(0.0, State::seconds)).unwrap_or_default();
        if let Some(state) = from.filter(|state| state.steps() == plan.all_steps())
            && let Some(sampled) = sora.finished(plan, state).await?
        {
            return Ok((sampled, before));
        }
        let given = if let Some(state) = &self.from {
            state.given().clone()
        } else if plan.given.references.is_empty() {
            GivenLatents::default()
        } else {
            let began = Instant::now();
            let given = sora.encode_given_by(loaded.vae(sora)?, plan).await?;
            loaded.rest(sora);
            screen.say(format!("given   ok {:.1} s", began.elapsed().as_secs_f64()));
            shared.stop.check()?;
            given
        };
        let net = loaded.transformer(sora, plan)?;
        shared.stop.check()?;
        let (captions, clips): (Vec<&Caption>, _) = (captions.iter().collect(), plan.long.clips);
        let bar = screen.bar("denoise", plan.all_steps());
        let saving = times.and_then(|times| Some((self.saving.as_ref()?, times)));
        let run = if times.is_some() { "" } else { "uncached" };
        let mut denoising = sora.denoise(net, &captions, plan, &given, from)?;
        while let Some((clip, step)) = denoising.step().await? {
            bar.step(step, (clip, clips), run);
            let (stop, due) = (shared.stop.asked(), saving.is_some_and(|(saving, _)| saving.due(step)));
            if let Some((saving, times)) = saving.filter(|_| due || stop || denoising.is_done()) {
                saving.keep(shared, &mut denoising, times).await?;
            }
            if stop {
                return Err(Error::Cancelled.into());
            }
        }
        let sampled = denoising.finish().await?;
        let took = bar.elapsed();
        drop(bar);
        loaded.rest(sora);
        let made = sampled.steps.len() - from.map_or(0, State::steps);
        let mean = took.as_secs_f64() / made.max(1) as f64;
        let run = if run.is_empty() { String::new() } else { format!(", {run}") };
        screen.say(format!("denoise ok {:.1} s, {mean:.2} s/it{run}", took.as_secs_f64()));
        Ok((sampled, before + took))
    }

    async fn decode(
        &self,
        shared: &Shared<'_>,
        latents: &Tensor,
        loaded: &mut Loaded,
        run: &str,
    ) -> Outcome<(Frames, Duration)> {
        let (sora, frames) = (&shared.sora, self.plan.all_frames());
        let vae = loaded.vae(sora)?;
        let decoded = decode::frames(sora, vae, latents, frames, self.fps, shared.screen, shared.stop, run).await;
        loaded.rest(sora);
        decoded
    }

    /// Remembers how long stages took, for the next prediction; of a run that was interrupted, nobody knows. Denoising
    /// counts as if every step had been computed.
    fn learn(&self, shared: &Shared<'_>, sampled: &Sampled, [text, denoise, decode]: [Duration; 3]) {
        if self.from.is_some() {
            return;
        }
        let paces = &shared.paces;
        let work: f64 = sampled.steps.iter().map(|step| step.work).sum::<f64>() / sampled.steps.len().max(1) as f64;
        for stage in &self.plan.memory.stages {
            match stage.name {
                "text" if shared.count == 1 => paces.learn(stage.name, stage.flops, text),
                "denoise" => paces.learn(stage.name, stage.flops * work, denoise),
                "decode" => paces.learn(stage.name, stage.flops, decode),
                _ => {}
            }
        }
        paces.write();
    }

    fn recipe(&self, shared: &Shared<'_>, summary: Option<&Summary>) -> Value {
        let facts = recipe::Facts {
            model: &shared.model,
            files: &shared.files,
            prompt: &self.prompt,
            scores: &shared.scores,
            cache: &shared.args.cache.cache,
            given: &self.given,
            latents_in: self.latents_in.as_deref(),
        };
        facts.recipe(&self.plan, shared.sora.gpu(), summary, self.fps)
    }

    /// What a latents file says about itself: the recipe, or with `--no-metadata` what decoding needs.
    fn embedded(&self, args: &Generate, recipe: &Value) -> Value {
        if !args.output.video.no_metadata {
            return recipe.clone();
        }
        json!({"frames": self.plan.all_frames(), "fps": self.plan.fps, "file_fps": self.fps})
    }

    /// Denoising is the long part: until the video is there, its result is kept, beside it if nowhere else.
    fn keep_latents(&self, args: &Generate, shape: [usize; 5], numbers: &[f32], recipe: &Value) -> KeptLatents {
        let in_state = self.saving.as_ref().is_some_and(Saving::is_kept);
        if self.place.latents.is_some() || self.place.target.is_stdout() || in_state {
            return KeptLatents { path: self.place.latents.clone(), passing: false };
        }
        let Some(path) = KeptLatents::place(&self.place.target.path) else {
            return KeptLatents { path: None, passing: false };
        };
        match latents::write(&path, shape, numbers, &self.embedded(args, recipe), false) {
            Ok(()) => KeptLatents { path: Some(path), passing: true },
            Err(failure) => {
                log::warn!("the latents are not kept while they are decoded: {}", failure.message);
                KeptLatents { path: None, passing: false }
            }
        }
    }

    /// The same seed without the cache, and how far the two are apart.
    async fn verify(&self, shared: &Shared<'_>, captions: &[Caption], frames: &Frames, loaded: &mut Loaded) -> Outcome {
        let mut twin = self.plan.clone();
        twin.cache = CacheSpec::Off;
        let (sampled, _) = self.denoise(shared, captions, &twin, loaded, None).await?;
        let (plain, _) = self.decode(shared, &sampled.latents, loaded, "uncached").await?;
        let psnr = quality::psnr(&plain.rgb, &frames.rgb);
        let (ssim, flip) = (quality::ssim(&plain, frames), quality::flip(&plain, frames));
        let (worst, _) = quality::worst_frame(&quality::psnr_frames(&plain, frames)).unwrap_or_default();
        // JSON has no infinity: equal videos have no PSNR there
        shared.event(
            "verify",
            self.index,
            json!({
                "equal": plain.rgb == frames.rgb, "psnr": psnr.is_finite().then_some(psnr), "ssim": ssim, "flip": flip,
                "worst_frame": worst
            }),
        );
        shared.screen.say(format!(
            "vs uncached, same seed: PSNR {psnr:.1} dB, SSIM {ssim:.3}, FLIP {flip:.3}, worst frame {worst}"
        ));
        Ok(())
    }
}

/// The plan of a request, with the noise of a file if one is given; and that file's hash.
fn plan(sora: &OpenSora, request: &mut Request, args: &Generate) -> Outcome<(Plan, Option<String>)> {
    let plan = sora.plan(request)?;
    let Some(path) = &args.input.latents_in else { return Ok((plan, None)) };
    let given = latents::read(path)?;
    let [c, t, h, w] = plan.latent;
    if given.shape != [1, c, t, h, w] {
        let [_, _, _, rows, columns] = given.shape;
        let problem = format!(
            "is {:?}, this video starts from {:?}; {} frames of {}x{} would need another file, -W {} -H {} and as many frames fit this one",
            given.shape,
            [1, c, t, h, w],
            plan.frames,
            plan.width,
            plan.height,
            8 * columns,
            8 * rows
        );
        return Err(Failure::input(Error::Checkpoint {
            file: path.clone(),
            tensor: Some(latents::TENSOR.into()),
            problem,
        }));
    }
    request.latents = Some(given.numbers);
    Ok((sora.plan(request)?, Some(sha256(path)?)))
}
