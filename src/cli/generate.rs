//! `residua generate`: a prompt to a video, stage by stage, with everything checked before the first.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use residua::Error;
use residua::cache::CacheSpec;
use residua::media::{Frames, quality};
use residua::pipeline::{Caption, OpenSora, Plan, Request, Sampled};
use residua::text::prompt::Scores;
use serde_json::{Value, json};

use super::args::Generate;
use super::exit::{Failure, Outcome, code};
use super::given::{self, Files};
use super::output::{Target, check_files, sha256, slug, write_json};
use super::recipe::Facts;
use super::report::{self, Summary};
use super::screen::{Screen, round, size};
use super::signals::Stop;
use super::{decode, latents, model, words};

/// Runs the verb.
///
/// # Errors
/// Whatever goes wrong; nothing is left half-written.
pub fn run(args: &Generate, screen: &Screen) -> Outcome {
    let stop = Stop::listen();
    let began = Instant::now();
    let work = async {
        match Job::prepare(args, screen, &stop).await? {
            Some(job) => job.work(began).await,
            None => Ok(()), // a dry run
        }
    };
    pollster::block_on(work).map_err(|failure| stop.explain(failure))
}

/// A run that can start.
struct Job<'a> {
    args: &'a Generate,
    screen: &'a Screen,
    stop: &'a Stop,
    sora: OpenSora,
    plan: Plan,
    target: Target,
    sidecar: Option<PathBuf>,
    model: String,
    files: Value,
    prompt: String,
    scores: Scores,
    given: Files,
    latents_in: Option<String>,
    /// Of the file; the model may have been told another.
    fps: f64,
}

impl<'a> Job<'a> {
    /// Everything that can be wrong is found here, before weights are loaded. `None` after a dry run.
    async fn prepare(args: &'a Generate, screen: &'a Screen, stop: &'a Stop) -> Outcome<Option<Self>> {
        let mut request = words::request(args, screen)?;
        let given = given::take(&args.given, &mut request)?;
        if args.cache.verify_cache && request.cache == CacheSpec::Off {
            return Err(Failure::wrong(
                "verify-cache",
                "there is no cache to verify; give one, such as --cache adacache",
            ));
        }
        let folder = model::find(args.input.model.model.as_deref())?;
        let model = model::name(&folder);
        let (target, sidecar) = places(args, screen, &request, &model)?;
        model::check(&folder)?;
        let sora = model::open(&folder, &args.device).await?;
        let scores = words::scores(&args.input, sora.defaults());
        request.scores = Some(scores.clone());
        let (plan, latents_in) = plan(&sora, &mut request, args)?;
        given.check_end(&plan)?;
        let fps = args.size.save_fps.unwrap_or(plan.fps);
        if !(0.1..=1000.0).contains(&fps) {
            return Err(Failure::wrong("save-fps", format!("{fps} is not between 0.1 and 1000")));
        }
        let prompt = request.prompt;
        let files = if args.dry_run { Value::Null } else { model::fingerprint(&folder)? };
        let job = Self {
            args,
            screen,
            stop,
            sora,
            plan,
            target,
            sidecar,
            model,
            files,
            prompt,
            scores,
            given,
            latents_in,
            fps,
        };
        job.announce()?;
        Ok((!args.dry_run).then_some(job))
    }

    /// What is going to happen.
    fn announce(&self) -> Outcome {
        let (plan, args, screen) = (&self.plan, self.args, self.screen);
        let [height, width] = plan.pixels();
        if [height, width] != [plan.height, plan.width] {
            let asked = format!("{}x{}", plan.width, plan.height);
            screen.say(format!("note: {asked} is rounded down to {width}x{height}: frames are made of blocks of 8x8"));
        }
        let steps = plan.timesteps.len();
        let cache = &args.cache.cache;
        let (frames, clips) = (plan.all_frames(), plan.long.clips);
        let seconds = frames as f64 / self.fps;
        let clips = if clips > 1 { format!(" in {clips} clips") } else { String::new() };
        screen.say(format!(
            "{}  {width}x{height} x {frames} frames ({seconds:.1} s){clips}, {steps} steps, cfg {}, seed {}, cache {cache}",
            self.model, plan.guidance, plan.seed
        ));
        self.given.lines(plan)?.iter().for_each(|line| screen.say(line));
        let gpu = self.sora.gpu();
        let adapter = model::adapter(gpu);
        screen.say(format!(
            "{} ({}, kernels {})",
            gpu.info().name,
            gpu.info().backend,
            adapter["kernels"].as_str().unwrap_or("")
        ));
        screen.event(
            "plan",
            json!({
                "model": self.model, "prompt": self.prompt, "text": plan.text, "size": [width, height],
                "frames": frames, "fps": self.fps, "steps": steps, "cfg": plan.guidance, "seed": plan.seed,
                "rng": plan.rng.to_string(), "cache": cache, "latent": plan.latent, "adapter": adapter,
                "output": self.target.path.display().to_string(), "given": self.given.recipe(plan),
                "loop": given::loop_recipe(plan),
            }),
        );
        Ok(())
    }

