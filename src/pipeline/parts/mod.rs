//! Where the parts of a model lie: in one folder, in copies of the published repositories, in a hub's cache.

mod file;
mod hub;
mod known;
mod layout;
mod search;

use std::fmt;
use std::path::{Path, PathBuf};

pub use file::FILE;
pub use hub::{HubCache, HubId, is_commit};
pub use known::{KNOWN, Known, by_name};
pub use search::Search;

use super::Defaults;
use crate::error::{Error, Result};

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The denoiser.
    Transformer,
    /// The autoencoder of videos.
    Vae,
    /// Its autoencoder of single frames, where that is stored apart.
    Vae2d,
    /// T5.
    TextEncoder,
    /// The text encoder's.
    Tokenizer,
    /// Numbers of the sampler.
    Scheduler,
    /// Presets of caches.
    Cache,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Transformer, Self::Vae, Self::Vae2d, Self::TextEncoder, Self::Tokenizer, Self::Scheduler, Self::Cache];

    /// Its name: that of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "vae",
            Self::Vae2d => "vae_2d",
            Self::TextEncoder => "text_encoder",
            Self::Tokenizer => "tokenizer",
            Self::Scheduler => "scheduler",
            Self::Cache => "cache",
        }
    }

    /// Whether it holds weights.
    pub fn has_weights(self) -> bool {
        matches!(self, Self::Transformer | Self::Vae | Self::Vae2d | Self::TextEncoder)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One part of a model that was looked for.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which.
    pub part: Part,
    /// Its folder, or where it was looked for in vain and what was wrong there.
    pub folder: std::result::Result<PathBuf, Vec<String>>,
    /// The repository it belongs to, if it was looked for by a name on a hub.
    pub hub: Option<HubId>,
}

/// A model that was found, perhaps not all of it.
#[derive(Clone, Debug)]
pub struct Located {
    /// What it is called: the name asked for, or that of its folder.
    pub name: String,
    /// The folder of the whole model, if there is one.
    pub root: Option<PathBuf>,
    /// Its licence, if its description says so.
    pub licence: Option<String>,
    /// What it offers where a request says nothing.
    pub defaults: Defaults,
    /// Its parts; those that are not needed only if they are there.
    pub places: Vec<Place>,
    /// Where names were looked for, in words.
    looked: String,
}

/// Where everything of a model lies.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What it is called.
    pub name: String,
    /// The folder of the whole model, if there is one.
    pub root: Option<PathBuf>,
    /// What it offers where a request says nothing.
    pub defaults: Defaults,
    /// The folder of the denoiser.
    pub transformer: PathBuf,
    /// The folder of the autoencoder.
    pub vae: PathBuf,
    /// The folder of the autoencoder of single frames, where it is stored apart.
    pub vae_2d: Option<PathBuf>,
    /// The folder of the text encoder.
    pub text_encoder: PathBuf,
    /// The folder of the tokenizer.
    pub tokenizer: PathBuf,
    /// The folder of the cache's presets.
    pub cache: Option<PathBuf>,
}

impl Parts {
    /// The parts of a model folder.
    ///
    /// # Errors
    /// As [`Search::open`] and [`Located::parts`].
    pub fn of_folder(folder: &Path) -> Result<Self> {
        Search::from_env().open(folder)?.parts()
    }

    /// The folders that hold weights.
    pub fn weights(&self) -> Vec<(Part, &Path)> {
        let vae_2d = self.vae_2d.as_ref().map(|f| (Part::Vae2d, f.as_path()));
        let always = [
            (Part::Transformer, self.transformer.as_path()),
            (Part::Vae, &self.vae),
            (Part::TextEncoder, &self.text_encoder),
        ];
        always.into_iter().chain(vae_2d).collect()
    }
}

impl Located {
    /// The folder of a part, if it was found.
    pub fn folder(&self, part: Part) -> Option<&Path> {
        self.places.iter().find(|p| p.part == part)?.folder.as_deref().ok()
    }

    /// Whether it says that it is a model of a kind that is known here: folders of others have the same layout.
    pub fn is_ours(&self) -> bool {
        let described = self.root.as_ref().is_some_and(|root| root.join(FILE).is_file());
        described || self.folder(Part::Transformer).is_some_and(|f| layout::kind(f) == Some(Part::Transformer))
    }

    /// The parts that were looked for in vain.
    pub fn missing(&self) -> impl Iterator<Item = (&Place, &Vec<String>)> {
        self.places.iter().filter_map(|p| Some((p, p.folder.as_ref().err()?)))
    }

    /// All of it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming every part that is missing, where it was looked for, and how to get it.
    pub fn parts(self) -> Result<Parts> {
        if self.missing().next().is_some() {
            let told = self.missing().map(|(place, looked)| format!("{} ({})", place.part, looked.join("; ")));
            let told = told.collect::<Vec<_>>().join(", ");
            let path = self.root.clone().unwrap_or_else(|| PathBuf::from(&self.name));
            return Err(Error::checkpoint(path, format!("lacks {told}; {}", self.remedy())));
        }
        let folder = |part: Part| self.folder(part).map(Path::to_path_buf);
        let needed = |part: Part| {
            folder(part)
                .ok_or_else(|| Error::checkpoint(&self.name, format!("was never looked through for its {part}")))
        };
        Ok(Parts {
            transformer: needed(Part::Transformer)?,
            vae: needed(Part::Vae)?,
            vae_2d: folder(Part::Vae2d),
            text_encoder: needed(Part::TextEncoder)?,
            tokenizer: needed(Part::Tokenizer)?,
            cache: folder(Part::Cache),
            name: self.name,
            root: self.root,
            defaults: self.defaults,
        })
    }

    /// How to get what is missing.
    fn remedy(&self) -> String {
        let looked = &self.looked;
        if by_name(&self.name).is_some() {
            return format!("{looked}; `residua pull {}` downloads it", self.name);
        }
        let mut ids: Vec<String> =
            self.missing().filter_map(|(p, _)| Some(p.hub.as_ref()?.whole().to_string())).collect();
        ids.sort();
        ids.dedup();
        match ids.is_empty() {
            true => "a model folder holds transformer, vae, text_encoder and tokenizer; add what is missing".into(),
            false => {
                let pull = ids.iter().map(|id| format!("`residua pull {id}`")).collect::<Vec<_>>().join(" and ");
                format!("{looked}; {pull} downloads it")
            }
        }
    }
}
