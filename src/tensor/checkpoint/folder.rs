//! Which files of a folder are the checkpoint.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Checkpoint, bytes_of_file, told};
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

/// What to open, by the name of its file.
#[derive(Debug, PartialEq)]
pub(super) enum Choice<'a> {
    /// A file that is the whole checkpoint.
    Single(&'a str),
    /// The index of its shards.
    Sharded(&'a str),
}

/// Which of the files of a folder its checkpoint begins with; `None` if none of the hubs' names is there and not exactly
/// one has such an ending.
pub(super) fn choose<'a>(names: &[&'a str]) -> Option<Choice<'a>> {
    let there = |known: &[&str; 2]| known.iter().find_map(|k| names.iter().copied().find(|n| n == k));
    for (single, index) in SINGLE.iter().zip(&INDEX) {
        if let Some(file) = there(single) {
            return Some(Choice::Single(file));
        }
        if let Some(file) = there(index) {
            return Some(Choice::Sharded(file));
        }
    }
    let weights: Vec<&str> = names.iter().copied().filter(|n| Checkpoint::is_name(Path::new(n))).collect();
    let safe: Vec<&str> = weights.iter().copied().filter(|n| n.ends_with(".safetensors")).collect();
    match (&safe[..], &weights[..]) {
        ([one], _) | ([], [one]) => Some(Choice::Single(one)),
        _ => None,
    }
}

/// Of the files of a folder those that [`Checkpoint::open`] reads. Shards are those that are numbered as hubs do,
/// `STEM-00001-of-00002.ENDING`.
pub(super) fn wanted<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let index = match choose(names) {
        None => return Vec::new(),
        Some(Choice::Single(one)) => return vec![one],
        Some(Choice::Sharded(index)) => index,
    };
    let file = index.trim_end_matches(".index.json");
    let (stem, ending) = file.rsplit_once('.').unwrap_or((file, ""));
    let shard = |n: &str| {
        let middle = n.strip_prefix(stem).and_then(|n| n.strip_suffix(ending)).and_then(|n| n.strip_suffix('.'));
        middle.is_some_and(|m| m.starts_with('-') && m.contains("-of-"))
    };
    names.iter().copied().filter(|&n| n == index || shard(n)).collect()
}

/// Whether shards are all there, as their numbers tell.
pub(super) fn is_whole(names: &[&str]) -> bool {
    let wanted = wanted(names);
    let count = |n: &str| n.rsplit_once("-of-")?.1.split('.').next()?.parse::<usize>().ok();
    match wanted[..] {
        [] => false,
        [one] => !one.ends_with(".index.json"),
        _ => wanted.iter().find_map(|n| count(n)).is_none_or(|all| wanted.len() == all + 1),
    }
}

/// Looks for weights in a folder: the file, or the index of several.
pub(super) fn look(folder: &Path) -> Result<(PathBuf, bool)> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    // (a link to nothing counts: opening it says so)
    let files: Vec<&PathBuf> = paths.iter().filter(|p| p.is_file() || p.is_symlink()).collect();
    let names: Vec<&str> = files.iter().filter_map(|p| p.file_name()?.to_str()).collect();
    match choose(&names) {
        Some(Choice::Single(name)) => return Ok((folder.join(name), false)),
        Some(Choice::Sharded(name)) => return Ok((folder.join(name), true)),
        None => {}
    }
    let weights: Vec<&PathBuf> = files.into_iter().filter(|p| Checkpoint::is_name(p)).collect();
    if weights.is_empty() {
        let known = [SINGLE[0][0], SINGLE[0][1], INDEX[0][0], SINGLE[1][0], INDEX[1][0]].join(", ");
        let held = if paths.is_empty() { "is empty".into() } else { format!("holds {}", list(paths.iter())) };
        let problem = format!("{held}, expected weights ({known}); is this the folder of one part of a model?");
        return Err(Error::checkpoint(folder, problem));
    }
    Err(Error::checkpoint(
        folder,
        format!(
            "holds {}, and which is meant cannot be told: name the file, or, if they are shards, add their index ({} or \
             {})",
            list(weights.into_iter()),
            INDEX[0][0],
            INDEX[1][0]
        ),
    ))
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
    let bytes = bytes_of_file(index)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_of_a_folder() {
        let of = |names: &str| wanted(&names.split(' ').collect::<Vec<_>>()).join(" ");
        let shards = "pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin pytorch_model.bin.index.json";
        assert_eq!(of(&format!("config.json flax_model.msgpack {shards} spiece.model tf_model.h5")), shards);
        assert_eq!(of(&format!("{shards} model.safetensors")), "model.safetensors");
        let whole = |names: &str| is_whole(&names.split(' ').collect::<Vec<_>>());
        assert!(whole(shards) && whole("a.bin") && !whole("config.json"));
        assert!(!whole("pytorch_model.bin.index.json"));
        assert!(!whole(shards.split_once(' ').unwrap().1), "one of two shards");
        assert_eq!(of("a.safetensors b.bin c.bin"), "a.safetensors");
        assert_eq!(
            of("diffusion_pytorch_model.bin diffusion_pytorch_model.fp16.safetensors"),
            "diffusion_pytorch_model.bin"
        );
        for none in ["config.json", "a.bin b.bin", "a.safetensors b.safetensors"] {
            assert_eq!(of(none), "");
        }
    }
}
