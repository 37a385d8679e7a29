//! Captions kept on disk, so that a prompt that was encoded before needs no text encoder: not its memory, not the time to
//! read it, not even its files.
//!
//! A caption is found by SHA-256 over everything its numbers depend on: the tokens, the encoder (its `config.json`, and its
//! weights by [`fingerprint`], which of large files looks at the ends only), the adapter with its driver, the kernels
//! and how operands are kept, and the version of this crate. The same seed therefore gives the same video with a cache
//! and without. What cannot be told apart so: weights of one name and size that differ only between their ends, and
//! choices of [`crate::gpu::Tune`] made anew on the same adapter.
//!
//! Beside the captions lies, for each encoder seen, a note of its folder, its configuration and the fingerprint of its
//! weights: with it, captions are found after the weights were deleted, as long as folder and configuration stay.
//! A file that is damaged counts as none, and is written again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::Caption;
use crate::gpu::{Gpu, cache_folder, replace};
use crate::tensor::{fingerprint, sha256, sha256_of_bytes};

/// The layout of the files, and of what their names are made from.
const VERSION: u32 = 1;
/// Of all captions together; the longest unused go first.
const MOST: u64 = 1 << 30;
/// One caption of 300 tokens of T5 XXL has 5 MB.
const MOST_OF_ONE: u64 = 256 << 20;
/// In the metadata of a file: SHA-256 of its rows.
const KEY: &str = "residua.caption";
const ENDING: &str = "safetensors";

/// Where the command line keeps captions, for programs that want to share them:
/// `captions` in [`cache_folder`](crate::gpu::cache_folder).
pub fn caption_folder() -> Option<PathBuf> {
    cache_folder().map(|folder| folder.join("captions"))
}

/// The captions of one encoder on one device.
pub(super) struct Shelf {
    folder: PathBuf,
    /// What all of them depend on.
    of: String,
}

/// What is remembered of an encoder.
#[derive(PartialEq, Serialize, Deserialize)]
struct Note {
    version: u32,
    folder: String,
    config: String,
    weights: String,
}

impl Shelf {
    /// The captions in `folder` that the encoder in another makes on a device. `None` if that cannot be told.
    pub(super) fn open(folder: &Path, gpu: &Gpu, encoder: &Path) -> Option<Self> {
        let config = sha256(&encoder.join("config.json")).ok()?;
        let weights = weights(folder, encoder, &config)?;
        let (version, device) = (env!("CARGO_PKG_VERSION"), gpu.identity());
        let of = format!("caption {VERSION}\nresidua {version}\n{device}\n{config}\n{weights}\n");
        Some(Self { folder: folder.to_path_buf(), of })
    }

    fn file(&self, tokens: &[u32]) -> PathBuf {
        let key = [self.of.as_bytes(), bytemuck::cast_slice(tokens)].concat();
        self.folder.join(sha256_of_bytes(&key)).with_extension(ENDING)
    }

    /// The rows of a caption, if they are known.
    pub(super) fn get(&self, tokens: &[u32], channels: usize) -> Option<Vec<f32>> {
        let path = self.file(tokens);
        let size = path.metadata().ok()?.len();
        let read = || match size {
            0..=MOST_OF_ONE => decode(&std::fs::read(&path).map_err(|e| e.to_string())?, tokens, channels),
            _ => Err(format!("is {size} bytes long")),
        };
        match read() {
            Ok(rows) => {
                // used: it is among the last to go. (On a disk that cannot be written to nothing goes.)
                let _ =
                    std::fs::File::options().append(true).open(&path).and_then(|f| f.set_modified(SystemTime::now()));
                Some(rows)
            }
            Err(problem) => {
                log::warn!("{}: {problem}; the caption is encoded again", path.display());
                None
            }
        }
    }

    /// Keeps a caption. A disk that does not take it is no failure.
    pub(super) fn put(&self, caption: &Caption) {
        if !caption.rows.iter().all(|v| v.is_finite()) {
            return;
        }
        let path = self.file(&caption.tokens);
        let kept = encode(caption).and_then(|bytes| replace(&path, &bytes).map_err(|e| e.to_string()));
        match kept {
            Ok(()) => self.trim(MOST),
            Err(problem) => log::info!("the caption is not kept in {}: {problem}", path.display()),
        }
    }

    /// Removes what was not used for the longest time until no more than `most` bytes are left.
    fn trim(&self, most: u64) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let ours = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == ENDING));
        let mut files: Vec<(SystemTime, u64, PathBuf)> = ours
            .filter_map(|path| {
                let told = path.metadata().ok()?;
                Some((told.modified().ok()?, told.len(), path))
            })
            .collect();
        files.sort();
        let mut held: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if held <= most {
                break;
            }
            // (another process may have been faster)
            let _ = std::fs::remove_file(&path);
            held -= size;
        }
    }
}

/// What tells the weights of an encoder from others: looked at, or, where they are gone, remembered.
fn weights(shelf: &Path, encoder: &Path, config: &str) -> Option<String> {
    let folder = encoder.canonicalize().ok()?.to_string_lossy().into_owned();
    let name = sha256_of_bytes(format!("{folder}\n{config}").as_bytes());
    let path = shelf.join(format!("encoder-{name}.json"));
    let known = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
    let note = |weights: String| Note { version: VERSION, folder: folder.clone(), config: config.into(), weights };
    let Ok(weights) = fingerprint(encoder) else {
        return known.filter(|k| *k == note(k.weights.clone())).map(|k| k.weights);
    };
    let found = note(weights);
    if known.as_ref() != Some(&found) {
        let kept = serde_json::to_vec_pretty(&found).map_err(std::io::Error::other).and_then(|b| replace(&path, &b));
        if let Err(e) = kept {
            log::info!("the text encoder is not remembered in {}: {e}", path.display());
        }
    }
    Some(found.weights)
}

