//! Checkpoint files: safetensors or what `torch.save` writes, single or sharded, memory-mapped.

mod folder;
mod pickle;
mod safe;
mod torch;
mod zip;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::int8;
use crate::error::{Error, Result};

/// Longest name of a tensor, in bytes: names end up in messages.
const NAME: usize = 1024;
/// Most characters of somebody else's text in a message.
const TOLD: usize = 200;

/// What somebody else's text is in a message: the beginning, without anything that speaks to terminals.
fn told(text: impl std::fmt::Display) -> String {
    let text = text.to_string();
    let more = if text.chars().nth(TOLD).is_some() { "…" } else { "" };
    let plain = text.chars().take(TOLD).map(|c| if c.is_control() { '\u{fffd}' } else { c });
    plain.chain(more.chars()).collect()
}

/// The weights of one part of a model: one file of safetensors or of torch, or shards joined by an index.
///
/// What is in a file decides how it is read, not its name. Of a torch file (`.bin`, `.pt`, `.pth`, in the zip format
/// that torch writes since 1.6) only tensors are read, nothing in it is run; those that are not stored row by row come
/// out as if they were.
pub struct Checkpoint {
    files: Vec<(PathBuf, Bytes)>,
    entries: BTreeMap<String, Place>,
    outline: bool,
}

/// The bytes of a file.
enum Bytes {
    Map(memmap2::Mmap),
    Held(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Held(bytes) => bytes,
        }
    }
}

struct Place {
    file: usize,
    layout: Layout,
}

/// How and where the numbers of a tensor are stored.
struct Layout {
    dtype: Dtype,
    shape: Vec<usize>,
    /// In numbers; `None` if they follow each other row by row.
    strides: Option<Vec<usize>>,
    /// From the first number to the last one.
    bytes: Range<usize>,
}

/// A tensor of a file.
type Found = (String, Layout);

/// What is wrong with a file, or with one tensor of it.
#[derive(Debug)]
struct Fault {
    tensor: Option<String>,
    problem: String,
}

impl Fault {
    fn of_file(problem: impl Into<String>) -> Self {
        Self { tensor: None, problem: problem.into() }
    }

    fn at(self, file: &Path) -> Error {
        Error::Checkpoint { file: file.to_path_buf(), tensor: self.tensor, problem: self.problem }
    }
}

impl From<String> for Fault {
    fn from(problem: String) -> Self {
        Self::of_file(problem)
    }
}

/// One stored tensor, not yet on any device.
pub struct Entry<'a> {
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// The file it is in.
    pub file: &'a Path,
    dtype: Dtype,
    strides: Option<&'a [usize]>,
    bytes: &'a [u8],
    /// Of bytes, the tensor that says what they are times.
    scale: Option<Box<Entry<'a>>>,
}

