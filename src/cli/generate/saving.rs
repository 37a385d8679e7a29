//! The state of a run on disk: written while it lasts, gone when its video is there.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use residua::Error;
use residua::diffusion::sampler::Step;
use residua::gpu::{Class, DType};
use residua::pipeline::{Denoising, Plan};
use serde_json::{Value, json};

use super::super::args::{self, Generate};
use super::super::exit::{Failure, Outcome, code};
use super::super::given::Files;
use super::super::model;
use super::super::output::{part_of, replace_file, slug};
use super::super::recipe::quoted;
use super::manifest::Left;
use super::places::{Facts, Place};
use super::{Shared, Times};

/// What names of states end with.
pub const ENDING: &str = ".state.safetensors";
/// The code of a failure because a state is there already.
pub const THERE: &str = "state.there";
/// Where nobody says how often: of the time, one part in so many may go to saving.
const SHARE: u32 = 20;

/// What a state says about its run beyond what the library keeps.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub recipe: Value,
    /// The model's folder, or its name.
    pub folder: PathBuf,
    /// Files of given frames, how many frames each has, and which of them is to end the video.
    pub files: Vec<PathBuf>,
    pub given: Vec<usize>,
    pub end: Option<usize>,
    /// Where everything goes: whole paths, but `-` for standard output.
    pub output: PathBuf,
    pub sidecar: bool,
    pub latents: Option<PathBuf>,
    pub trace: Option<PathBuf>,
    pub crf: u8,
    pub force: bool,
    pub no_metadata: bool,
    pub verify_cache: bool,
    pub every: Option<u32>,
    /// Whether the folder of the state was made for it.
    pub made: bool,
    /// The adapter as the flags named it.
    pub device: Option<String>,
    pub kernels: Option<String>,
    pub dtype: Option<String>,
    pub no_tune: bool,
    /// How much memory it may take.
    pub memory: String,
    /// What encoding the text took, and all of the run up to the state.
    pub text_seconds: f64,
    pub seconds: f64,
}

impl Record {
    /// Of a run that begins.
    ///
    /// # Errors
    /// Paths that are no text.
    pub fn new(args: &Generate, plan: &Plan, files: &Files, place: &Place, folder: &Path) -> Outcome<Self> {
        let whole = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let record = Self {
            recipe: Value::Null,
            folder: folder.to_path_buf(),
            files: files.names().map(|name| whole(&PathBuf::from(name))).collect(),
            given: plan.given.references.iter().map(|r| r.frames().count()).collect(),
            end: files.end(),
            output: if place.target.is_stdout() { "-".into() } else { whole(&place.target.path) },
            sidecar: place.sidecar.is_some(),
            latents: place.latents.as_ref().map(whole),
            trace: place.trace.as_ref().map(whole),
            crf: args.output.video.crf,
            force: args.output.video.force,
            no_metadata: args.output.video.no_metadata,
            verify_cache: args.cache.verify_cache,
            every: args.saving.state_every,
            made: false,
            device: args.device.device.clone(),
            kernels: args.device.kernels.map(|class| format!("{class:?}").to_lowercase()),
            dtype: args.device.dtype.map(|dtype| format!("{dtype:?}").to_lowercase()),
            no_tune: args.device.no_tune,
            memory: args.memory.memory.to_string(),
            text_seconds: 0.0,
            seconds: 0.0,
        };
        match serde_json::to_value(&record) {
            Ok(_) => Ok(record),
            Err(e) => Err(Failure::wrong("save-state", format!("cannot keep the names of this run's files: {e}"))),
        }
    }

    /// The same run, where and on what it is `now`.
    pub fn moved(self, now: Self) -> Self {
        let Self { recipe, files, given, made, text_seconds, seconds, .. } = self;
        Self { recipe, files, given, made, text_seconds, seconds, ..now }
    }

    /// The adapter of the flags given now, else that of the run.
    pub fn device(&self, now: &args::Device) -> args::Device {
        args::Device {
            device: now.device.clone().or_else(|| self.device.clone()),
            kernels: now.kernels.or_else(|| self.kernels.as_deref().and_then(|k| k.parse::<Class>().ok())),
            dtype: now.dtype.or_else(|| self.dtype.as_deref().and_then(|d| d.parse::<DType>().ok())),
            no_tune: now.no_tune || self.no_tune,
        }
    }
}

