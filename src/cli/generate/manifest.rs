//! The videos of a run that are still to be made, in the folder of their states.

use std::path::{Path, PathBuf};

use residua::Error;

use super::super::exit::{Failure, Outcome};
use super::super::output::{part_of, replace_file};
use super::super::recipe::quoted;
use super::saving::Record;

/// Name of the file.
const NAME: &str = "residua-videos.json";
/// The version that is written and read.
const VERSION: u32 = 1;

/// What is left of a run of several videos.
pub struct Manifest {
    path: PathBuf,
    videos: Vec<Left>,
    /// Of another run that is replaced.
    replaced: Vec<Left>,
}

/// A video that is still to be made, or is being made.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// Name of its state, once there is one.
    pub state: PathBuf,
    pub record: Record,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct File<V> {
    v: u32,
    videos: V,
}

impl Manifest {
    /// Of a run that begins.
    ///
    /// # Errors
    /// If that of another run is there, and is not to be replaced.
    pub fn begin(folder: &Path, force: bool) -> Outcome<Self> {
        let path = folder.join(NAME);
        if path.exists() && !force {
            let problem = format!("`{}` has videos of an interrupted run; --force replaces it", path.display());
            let failure = Failure::output(Error::request("save-state", problem));
            let folder = quoted(&folder.to_string_lossy());
            return Err(failure.hint(format!("go on with: residua resume {folder}")));
        }
        // what cannot be read names no states
        let replaced = Self::read(folder).ok().flatten().map_or_else(Vec::new, |old| old.videos);
        Ok(Self { path, videos: Vec::new(), replaced })
    }

    /// Of the run whose states are in a folder, if it was one of several videos.
    ///
    /// # Errors
    /// If it is damaged or of another version.
    pub fn read(folder: &Path) -> Outcome<Option<Self>> {
        let path = folder.join(NAME);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read(&path).map_err(|e| Failure::input(Error::io(&path, e)))?;
        let wrong = |problem: String| Failure::input(Error::checkpoint(&path, problem));
        let File { v, videos } = serde_json::from_slice::<File<serde_json::Value>>(&text)
            .map_err(|e| wrong(format!("is no list of videos: {e}")))?;
        if v != VERSION {
            return Err(wrong(format!("is of version {v}, this program reads version {VERSION}")));
        }
        let videos: Vec<Left> =
            serde_json::from_value(videos).map_err(|e| wrong(format!("is no list of videos: {e}")))?;
        if let Some(left) = videos.iter().find(|left| left.state.components().count() != 1) {
            return Err(wrong(format!("names `{}`, which is not in this folder", left.state.display())));
        }
        Ok(Some(Self { path, videos, replaced: Vec::new() }))
    }

    /// The next one, with the path of its state.
    pub fn next(&self) -> Option<(PathBuf, Record)> {
        self.videos.first().map(|left| (self.path.with_file_name(&left.state), left.record.clone()))
    }

    /// The next one is done.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn done(&mut self) -> Outcome {
        let rest = self.videos.split_off(1.min(self.videos.len()));
        self.set(rest)
    }

    /// What is left now.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn set(&mut self, videos: Vec<Left>) -> Outcome {
        self.videos = videos;
        for left in self.replaced.drain(..) {
            let _ = std::fs::remove_file(self.path.with_file_name(left.state));
        }
        if self.videos.is_empty() {
            for path in [&self.path, &part_of(&self.path)] {
                let _ = std::fs::remove_file(path);
            }
            return Ok(());
        }
        let file = File { v: VERSION, videos: &self.videos };
        let text = serde_json::to_string_pretty(&file)
            .map_err(|e| Failure::wrong("save-state", format!("cannot keep what is left: {e}")))?;
        replace_file(&self.path, text.as_bytes())
    }
}
