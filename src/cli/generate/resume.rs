//! `residua resume`: an interrupted run goes on from its state.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use residua::Error;
use residua::cache::{CacheSpec, Settings, Wish};
use residua::media::{Frames, Reference};
use residua::pipeline::{Request, State};
use residua::tensor::sha256;
use serde_json::{Value, json};

use super::super::args::{self, Cli, Generate, Resume, Talk, Verb};
use super::super::exit::{Failure, Outcome};
use super::super::given::{self, Files};
use super::super::pace::Paces;
use super::super::screen::Screen;
use super::super::signals::Stop;
use super::super::{latents, model, recipe, words};
use super::manifest::Manifest;
use super::places::Places;
use super::saving::{Record, Saving, find};
use super::video::Job;
use super::{Batch, Shared};

/// Most frames that files of given frames are believed to have had, and most files.
const MOST_FRAMES: usize = 1 << 20;
const MOST_FILES: usize = 1 << 12;

/// Larger files are looked at before they are read.
const LOOKED_AT: u64 = 64 << 20;

/// Runs the verb.
///
/// # Errors
/// Whatever goes wrong; nothing is left half-written, and the state stays until the video is there.
pub fn run(args: &Resume, screen: &Screen) -> Outcome {
    let stop = Stop::listen();
    let work = async {
        let Some(mut manifest) = Manifest::read(&args.state)? else {
            let (path, several) = (find(&args.state)?, false);
            let (state, record) = read(&path)?;
            return one(args, screen, &stop, Saving::at(path, record, several), Some(state)).await;
        };
        if args.output.is_some() {
            let problem =
                format!("is the place of one video, `{}` has several, each with its own", args.state.display());
            return Err(Failure::wrong("output", problem));
        }
        while let Some((path, record)) = manifest.next() {
            // what is there is whole, and was not there before the run
            let made = record.output.exists() && !(record.force || args.force);
            let saving = Saving::at(path.clone(), record.clone(), true);
            if made {
                saving.remove();
            } else if path.is_file() {
                let (state, record) = read(&path)?;
                one(args, screen, &stop, Saving::at(path, record, true), Some(state)).await?;
            } else {
                one(args, screen, &stop, Saving::at(path, record, true), None).await?;
            }
            manifest.done()?;
            saving.unmake();
        }
        Ok(())
    };
    pollster::block_on(work).map_err(|failure| stop.explain(failure))
}

/// A state, and what it says of its run.
fn read(path: &Path) -> Outcome<(State, Record)> {
    let large = path.metadata().is_ok_and(|m| m.len() > LOOKED_AT);
    if large && latents::metadata(path, State::KEY).is_none() {
        return Err(Failure::input(Error::checkpoint(path, "is no state; `generate --save-state` keeps them")));
    }
    let bytes = std::fs::read(path).map_err(|e| Failure::input(Error::io(path, e)))?;
    let state = State::from_bytes(path, &bytes).map_err(Failure::input)?;
    let record = serde_json::from_value::<Record>(state.note.clone()).map_err(|e| {
        let problem = format!("says nothing of its run that `resume` understands ({e}); is it another program's?");
        Failure::input(Error::checkpoint(path, problem))
    })?;
    Ok((state, record))
}

/// Makes one video.
async fn one(args: &Resume, screen: &Screen, stop: &Stop, saving: Saving, state: Option<State>) -> Outcome {
    let (began, record) = (Instant::now(), &saving.record);
    if saving.path().is_file() {
        saving.lock()?;
    }
    let flags = flags(args, record, &saving)?;
    let mut shared = shared(&flags, screen, stop).await?;
    shared.files = model::fingerprint(shared.sora.parts())?;
    same_model(&shared, &saving, state.is_some())?;
    if state.is_some() {
        shared.files = record.recipe.pointer("/model/files").cloned().unwrap_or_default();
    }
    let places = Places::look(&flags, screen, 1)?;
    let damaged = |failure: Failure| saving.wrong(failure.message);
    let request = request(&flags, record, state.is_some(), screen).map_err(damaged)?;
    let files = Files::of(&record.recipe, record.end);
    let job = Job::resumed(&shared, request, files, saving, state)?;
    let batch = Batch { shared, jobs: vec![job], places, manifest: RefCell::default() };
    batch.announce()?;
    batch.work(began).await
}