/// Where the state of a video is kept, and how often.
pub struct Saving {
    path: PathBuf,
    pub record: Record,
    /// Whether there are other videos in the same run.
    several: bool,
    /// When it was last saved, and how long that took.
    last: Cell<Option<(Instant, Duration)>>,
    /// Whether there is a state to go on from.
    kept: Cell<bool>,
    /// Held while the run lasts: nobody else keeps a state of this name.
    lock: RefCell<Option<File>>,
}

impl Saving {
    /// In the folder asked for, or in one that nobody asked for, by the name of the video.
    ///
    /// # Errors
    /// If a state is there already, or something else in the folder's place.
    pub fn begin(
        args: &Generate,
        folder: &Path,
        mut record: Record,
        facts: &Facts<'_>,
        several: bool,
        unasked: bool,
    ) -> Outcome<Self> {
        let stem = record.output.file_stem().filter(|_| record.output.as_os_str() != "-");
        let stem = stem.map_or_else(
            || format!("{}-{}-{}", model::label(facts.model), facts.plan.seed, slug(facts.prompt)),
            |stem| stem.to_string_lossy().into_owned(),
        );
        // a folder that nobody asked for goes with the state; it goes only if it is empty
        record.made = unasked || !folder.exists();
        let number = if several { format!("{:04}-", facts.index) } else { String::new() };
        let saving = Self::at(folder.join(format!("{number}{stem}{ENDING}")), record, several);
        if folder.exists() && !folder.is_dir() {
            let wrong = Failure::wrong("save-state", format!("`{}` is a file, not a folder", folder.display()));
            return Err(Failure { exit: code::OUTPUT, ..wrong });
        }
        if saving.path.exists() && !args.output.video.force {
            let path = saving.path.display();
            let problem = format!("`{path}` is there already: the state of an interrupted run; --force replaces it");
            let failure = Failure { exit: code::OUTPUT, code: THERE, ..Failure::wrong("save-state", problem) };
            return Err(failure.hint(saving.advice()));
        }
        Ok(saving)
    }

    /// In this file.
    pub fn at(path: PathBuf, record: Record, several: bool) -> Self {
        let (last, kept, lock) = (Cell::new(None), Cell::new(false), RefCell::default());
        Self { path, record, several, last, kept, lock }
    }

    /// There is a state already, from which the run goes on.
    pub fn begun(self) -> Self {
        self.kept.set(true);
        self
    }

    /// For the list of what is left.
    pub fn left(&self) -> Left {
        Left { state: self.path.file_name().unwrap_or_default().into(), record: self.record.clone() }
    }

