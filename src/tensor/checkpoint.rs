//! Checkpoint files: safetensors, single or sharded, memory-mapped.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};

/// The weights of one part of a model: one safetensors file, or shards joined by an index.
pub struct Checkpoint {
    files: Vec<(PathBuf, memmap2::Mmap)>,
    entries: BTreeMap<String, Place>,
    outline: bool,
}

struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: std::ops::Range<usize>,
}

/// One stored tensor, not yet on any device.
pub struct Entry<'a> {
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// The file it is in.
    pub file: &'a Path,
    dtype: Dtype,
    bytes: &'a [u8],
}

/// File names the hub's layouts use, in the order they are tried.
const SINGLE: [&str; 2] = ["model.safetensors", "diffusion_pytorch_model.safetensors"];
const INDEX: [&str; 2] = ["model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json"];

impl Checkpoint {
    /// Opens a safetensors file, or a folder holding one (or an index and its shards).
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Checkpoint`] if it is truncated, malformed, or lists
    /// shards outside its folder.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Self::join(&[path.to_path_buf()], None);
        }
        if !path.is_dir() {
            return Err(Error::checkpoint(path, "there is no such file or folder"));
        }
        if let Some(single) = SINGLE.iter().map(|n| path.join(n)).find(|p| p.is_file()) {
            return Self::join(&[single], None);
        }
        if let Some(index) = INDEX.iter().map(|n| path.join(n)).find(|p| p.is_file()) {
            return Self::sharded(path, &index);
        }
        Err(Error::checkpoint(
            path,
            format!(
                "holds none of {}, {}; is this the folder of one part of a model?",
                SINGLE.join(", "),
                INDEX.join(", ")
            ),
        ))
    }

    fn sharded(folder: &Path, index: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: HashMap<String, String>,
        }
        let text = std::fs::read_to_string(index).map_err(|e| Error::io(index, e))?;
        let parsed: Index =
            serde_json::from_str(&text).map_err(|e| Error::checkpoint(index, format!("is no index of shards: {e}")))?;
        let mut shards: Vec<&String> = parsed.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for name in &shards {
            let plain = Path::new(name).components().count() == 1 && !name.contains(['/', '\\']) && *name != "..";
            if !plain {
                return Err(Error::checkpoint(index, format!("points to `{name}`, which is outside its folder")));
            }
        }
        let paths: Vec<PathBuf> = shards.iter().map(|n| folder.join(n)).collect();
        Self::join(&paths, Some((index, &parsed.weight_map)))
    }

    fn join(paths: &[PathBuf], index: Option<(&Path, &HashMap<String, String>)>) -> Result<Self> {
        let mut joined = Self { files: Vec::new(), entries: BTreeMap::new(), outline: false };
        for path in paths {
            let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
            let map = map(&file).map_err(|e| Error::io(path, e))?;
            let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
                Error::checkpoint(path, format!("is no complete safetensors file ({e}); download it again?"))
            })?;
            let start = header + 8;
            for (name, info) in metadata.tensors() {
                let (from, to) = info.data_offsets;
                let place = Place {
                    file: joined.files.len(),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    bytes: start + from..start + to,
                };
                if place.bytes.end > map.len() {
                    return Err(Error::checkpoint(
                        path,
                        format!("ends before tensor `{name}` does; download it again?"),
                    ));
                }
                joined.entries.insert(name, place);
            }
            joined.files.push((path.clone(), map));
        }
        if let Some((index, listed)) = index {
            for (name, shard) in listed {
                if !joined.entries.contains_key(name) {
                    return Err(Error::checkpoint(
                        index,
                        format!("promises `{name}` in `{shard}`, which does not hold it"),
                    ));
                }
            }
        }
        Ok(joined)
    }

    /// The names and shapes of a checkpoint without its numbers, from JSON such as `{"conv.bias": [8]}`: loading
    /// a model from it checks every name and shape it asks for. Entries that are no list of sizes are notes.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Checkpoint`] if it is no JSON object.
    pub fn outline(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        let map = map(&file).map_err(|e| Error::io(path, e))?;
        let listed: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&map).map_err(|e| Error::checkpoint(path, format!("is no list of tensors: {e}")))?;
        let entries = listed
            .into_iter()
            .filter_map(|(name, sizes)| Some((name, serde_json::from_value(sizes).ok()?)))
            .map(|(name, shape)| (name, Place { file: 0, dtype: Dtype::F32, shape, bytes: 0..0 }))
            .collect();
        Ok(Self { files: vec![(path.to_path_buf(), map)], entries, outline: true })
    }

    /// A checkpoint without tensors.
    pub(super) fn empty() -> Self {
        Self { files: Vec::new(), entries: BTreeMap::new(), outline: false }
    }

    /// Whether there are names and shapes only.
    pub(super) fn is_outline(&self) -> bool {
        self.outline
    }

    /// The file (of several, the first), for messages.
    pub fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |f| &f.0)
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A tensor, if the file has it.
    pub fn entry(&self, name: &str) -> Option<Entry<'_>> {
        let place = self.entries.get(name)?;
        let (path, map) = &self.files[place.file];
        Some(Entry { shape: &place.shape, file: path, dtype: place.dtype, bytes: &map[place.bytes.clone()] })
    }
}

fn map(file: &std::fs::File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is read-only; a file changed by somebody else while we read gives wrong
    // numbers or a fault, as with any reader of mapped checkpoints.
    unsafe { memmap2::Mmap::map(file) }
}

impl Entry<'_> {
    /// Whether the numbers are stored as IEEE halves.
    pub fn is_f16(&self) -> bool {
        self.dtype == Dtype::F16
    }

    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The numbers from `range`, widened to f32.
    ///
    /// # Errors
    /// The name of a type that is no float this crate reads.
    ///
    /// # Panics
    /// If the range is outside the tensor.
    pub fn widen(&self, range: std::ops::Range<usize>) -> std::result::Result<Vec<f32>, String> {
        let size = match self.dtype {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            Dtype::F16 | Dtype::BF16 => 2,
            other => return Err(format!("{other:?}")),
        };
        let bytes = &self.bytes[range.start * size..range.end * size];
        Ok(match self.dtype {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            _ => bytes
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
                .collect(),
        })
    }
}