impl Checkpoint {
    /// Endings of the names of files that hold weights.
    pub const ENDINGS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "ckpt"];

    /// Whether the name of a file ends as those of weights do.
    pub fn is_name(path: &Path) -> bool {
        path.extension().is_some_and(|e| Self::ENDINGS.iter().any(|known| e.eq_ignore_ascii_case(known)))
    }

    /// Opens a file, or a folder holding one (or an index and its shards): of the names that hubs use, safetensors
    /// before torch files and single files before shards; else the only file that [`Checkpoint::is_name`].
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Checkpoint`] if it is truncated, malformed, asks for more than
    /// tensors, or lists shards outside its folder, and if it is not clear which file is meant.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Self::join(&[path.to_path_buf()], None);
        }
        if !path.is_dir() {
            return Err(Error::checkpoint(path, "there is no such file or folder"));
        }
        let (file, is_index) = folder::look(path)?;
        if !is_index {
            return Self::join(&[file], None);
        }
        let map = folder::read_index(&file)?;
        let shards: std::collections::BTreeSet<&String> = map.values().collect();
        let paths: Vec<PathBuf> = shards.iter().map(|n| path.join(n)).collect();
        Self::join(&paths, Some((&file, &map)))
    }

    /// Of the names of a folder's files those that [`Checkpoint::open`] would read there, an index among them.
    pub fn files_of<'a>(names: &[&'a str]) -> Vec<&'a str> {
        folder::wanted(names)
    }

    /// Whether the names of a folder's files are those of a whole checkpoint: none of several shards is lacking.
    pub fn is_whole(names: &[&str]) -> bool {
        folder::is_whole(names)
    }

    /// This checkpoint and another one, whose tensors are named `prefix.` and their own names: parts of a model that
    /// are stored apart.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if both have a tensor of the same name.
    pub fn with(mut self, prefix: &str, other: Self) -> Result<Self> {
        let first = self.files.len();
        for (name, place) in other.entries {
            let (full, file) = (format!("{prefix}.{name}"), &other.files[place.file].0);
            if let Some(twin) = self.entries.get(&full) {
                let problem = format!(
                    "is `{full}` of `{}` too, and which is meant cannot be told; leave one of the two out",
                    self.files[twin.file].0.display()
                );
                return Err(Error::Checkpoint { file: file.clone(), tensor: Some(name), problem });
            }
            self.entries.insert(full, Place { file: first + place.file, layout: place.layout });
        }
        self.files.extend(other.files);
        self.outline |= other.outline;
        Ok(self)
    }

    /// A checkpoint in memory; `name` is what messages call it.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Self> {
        let mut one = Self::empty();
        one.add(name.into(), Bytes::Held(bytes))?;
        Ok(one)
    }

    fn join(paths: &[PathBuf], index: Option<(&Path, &HashMap<String, String>)>) -> Result<Self> {
        let mut joined = Self::empty();
        for path in paths {
            joined.add(path.clone(), map(path)?)?;
        }
        let Some((index, listed)) = index else { return Ok(joined) };
        for (name, shard) in listed {
            let place = joined.entries.get(name).map(|place| &joined.files[place.file].0);
            if place.and_then(|p| p.file_name()).is_none_or(|found| found != shard.as_str()) {
                let shard = told(shard);
                let problem = format!("is promised in `{shard}`, which does not hold it; is a shard from elsewhere?");
                return Err(Error::Checkpoint { file: index.into(), tensor: Some(told(name)), problem });
            }
        }
        Ok(joined)
    }

    /// Adds the tensors of one more file.
    fn add(&mut self, path: PathBuf, bytes: Bytes) -> Result<()> {
        let read = if torch::is_ours(&bytes) { torch::read } else { safe::read };
        for (name, layout) in read(&bytes).map_err(|fault| fault.at(&path))? {
            if name.len() > NAME || name.contains(char::is_control) {
                let name = told(name);
                let problem = format!("has a tensor named `{name}`, expected {NAME} plain characters at most");
                return Err(Error::checkpoint(path, problem));
            }
            if let Some(twin) = self.entries.get(&name) {
                let other = &self.files[twin.file].0;
                let problem = format!("is in `{}` too, and which is meant cannot be told; remove one", other.display());
                return Err(Error::Checkpoint { file: path, tensor: Some(name), problem });
            }
            self.entries.insert(name, Place { file: self.files.len(), layout });
        }
        self.files.push((path, bytes));
        Ok(())
    }

    /// The names and shapes of a checkpoint without its numbers, from JSON such as `{"conv.bias": [8]}`: loading
    /// a model from it checks every name and shape it asks for. Entries that are no list of sizes are notes.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Checkpoint`] if it is no JSON object.
    pub fn outline(path: &Path) -> Result<Self> {
        let map = map(path)?;
        let listed: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&map).map_err(|e| Error::checkpoint(path, format!("is no list of tensors: {e}")))?;
        let entries = listed
            .into_iter()
            .filter_map(|(name, sizes)| Some((name, serde_json::from_value(sizes).ok()?)))
            .map(|(name, shape)| {
                (name, Place { file: 0, layout: Layout { dtype: Dtype::F32, shape, strides: None, bytes: 0..0 } })
            })
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

    /// All files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A tensor, if the file has it.
    pub fn entry(&self, name: &str) -> Option<Entry<'_>> {
        let place = self.entries.get(name)?;
        let (file, bytes) = &self.files[place.file];
        let Layout { dtype, shape, strides, bytes: range } = &place.layout;
        let scale = (*dtype == Dtype::I8).then(|| self.entry(&int8::scale_name(name))).flatten().map(Box::new);
        Some(Entry { shape, file, dtype: *dtype, strides: strides.as_deref(), bytes: &bytes[range.clone()], scale })
    }

    /// Whether a tensor only says how to read another, whose numbers are kept in eight bits.
    pub fn is_scale(&self, name: &str) -> bool {
        let of = name.strip_suffix(int8::SUFFIX).and_then(|of| self.entries.get(of));
        of.is_some_and(|of| of.layout.dtype == Dtype::I8) && self.entries.contains_key(name)
    }
}

/// How many bytes a file has that is a file: what is none may have no end, and opening a pipe waits for its other one.
///
/// # Errors
/// [`Error::Checkpoint`] if it is none, or a link to what is not there; [`Error::Io`].
pub(crate) fn bytes_of_file(path: &Path) -> Result<u64> {
    if let (Ok(to), false) = (path.read_link(), path.exists()) {
        let problem = format!("is a link to `{}`, which is not there; download it again?", told(to.display()));
        return Err(Error::checkpoint(path, problem));
    }
    let about = path.metadata().map_err(|e| Error::io(path, e))?;
    if about.is_file() { Ok(about.len()) } else { Err(Error::checkpoint(path, "is no file; is this a checkpoint?")) }
}