    async fn work(&self, began: Instant) -> Outcome {
        let (args, screen) = (self.args, self.screen);
        self.stop.check()?;
        let (captions, text_time) = self.encode().await?;
        let (sampled, denoise_time) = self.denoise(&captions, &self.plan, "").await?;

        let summary = Summary::new(&sampled);
        let recipe = self.recipe(&summary);
        let numbers = sampled.latents.read().await?;
        let shape = sampled.latents.sizes::<5>();
        if let Some(path) = &args.output.latents_out {
            latents::write(path, shape, &numbers, &self.embedded(&recipe), args.output.video.force)?;
            screen.event("latents", json!({"path": path.display().to_string(), "shape": shape}));
            screen.say(format!("wrote   {} (latents)", path.display()));
        }
        if self.plan.cache != CacheSpec::Off {
            screen.say(report::strip(&sampled.steps));
            screen.say(summary.line());
        }
        if let Some(path) = &args.cache.trace {
            write_json(path, &report::trace(&recipe, &sampled, &summary), args.output.video.force)?;
        }

        let (plan, sora) = (&self.plan, &self.sora);
        let decoded = decode::frames(sora, &sampled.latents, plan.all_frames(), self.fps, screen, self.stop, "").await;
        let (frames, decode_time) = decoded.map_err(|failure| self.keep_latents(failure, shape, &numbers, &recipe))?;
        self.stop.check()?;
        let embedded = (!args.output.video.no_metadata).then_some(&recipe);
        let bytes = self.target.write(&frames, embedded, screen)?;
        let total = began.elapsed();
        if let Some(path) = &self.sidecar {
            let mut whole = recipe.clone();
            let seconds = |d: Duration| round(d.as_secs_f64());
            whole["seconds"] = json!({
                "text": seconds(text_time), "denoise": seconds(denoise_time), "decode": seconds(decode_time),
                "total": seconds(total), "saved": round(summary.saved)
            });
            write_json(path, &whole, args.output.video.force)?;
        }
        let peak = sora.gpu().memory().1;
        screen.say(format!(
            "wrote   {}  {}  total {:.1} s, peak {} on the adapter",
            self.target.path.display(),
            size(bytes),
            total.as_secs_f64(),
            size(peak)
        ));
        if args.cache.verify_cache {
            self.verify(&captions, &frames).await?;
        }
        let seconds = round(began.elapsed().as_secs_f64());
        screen.event("done", json!({"seconds": seconds, "peak_bytes": peak, "cache": summary.event()}));
        Ok(())
    }

    async fn encode(&self) -> Outcome<(Vec<Caption>, Duration)> {
        let began = Instant::now();
        let texts: Vec<&str> = self.plan.texts.iter().map(String::as_str).collect();
        let captions = self.sora.encode_texts(&texts).await?;
        let (tokens, took) = (captions[0].tokens.len(), began.elapsed());
        self.screen.event("text", json!({"tokens": tokens, "seconds": round(took.as_secs_f64())}));
        self.screen.say(format!("text    ok {:.1} s, {tokens} tokens", took.as_secs_f64()));
        self.stop.check()?;
        Ok((captions, took))
    }

    /// Runs the sampler; `run` tells its steps from those of another run.
    async fn denoise(&self, captions: &[Caption], plan: &Plan, run: &str) -> Outcome<(Sampled, Duration)> {
        let given = self.sora.encode_given(plan).await?;
        self.stop.check()?;
        let net = self.sora.load_transformer()?;
        self.stop.check()?;
        let (captions, clips): (Vec<&Caption>, _) = (captions.iter().collect(), plan.long.clips);
        let bar = self.screen.bar("denoise", clips * plan.timesteps.len());
        let mut seen = |clip: usize, step: &_| {
            bar.step(step, (clip, clips), run);
            !self.stop.asked()
        };
        let sampled = self.sora.sample_video(&net, &captions, plan, &given, &mut seen).await?;
        let took = bar.elapsed();
        drop(bar);
        drop(net);
        self.sora.gpu().trim();
        let mean = took.as_secs_f64() / sampled.steps.len().max(1) as f64;
        let run = if run.is_empty() { String::new() } else { format!(", {run}") };
        self.screen.say(format!("denoise ok {:.1} s, {mean:.2} s/it{run}", took.as_secs_f64()));
        Ok((sampled, took))
    }