/// What the interrupted run was told, with what is said now in place of some of it.
fn flags(args: &Resume, record: &Record, saving: &Saving) -> Outcome<Generate> {
    let damaged = |problem: String| saving.wrong(problem);
    // free text goes its own way: as words of a command it could be taken for flags
    let mut plain = record.recipe.clone();
    for (at, word) in [
        ("/model/name", json!("model")),
        ("/prompt", json!("prompt")),
        ("/scores/camera_motion", Value::Null),
        ("/given/references", json!([{"file": "file"}])),
        ("/given/mask_strategy", json!("0")),
    ] {
        if let Some(value) = plain.pointer_mut(at) {
            *value = word;
        }
    }
    let words = recipe::words(&plain).map_err(|e| damaged(e.message))?;
    let cli = Cli::try_parse_from(words).map_err(|e| damaged(format!("holds no words that `generate` knows: {e}")))?;
    let Verb::Generate(mut flags) = cli.verb else { return Err(damaged("is of another verb".into())) };
    flags.input.model.model = Some(args.model.clone().unwrap_or_else(|| record.folder.clone()));
    flags.input.latents_in = None;
    flags.input.camera_motion = record.recipe.pointer("/scores/camera_motion").and_then(Value::as_str).map(Into::into);
    // given frames are in the state
    flags.given.image = None;
    flags.given.mask_strategy = None;
    flags.cache.verify_cache = record.verify_cache;
    flags.cache.trace.clone_from(&record.trace);
    flags.output.video.output = Some(args.output.clone().unwrap_or_else(|| record.output.clone()));
    flags.output.video.crf = record.crf;
    flags.output.video.force = record.force || args.force;
    flags.output.video.no_metadata = record.no_metadata;
    flags.output.sidecar = record.sidecar;
    flags.output.latents_out.clone_from(&record.latents);
    flags.saving = args::Saving { save_state: None, no_save_state: false, state_every: record.every };
    flags.memory.memory = record.memory.parse().map_err(damaged)?;
    flags.device = record.device(&args.device);
    flags.talk = Talk { json: args.talk.json, quiet: args.talk.quiet, verbose: args.talk.verbose };
    Ok(*flags)
}

/// The model, open.
async fn shared<'a>(args: &'a Generate, screen: &'a Screen, stop: &'a Stop) -> Outcome<Shared<'a>> {
    let parts = model::find(args.input.model.model.as_deref())?;
    model::check(&parts)?;
    let sora = model::open(&parts, &args.device).await?;
    let (model, scores) = (parts.name.clone(), words::scores(&args.input, sora.defaults()));
    let paces = Paces::read(sora.gpu());
    Ok(Shared { args, screen, stop, sora, paces, model, files: Value::Null, scores, count: 1 })
}

/// The request of the interrupted run. Where it has `begun`, stand-ins are in place of given frames: theirs are encoded
/// in the state.
fn request(flags: &Generate, record: &Record, begun: bool, screen: &Screen) -> Outcome<Request> {
    let recipe = &record.recipe;
    // where a calibration has been read its file may have changed since
    let settings = recipe.pointer("/cache/settings").cloned().unwrap_or_default();
    let settings = serde_json::from_value::<Option<Settings>>(settings)
        .map_err(|e| Failure::wrong("cache", format!("has settings that are not understood: {e}")))?;
    let cache = match settings {
        Some(settings) => CacheSpec::AdaCache(Box::new(Wish::of(settings))),
        None => flags.cache.cache.parse()?,
    };
    let frames = record.given.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
    if record.given.len() > MOST_FILES || frames.is_none_or(|all| all > MOST_FRAMES) {
        let given = record.given.len();
        return Err(Failure::wrong(
            "given",
            format!("{given} files with {frames:?} frames are more than there can be"),
        ));
    }
    let mut request = words::request(flags, cache, screen)?;
    given::take(&flags.given, &mut request)?;
    request.prompt = recipe["prompt"].as_str().unwrap_or_default().into();
    let stand_in = |&frames: &usize| {
        let frames = Frames { width: 1, height: 1, fps: 1.0, rgb: vec![0; 3 * frames] };
        Arc::new(if frames.count() > 1 { Reference::Clip(frames) } else { Reference::Picture(frames) })
    };
    request.given.references = if begun {
        record.given.iter().map(stand_in).collect()
    } else {
        record.files.iter().enumerate().map(|(i, file)| given_frames(recipe, i, file)).collect::<Outcome<_>>()?
    };
    request.given.mask_strategy =
        recipe.pointer("/given/mask_strategy").and_then(Value::as_str).unwrap_or_default().into();
    Ok(request)
}

/// The frames of a file that a run was given as its i-th.
fn given_frames(recipe: &Value, i: usize, file: &Path) -> Outcome<Arc<Reference>> {
    let then = recipe.pointer(&format!("/given/references/{i}/sha256")).and_then(Value::as_str);
    if let Some(then) = then.filter(|_| file.is_file())
        && sha256(file)? != then
    {
        return Err(Failure::input(Error::checkpoint(file, "is not what it was when the run began; put it back")));
    }
    given::read(file).map(Arc::new)
}

/// Whether the files of the model are those that the run began with: of one that has `begun`, those that are read again.
fn same_model(shared: &Shared<'_>, saving: &Saving, begun: bool) -> Outcome {
    let recipe = &saving.record.recipe;
    let then = recipe.pointer("/model/files").and_then(Value::as_object);
    let read = |name: &&String| !begun || !(name.starts_with("text_encoder/") || name.starts_with("tokenizer/"));
    let names = |files: Option<&serde_json::Map<String, Value>>| -> Vec<String> {
        files.into_iter().flat_map(|files| files.keys().filter(read)).cloned().collect()
    };
    let all = [names(then), names(shared.files.as_object())].concat();
    let told = |name: &String| then.and_then(|files| files.get(name));
    if all.iter().all(|name| told(name) == shared.files.get(name)) {
        return Ok(());
    }
    let name = recipe.pointer("/model/name").and_then(Value::as_str).unwrap_or("?");
    let other = all.iter().find(|name| told(name) != shared.files.get(*name));
    let file = other.map_or("its files", String::as_str);
    let place = shared.place();
    Err(saving.wrong(format!(
        "is of the model `{name}`, and in `{}` {file} is not what it was; give the same model with -m",
        place.display()
    )))
}
