//! Checkpoints written anew, their numbers kept otherwise: what is to become of each tensor is found out first, by looking
//! at all of its numbers; then they are written one after the other. No more than one tensor is in memory at a time.
//!
//! Only matrices are converted, of at least [`LEAST`] numbers: the rest is a few percent at most of any model, feeds sums
//! in f32, and is kept as it is stored (`f32` widens everything). Eight bits are for matrices that products read, the
//! others become halves; see the description of the format in `tensor/int8.rs`.
//!
//! Tried and refused, measured with the shipped model: scales below max|row| / 127 that make the squared error of a row
//! least (20 of them from 0.6 on: captions to five digits the same, videos within half a decibel either way: with 255 steps
//! there is next to nothing to gain); the table of a text encoder in eight bits (1 % of T5 XXL's bytes, captions 2.7 % off in place of 1.5 %).

mod look;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use look::{Kind, Planned};
use write::Progress;

use super::Checkpoint;
use super::int8::scale_name;
use crate::error::{Error, Result};

/// Tensors of fewer numbers are kept as they are stored.
const LEAST: usize = 4096;

/// How numbers of a file are to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// Signed bytes with a scale for each output, where products read them; halves elsewhere.
    Int8,
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stored::F32 => "f32",
            Stored::F16 => "f16",
            Stored::Bf16 => "bf16",
            Stored::Int8 => "int8",
        })
    }
}

impl FromStr for Stored {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let all = [Stored::F32, Stored::F16, Stored::Bf16, Stored::Int8];
        let found = all.into_iter().find(|known| known.to_string() == s);
        found.ok_or_else(|| format!("unknown number type `{s}`; known: f32, f16, bf16, int8"))
    }
}

/// What a checkpoint is to become.
#[derive(Clone, Copy, Debug)]
pub struct Conversion<'a> {
    /// How numbers are to be kept; `None`: as they are.
    pub to: Option<Stored>,
    /// Names for one and the same table, of which a reader needs any: equal ones are written once. It is read by rows, on
    /// the host, and never kept in eight bits.
    pub table: &'a [&'a str],
    /// Most bytes of one file, if there may be several; a tensor that is larger has one of its own.
    pub shard: Option<u64>,
}

/// What became of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvertedTensor {
    /// Its name.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// How it was kept …
    pub from: String,
    /// … and how it is now.
    pub to: String,
    /// Bytes it had …
    pub before: u64,
    /// … and has now, with its scales.
    pub after: u64,
    /// The root of the sum of squared errors over that of squared numbers.
    pub error: f64,
    /// Why it is kept otherwise than was asked for.
    pub note: Option<String>,
}

/// What became of a checkpoint.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The files, the index of several last.
    pub files: Vec<PathBuf>,
    /// All tensors, by name.
    pub tensors: Vec<ConvertedTensor>,
}

impl Converted {
    /// Bytes of all numbers before …
    pub fn before(&self) -> u64 {
        self.tensors.iter().map(|t| t.before).sum()
    }

    /// … and after.
    pub fn after(&self) -> u64 {
        self.tensors.iter().map(|t| t.after).sum()
    }

    /// The tensor with the largest relative error, if any has one.
    pub fn worst(&self) -> Option<&ConvertedTensor> {
        self.tensors.iter().filter(|t| t.error > 0.0).max_by(|a, b| a.error.total_cmp(&b.error))
    }
}

impl Checkpoint {
    /// Writes this checkpoint into a folder as `STEM.safetensors`, or as shards `STEM-00001-of-0000N.safetensors` and
    /// their index if it is larger than one may be. Every file is whole before it gets its name, the index last.
    /// `seen` gets the bytes of work done and all, and says whether to go on.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Io`] if the system refuses; [`Error::Checkpoint`] if weights in eight bits have no
    /// sound scales.
    pub fn convert(
        &self,
        folder: &Path,
        stem: &str,
        how: &Conversion<'_>,
        seen: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Converted> {
        let names = self.written(how.table);
        let all = 2 * names.iter().filter_map(|n| self.entry(n)).map(|e| e.stored_bytes()).sum::<u64>();
        let progress = Progress::new(all, seen);
        let mut planned = Vec::with_capacity(names.len());
        for name in names {
            let plan = self.look(name, how)?;
            let scales = scale_name(name);
            if matches!(plan.kind, Kind::Bytes(_)) && !self.is_scale(&scales) && self.entry(&scales).is_some() {
                let problem = format!("would get scales named `{scales}`, which is another tensor; keep it in halves");
                let file = self.entry(name).map_or(self.path(), |e| e.file).to_path_buf();
                return Err(Error::Checkpoint { file, tensor: Some(name.into()), problem });
            }
            planned.push(plan);
            progress.add(planned.last().map_or(0, |p: &Planned| p.told.before))?;
        }
        let files = self.write(folder, stem, &planned, how.shard, &progress)?;
        Ok(Converted { files, tensors: planned.into_iter().map(|p| p.told).collect() })
    }

    /// The names of what is written: no scales of their own, and of an equal pair the first.
    fn written(&self, table: &[&str]) -> Vec<&str> {
        let tables: Vec<_> = table.iter().filter_map(|name| Some((*name, self.entry(name)?))).collect();
        let again = |name: &str| {
            let at = tables.iter().position(|(n, _)| *n == name);
            at.is_some_and(|at| tables[..at].iter().any(|(_, earlier)| earlier.equals(&tables[at].1)))
        };
        self.names().filter(|name| !self.is_scale(name) && !again(name)).collect()
    }

    /// What is to become of a tensor.
    fn look(&self, name: &str, how: &Conversion<'_>) -> Result<Planned> {
        let wrong = |problem: String| Error::Checkpoint {
            file: self.entry(name).map_or(self.path(), |e| e.file).to_path_buf(),
            tensor: Some(name.into()),
            problem,
        };
        let entry = self.entry(name).ok_or_else(|| wrong("is missing".into()))?;
        look::look(&entry, name, how).map_err(wrong)
    }
}