    fn recipe(&self, summary: &Summary) -> Value {
        let facts = Facts {
            model: &self.model,
            files: &self.files,
            prompt: &self.prompt,
            scores: &self.scores,
            cache: &self.args.cache.cache,
            given: &self.given,
            latents_in: self.latents_in.as_deref(),
        };
        facts.recipe(&self.plan, self.sora.gpu(), summary, self.fps)
    }

    /// What a latents file says about itself: the recipe, or with `--no-metadata` what decoding needs.
    fn embedded(&self, recipe: &Value) -> Value {
        if !self.args.output.video.no_metadata {
            return recipe.clone();
        }
        json!({"frames": self.plan.all_frames(), "fps": self.plan.fps, "file_fps": self.fps})
    }

    /// Denoising is the long part: if decoding fails, its result is kept.
    fn keep_latents(&self, failure: Failure, shape: [usize; 5], numbers: &[f32], recipe: &Value) -> Failure {
        if failure.exit == code::INTERRUPTED || self.target.is_stdout() {
            return failure;
        }
        let path = match &self.args.output.latents_out {
            Some(path) => path.clone(),
            None => {
                let mut name = self.target.path.as_os_str().to_owned();
                name.push(".latents.safetensors");
                let path = PathBuf::from(name);
                match latents::write(&path, shape, numbers, &self.embedded(recipe), false) {
                    Ok(()) => path,
                    Err(_) => return failure,
                }
            }
        };
        failure
            .hint(format!("the denoised latents are in {0}; `residua decode {0}` goes on from there", path.display()))
    }

    /// The same seed without the cache, and how far the two are apart.
    async fn verify(&self, captions: &[Caption], frames: &Frames) -> Outcome {
        let mut twin = self.plan.clone();
        twin.cache = CacheSpec::Off;
        let (sampled, _) = self.denoise(captions, &twin, "uncached").await?;
        let (latents, fps) = (&sampled.latents, self.fps);
        let (plain, _) =
            decode::frames(&self.sora, latents, twin.all_frames(), fps, self.screen, self.stop, "uncached").await?;
        let psnr = quality::psnr(&plain.rgb, &frames.rgb);
        let ssim = quality::ssim(&plain, frames);
        let (worst, _) = quality::worst_frame(&quality::psnr_frames(&plain, frames)).unwrap_or_default();
        // JSON has no infinity: equal videos have no PSNR there
        self.screen.event(
            "verify",
            json!({
                "equal": plain.rgb == frames.rgb, "psnr": psnr.is_finite().then_some(psnr), "ssim": ssim,
                "worst_frame": worst
            }),
        );
        self.screen.say(format!("vs uncached, same seed: PSNR {psnr:.1} dB, SSIM {ssim:.3}, worst frame {worst}"));
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

/// Where everything goes, checked.
fn places(args: &Generate, screen: &Screen, request: &Request, model: &str) -> Outcome<(Target, Option<PathBuf>)> {
    let video = &args.output.video;
    let to_stdout = video.output.as_ref().is_some_and(|p| p.as_os_str() == "-");
    if to_stdout && screen.json {
        return Err(Failure::wrong("output", "`-` and --json both want standard output; name a file"));
    }
    if to_stdout && args.output.sidecar {
        return Err(Failure::wrong("sidecar", "there is nothing to put it beside: the video goes to standard output"));
    }
    let stem = format!("{model}-{}-{}", request.seed, slug(&request.prompt));
    let extension = if request.frames == Some(1) { "png" } else { "mp4" };
    let target = Target::choose(video, &stem, extension)?;
    let sidecar = args.output.sidecar.then(|| target.path.with_extension("json"));
    let beside = [
        ("sidecar", sidecar.as_deref()),
        ("latents-out", args.output.latents_out.as_deref()),
        ("trace", args.cache.trace.as_deref()),
    ];
    check_files(&target, &beside, video.force)?;
    Ok((target, sidecar))
}