/// Maps a file into memory.
fn map(path: &Path) -> Result<Bytes> {
    let io = |e| Error::io(path, e);
    bytes_of_file(path)?;
    let file = std::fs::File::open(path).map_err(io)?;
    // SAFETY: the map is read-only; a file changed by somebody else while we read gives wrong
    // numbers or a fault, as with any reader of mapped checkpoints.
    Ok(Bytes::Map(unsafe { memmap2::Mmap::map(&file) }.map_err(io)?))
}

impl Entry<'_> {
    /// How the numbers are stored.
    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Bytes of the numbers, and of what they are times.
    pub fn stored_bytes(&self) -> u64 {
        let numbers: usize = self.shape.iter().product();
        (numbers * self.dtype.bitsize()).div_ceil(8) as u64 + self.scale.as_ref().map_or(0, |s| s.stored_bytes())
    }

    /// Whether another tensor holds the same numbers, stored in the same way.
    pub(super) fn equals(&self, other: &Entry<'_>) -> bool {
        let scales = match (&self.scale, &other.scale) {
            (Some(a), Some(b)) => a.equals(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        scales && self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }

    /// Whether the numbers are stored as IEEE halves.
    pub fn is_f16(&self) -> bool {
        self.dtype == Dtype::F16
    }

    /// How the numbers are stored: `f32`, `f16`, `bf16`, `f64`, `int8` (bytes with a scale), else as safetensors has it.
    pub fn type_name(&self) -> String {
        match (self.dtype, &self.scale) {
            (Dtype::I8, Some(_)) => "int8".into(),
            (other, _) => format!("{other:?}").to_lowercase(),
        }
    }

    /// What the bytes of each row are times; `None` of a tensor that is no bytes.
    ///
    /// # Errors
    /// What is wrong with the scales, for a message that names the tensor.
    pub fn scales(&self) -> std::result::Result<Option<Vec<f32>>, String> {
        match self.dtype {
            Dtype::I8 => self.scales_of(0..self.shape.first().copied().unwrap_or(1)).map(Some),
            _ => Ok(None),
        }
    }

    fn scales_of(&self, rows: Range<usize>) -> std::result::Result<Vec<f32>, String> {
        let all = self.shape.first().copied().unwrap_or(1);
        let suffix = int8::SUFFIX;
        let Some(scale) = &self.scale else {
            return Err(format!(
                "is stored as I8 without the tensor of the same name and `{suffix}`, f32 [{all}], expected a float type or \
                 both; convert the weights again?"
            ));
        };
        if scale.dtype != Dtype::F32 || scale.shape != [all] {
            let (dtype, shape) = (scale.dtype, scale.shape);
            return Err(format!("has scales (`{suffix}`) of type {dtype:?} {shape:?}, expected F32 [{all}]"));
        }
        let (first, scales) = (rows.start, scale.widen(rows)?);
        match scales.iter().position(|s| !s.is_finite() || *s < 0.0) {
            Some(i) => {
                let (row, found) = (first + i, scales[i]);
                Err(format!(
                    "has the scale {found} for row {row}, expected finite numbers from 0; is the file damaged?"
                ))
            }
            None => Ok(scales),
        }
    }

    /// The raw little-endian bytes, row by row.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self.strides {
            None => self.bytes.into(),
            Some(_) => self.stored(0..self.shape.iter().product(), self.dtype.bitsize() / 8),
        }
    }

    /// The bytes of numbers of `size` bytes each, gathered if they do not lie together.
    fn stored(&self, range: Range<usize>, size: usize) -> Cow<'_, [u8]> {
        let Some(strides) = self.strides else { return self.bytes[range.start * size..range.end * size].into() };
        let place = |number: usize| {
            let axes = self.shape.iter().zip(strides).rev();
            axes.fold((0, number), |(at, rest), (size, stride)| (at + rest % size * stride, rest / size)).0
        };
        range.flat_map(|n| &self.bytes[place(n) * size..][..size]).copied().collect()
    }

    /// The numbers from `range`, widened to f32.
    ///
    /// # Errors
    /// What is wrong with their type, for a message that names the tensor.
    ///
    /// # Panics
    /// If the range is outside the tensor.
    pub fn widen(&self, range: Range<usize>) -> std::result::Result<Vec<f32>, String> {
        let size = match self.dtype {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::I8 => return self.widen_bytes(range),
            other => return Err(format!("is stored as {other:?}, expected a float type")),
        };
        let bytes = self.stored(range, size);
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

    fn widen_bytes(&self, range: Range<usize>) -> std::result::Result<Vec<f32>, String> {
        let row = self.shape.iter().skip(1).product::<usize>().max(1);
        let first = range.start / row;
        let scales = self.scales_of(first..range.end.div_ceil(row).max(first))?;
        let numbers = self.stored(range.clone(), 1);
        Ok(range.zip(numbers.iter()).map(|(at, &q)| f32::from(q as i8) * scales[at / row - first]).collect())
    }
}