fn encode(caption: &Caption) -> Result<Vec<u8>, String> {
    let (n, numbers) = (caption.tokens.len(), &caption.rows);
    let rows: &[u8] = bytemuck::cast_slice(numbers);
    let view = |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).map_err(|e| e.to_string());
    let tensors = [
        ("tokens", view(Dtype::U32, vec![n], bytemuck::cast_slice(&caption.tokens))?),
        ("rows", view(Dtype::F32, vec![n, numbers.len() / n.max(1)], rows)?),
    ];
    let note = HashMap::from([(KEY.to_string(), sha256_of_bytes(rows))]);
    safetensors::serialize(tensors, Some(note)).map_err(|e| e.to_string())
}

/// The rows in a file, after a check of all that is in it.
fn decode(bytes: &[u8], tokens: &[u32], channels: usize) -> Result<Vec<f32>, String> {
    let damaged = |e: safetensors::SafeTensorError| format!("is damaged ({e})");
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let (held, rows) = (file.tensor("tokens").map_err(damaged)?, file.tensor("rows").map_err(damaged)?);
    let words = |data: &[u8]| data.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let same: Vec<u32> = words(held.data());
    if (held.dtype(), rows.dtype()) != (Dtype::U32, Dtype::F32) || same != tokens {
        return Err("is of another caption".into());
    }
    if rows.shape() != [tokens.len(), channels] {
        return Err(format!("has rows {:?}, expected [{}, {channels}]", rows.shape(), tokens.len()));
    }
    let told = metadata.metadata().as_ref().and_then(|notes| notes.get(KEY));
    if told != Some(&sha256_of_bytes(rows.data())) {
        return Err("is damaged (its numbers are not those that were written)".into());
    }
    let bits: Vec<u32> = words(rows.data());
    Ok(bits.into_iter().map(f32::from_bits).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn caption(tokens: &[u32]) -> Caption {
        let rows = (0..3 * tokens.len()).map(|i| 1.0 / (i as f32 - 2.5)).collect();
        Caption { tokens: tokens.to_vec(), rows, known: false }
    }

    fn shelf(folder: &Path, of: &str) -> Shelf {
        Shelf { folder: folder.join("captions"), of: of.into() }
    }

    fn bits(rows: Vec<f32>) -> Vec<u32> {
        rows.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn captions_come_back_bit_for_bit_and_to_their_own_encoder_only() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (shelf(dir.path(), "a"), shelf(dir.path(), "b"));
        let kept = Caption { rows: vec![-0.0, f32::MIN_POSITIVE / 8.0, 1.0, 0.1, 3e38, -7.0], ..caption(&[5, 1]) };
        assert!(one.get(&kept.tokens, 3).is_none());
        one.put(&kept);
        assert_eq!(bits(one.get(&kept.tokens, 3).unwrap()), bits(kept.rows));
        assert!(one.get(&[5, 2], 3).is_none() && one.get(&[5], 3).is_none() && one.get(&[5, 1], 4).is_none());
        assert!(other.get(&[5, 1], 3).is_none());
        one.put(&Caption { rows: vec![f32::NAN; 3], ..caption(&[9]) });
        assert!(one.get(&[9], 3).is_none(), "what a broken device made is not kept");
    }

    #[test]
    fn whatever_happened_to_a_file_it_is_never_believed() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path(), "a");
        let kept = caption(&[3, 4, 1]);
        shelf.put(&kept);
        let file = shelf.file(&kept.tokens);
        let whole = std::fs::read(&file).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            assert!(shelf.get(&kept.tokens, 3).is_none(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            std::fs::write(&file, &changed).unwrap();
            // (a space of the header may become another)
            let got = shelf.get(&kept.tokens, 3);
            assert!(got.is_none_or(|rows| bits(rows) == bits(kept.rows.clone())), "byte {at}");
        }
        shelf.put(&kept);
        assert!(shelf.get(&kept.tokens, 3).is_some(), "written again");
    }

    #[test]
    fn the_longest_unused_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path(), "a");
        let all: Vec<Caption> = (1..=4).map(|i| caption(&[i])).collect();
        all.iter().for_each(|c| shelf.put(c));
        for (c, age) in all.iter().zip([40, 30, 20, 10]) {
            let file = std::fs::File::options().append(true).open(shelf.file(&c.tokens)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        assert!(shelf.get(&[1], 3).is_some(), "used just now");
        let each = shelf.file(&[1]).metadata().unwrap().len();
        shelf.trim(2 * each);
        let left: Vec<bool> = all.iter().map(|c| shelf.file(&c.tokens).is_file()).collect();
        assert_eq!(left, [true, false, false, true]);
    }

    #[test]
    fn an_encoder_is_remembered_by_its_folder_and_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let (shelf, encoder) = (dir.path().join("captions"), dir.path().join("encoder"));
        std::fs::create_dir(&encoder).unwrap();
        let file = encoder.join("model.safetensors");
        assert!(weights(&shelf, &encoder, "c").is_none(), "never seen");
        std::fs::write(&file, "1").unwrap();
        let first = weights(&shelf, &encoder, "c").unwrap();
        std::fs::write(&file, "2").unwrap();
        let second = weights(&shelf, &encoder, "c").unwrap();
        assert_ne!(first, second);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(weights(&shelf, &encoder, "c"), Some(second), "what was there last");
        assert!(weights(&shelf, &encoder, "d").is_none() && weights(&shelf, dir.path(), "c").is_none());
        for note in std::fs::read_dir(&shelf).unwrap() {
            std::fs::write(note.unwrap().path(), "{").unwrap();
        }
        assert!(weights(&shelf, &encoder, "c").is_none(), "a damaged note is none");
    }
}
