//! The latents of a video while it is decoded.

use std::path::{Path, PathBuf};

use super::super::exit::Failure;
use super::super::recipe::quoted;

/// Where the denoised latents are while they are decoded.
pub struct KeptLatents {
    pub path: Option<PathBuf>,
    /// Only until then.
    pub passing: bool,
}

impl KeptLatents {
    /// A free name for those of a video; those of an interrupted run may lie there.
    pub fn place(video: &Path) -> Option<PathBuf> {
        let names = (0..1000).map(|n| if n == 0 { String::new() } else { format!("-{n}") });
        names.map(|n| with_ending(video, &format!("{n}.latents.safetensors"))).find(|path| !path.exists())
    }

    /// What to do about a failure on the way to the video.
    pub fn advise(&self, failure: Failure) -> Failure {
        let Some(path) = &self.path else { return failure };
        let path = quoted(&path.to_string_lossy());
        failure.hint(format!("the denoised latents are in {path}; `residua decode {path}` goes on from there"))
    }

    /// The video is there.
    pub fn remove(&self) {
        if let Some(path) = self.path.as_ref().filter(|_| self.passing) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A path with something behind its name.
pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.components().collect::<PathBuf>().into_os_string();
    name.push(ending);
    name.into()
}