    /// Makes the folder, and room in it.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn make(&self) -> Outcome {
        // --force has been given: nobody is to go on with another run by mistake
        if self.path.exists() {
            std::fs::remove_file(&self.path).map_err(|e| Failure::output(Error::io(&self.path, e)))?;
        }
        if let Some(folder) = self.path.parent().filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
            std::fs::create_dir_all(folder).map_err(|e| Failure::output(Error::io(folder, e)))?;
        }
        self.lock()
    }

    /// Keeps others from the state as long as this run lasts, however it ends.
    ///
    /// # Errors
    /// If another run has it.
    pub fn lock(&self) -> Outcome {
        // of several videos, their list is there from the first moment on
        if self.several {
            return Ok(());
        }
        let path = self.lock_path();
        let file = File::create(&path).map_err(|e| Failure::output(Error::io(&path, e)))?;
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {
                let problem = format!("another run keeps its state in `{}`; name another folder", self.path.display());
                Err(Failure::output(Error::request("save-state", problem)))
            }
            // where a system has no locks, there is nothing to do about it
            _ => {
                *self.lock.borrow_mut() = Some(file);
                Ok(())
            }
        }
    }

    fn lock_path(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(".lock");
        self.path.with_file_name(name)
    }

    fn unlock(&self) {
        // (removed while it is held, or it would be that of who comes next)
        if let Some(held) = self.lock.borrow_mut().take() {
            let _ = std::fs::remove_file(self.lock_path());
            drop(held);
        }
    }

    /// Whether it is time.
    pub fn due(&self, step: &Step) -> bool {
        match self.record.every {
            Some(every) => step.step.is_multiple_of(every as usize),
            None => self.last.get().is_none_or(|(at, took)| at.elapsed() >= (SHARE - 1) * took),
        }
    }

    /// Saves a run. A disk that is full does not end it.
    ///
    /// # Errors
    /// Whatever goes wrong on the device.
    pub async fn keep(&self, shared: &Shared<'_>, run: &mut Denoising<'_>, times: &Times) -> Outcome {
        let began = Instant::now();
        let mut state = match run.state().await {
            Ok(state) => state,
            Err(e @ (Error::Limit { .. } | Error::OutOfMemory { .. })) => {
                log::warn!("the state could not be saved, the run goes on: {e}");
                self.last.set(Some((Instant::now(), began.elapsed())));
                return Ok(());
            }
            Err(other) => return Err(other.into()),
        };
        let seconds = self.record.seconds + times.began.elapsed().as_secs_f64();
        let record = Record { seconds, text_seconds: times.text.as_secs_f64(), ..self.record.clone() };
        state.note = serde_json::to_value(&record).unwrap_or_default();
        match state.to_bytes().map_err(Failure::output).and_then(|bytes| replace_file(&self.path, &bytes)) {
            Ok(()) => {
                self.kept.set(true);
                let path = self.path.display().to_string();
                shared.screen.event("state", json!({"path": path, "steps": state.steps()}));
            }
            Err(failure) => log::warn!("the state could not be saved, the run goes on: {}", failure.message),
        }
        self.last.set(Some((Instant::now(), began.elapsed())));
        Ok(())
    }

    /// The video is there: nobody needs the state any more.
    pub fn remove(&self) {
        self.kept.set(false);
        for path in [&self.path, &part_of(&self.path)] {
            let _ = std::fs::remove_file(path);
        }
        self.unlock();
        self.unmake();
    }

    /// Takes the folder away again if it was made and nothing is in it.
    pub fn unmake(&self) {
        if let Some(folder) = self.path.parent().filter(|_| self.record.made) {
            let _ = std::fs::remove_dir(folder);
        }
    }

    /// Whether there is a state to go on from.
    pub fn is_kept(&self) -> bool {
        self.kept.get()
    }

    /// What to do about a run that ended before its video was there.
    pub fn advise(&self, failure: Failure) -> Failure {
        // (what is wrong with the state itself is no reason to try it again)
        if !self.is_kept() && !self.several || failure.exit == code::INPUT {
            return failure;
        }
        let advice = match &failure.hint {
            Some(hint) => format!("{hint}; {}", self.advice()),
            None => self.advice(),
        };
        failure.hint(advice)
    }

    /// Where it is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with the state.
    pub fn wrong(&self, problem: String) -> Failure {
        Failure::input(Error::checkpoint(&self.path, problem))
    }

    fn advice(&self) -> String {
        let folder = self.path.parent().filter(|_| self.several);
        format!("go on with: residua resume {}", quoted(&folder.unwrap_or(&self.path).to_string_lossy()))
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.unlock();
    }
}

/// The state that a path means: the file, or the only one in a folder.
///
/// # Errors
/// If there is none, or more than one.
pub fn find(path: &Path) -> Outcome<PathBuf> {
    let wrong = |problem: String| Failure::input(Error::checkpoint(path, problem));
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if !path.is_dir() {
        return Err(wrong("there is no such state; `generate --save-state` keeps them".into()));
    }
    let entries = std::fs::read_dir(path).map_err(|e| Failure::input(Error::io(path, e)))?;
    let is_state = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().ends_with(ENDING));
    let mut states: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(is_state).collect();
    states.sort();
    match states.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(wrong(format!("holds no state: no file ends with `{ENDING}`"))),
        [first, ..] => {
            Err(wrong(format!("holds {} states; name one of them, such as `{}`", states.len(), first.display())))
        }
    }
}
