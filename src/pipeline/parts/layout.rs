//! What is what in a folder that holds a model.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Part;
use crate::error::{Error, Result};
use crate::models::vae;
use crate::tensor::Checkpoint;
use crate::text::tokenizer::Tokenizer;

/// Largest config that is looked at.
const CONFIG_BYTES: u64 = 1 << 20;

/// Whether a folder has one sub-folder for each part, as diffusers writes models.
pub(super) fn is_diffusers(folder: &Path) -> bool {
    folder.join(Part::Transformer.name()).is_dir() || folder.join("model_index.json").is_file()
}

/// Whether a folder holds a tokenizer.
pub(super) fn has_tokenizer(folder: &Path) -> bool {
    Tokenizer::FILES.iter().any(|n| folder.join(n).is_file())
}

fn config(folder: &Path) -> Option<Value> {
    let path = folder.join("config.json");
    let fits = path.metadata().is_ok_and(|m| m.is_file() && m.len() <= CONFIG_BYTES);
    let text = fits.then(|| std::fs::read(&path).ok())??;
    serde_json::from_slice(&text).ok()
}

/// Which part a repository is, as its `config.json` says.
pub(super) fn kind(folder: &Path) -> Option<Part> {
    let config = config(folder)?;
    let said = ["model_type", "_class_name"].iter().find_map(|k| config.get(k)?.as_str())?;
    match said {
        "STDiT3" => Some(Part::Transformer),
        "VideoAutoencoderPipeline" => Some(Part::Vae),
        "AutoencoderKL" => Some(Part::Vae2d),
        "t5" => Some(Part::TextEncoder),
        _ => None,
    }
}

/// The parts among a folder's sub-folders: copies of repositories, whatever their names.
///
/// # Errors
/// [`Error::Checkpoint`] if two say that they are the same part.
pub(super) fn copies(folder: &Path) -> Result<Vec<(Part, PathBuf)>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    let mut found: Vec<(Part, PathBuf)> = Vec::new();
    for path in folders {
        let Some(part) = kind(&path) else { continue };
        if let Some((_, twin)) = found.iter().find(|(p, _)| *p == part) {
            let problem = format!(
                "is the {part} of a model, and so is `{}`; say in a `{}` which is meant",
                twin.display(),
                super::FILE
            );
            return Err(Error::checkpoint(path, problem));
        }
        found.push((part, path));
    }
    Ok(found)
}

/// What keeps a folder from being a part; `None` if nothing does.
pub(super) fn lacks(part: Part, folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?;
    let names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // (what nobody reads may be gone)
    let read = match part {
        Part::Scheduler | Part::Cache => Vec::new(),
        Part::Tokenizer if has_tokenizer(folder) => Vec::new(),
        Part::Tokenizer => Tokenizer::FILES.to_vec(),
        _ => [vec!["config.json"], Checkpoint::files_of(&names)].concat(),
    };
    for path in read.iter().map(|name| folder.join(name)) {
        if let (Ok(to), false) = (path.read_link(), path.exists()) {
            return Some(format!("`{}` is a link to `{}`, which is not there", path.display(), to.display()));
        }
    }
    let at = folder.display();
    let lack = |what: &str| Some(format!("{at} has no {what}"));
    match part {
        Part::Tokenizer if has_tokenizer(folder) => None,
        Part::Tokenizer => lack(&Tokenizer::FILES.join(" or ")),
        Part::Scheduler | Part::Cache => None,
        _ if !names.contains(&"config.json") => lack("config.json"),
        _ if Checkpoint::files_of(&names).is_empty() => lack("weights"),
        _ if !Checkpoint::is_whole(&names) => lack("shards of its weights, or not all"),
        _ => None,
    }
}

/// Whether a VAE's own weights leave out the autoencoder of single frames.
pub(super) fn lacks_spatial(vae: &Path) -> bool {
    // what is wrong with a file is said when it is loaded
    let inside = |w: &Checkpoint| w.names().any(|n| n.starts_with(vae::SPATIAL));
    Checkpoint::open(vae).is_ok_and(|w| !inside(&w))
}

/// Where a VAE's config says that the autoencoder of single frames is: a repository or folder, and a folder in it.
pub(super) fn named_spatial(vae: &Path) -> (Option<String>, Option<String>) {
    let config = config(vae).unwrap_or_default();
    let word = |name: &str| config.pointer(&format!("/vae_2d/{name}")).and_then(Value::as_str).map(String::from);
    (word("from_pretrained"), word("subfolder"))
}
