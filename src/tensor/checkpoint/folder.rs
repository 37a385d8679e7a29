//! Which files of a folder are the checkpoint.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Checkpoint, told};
use crate::error::{Error, Result};

/// File names of the hubs' layouts: what may be read in place before what comes in a pickle, single files before shards.
const SINGLE: [[&str; 2]; 2] = [
    ["model.safetensors", "diffusion_pytorch_model.safetensors"],
    ["pytorch_model.bin", "diffusion_pytorch_model.bin"],
];
const INDEX: [[&str; 2]; 2] = [
    ["model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json"],
    ["pytorch_model.bin.index.json", "diffusion_pytorch_model.bin.index.json"],
];

/// Most bytes of an index: room for a million tensors.
const INDEX_BYTES: u64 = 64 << 20;
/// Most shards.
const SHARDS: usize = 4096;
/// Most names in a message.
const NAMED: usize = 20;

/// What to open.
pub(super) enum Choice {
    /// A file that is the whole checkpoint.
    Single(PathBuf),
    /// The index of its shards.
    Sharded(PathBuf),
}

/// Looks for weights in a folder.
pub(super) fn choose(folder: &Path) -> Result<Choice> {
    let there = |names: &[&str; 2]| names.iter().map(|n| folder.join(n)).find(|p| p.is_file());
    for (single, index) in SINGLE.iter().zip(&INDEX) {
        if let Some(file) = there(single) {
            return Ok(Choice::Single(file));
        }
        if let Some(file) = there(index) {
            return Ok(Choice::Sharded(file));
        }
    }
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut names: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    names.sort();
    let weights: Vec<&PathBuf> = names.iter().filter(|p| Checkpoint::is_name(p) && p.is_file()).collect();
    let safe: Vec<&PathBuf> =
        weights.iter().copied().filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    match (&safe[..], &weights[..]) {
        ([one], _) | ([], [one]) => Ok(Choice::Single((*one).clone())),
        ([], []) => {
            let known = [SINGLE[0][0], SINGLE[0][1], INDEX[0][0], SINGLE[1][0], INDEX[1][0]].join(", ");
            let held = if names.is_empty() { "is empty".into() } else { format!("holds {}", list(names.iter())) };
            Err(Error::checkpoint(
                folder,
                format!("{held}, expected weights ({known}); is this the folder of one part of a model?"),
            ))
        }
        _ => Err(Error::checkpoint(
            folder,
            format!(
                "holds {}, and which is meant cannot be told: name the file, or, if they are shards, add their index ({} or \
                 {})",
                list(weights.iter().copied()),
                INDEX[0][0],
                INDEX[1][0]
            ),
        )),
    }
}

/// Names for a message.
fn list<'a>(paths: impl ExactSizeIterator<Item = &'a PathBuf>) -> String {
    let more = paths.len().saturating_sub(NAMED);
    let named = paths.take(NAMED).filter_map(|p| p.file_name()).map(|n| told(n.to_string_lossy()));
    let named = named.collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

/// The shard of every tensor: names of files in the folder of the index. (What they link to is not looked at: the
/// caches of hubs are made of links.)
pub(super) fn read_index(index: &Path) -> Result<HashMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let wrong = |problem: String| Error::checkpoint(index, problem);
    let bytes = index.metadata().map_err(|e| Error::io(index, e))?.len();
    if bytes > INDEX_BYTES {
        return Err(wrong(format!("is {bytes} bytes long, expected {INDEX_BYTES} at most; is it an index of shards?")));
    }
    let text = std::fs::read(index).map_err(|e| Error::io(index, e))?;
    let Index { weight_map: map } = serde_json::from_slice(&text)
        .map_err(|e| wrong(format!("is no index of shards: {}; download it again?", told(e))))?;
    let mut shards: Vec<&str> = map.values().map(String::as_str).collect();
    shards.sort_unstable();
    shards.dedup();
    if shards.is_empty() {
        return Err(wrong("names no shards; download it again?".into()));
    }
    if shards.len() > SHARDS {
        return Err(wrong(format!("names {} shards, expected {SHARDS} at most", shards.len())));
    }
    for name in shards {
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None));
        if !plain || name.contains(|c: char| c == '/' || c == '\\' || c.is_control()) {
            let problem = format!("points to `{}`, which is outside its folder; shards lie beside it", told(name));
            return Err(wrong(problem));
        }
    }
    Ok(map)
}
