//! Tensors to files, one after the other.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensorError};
use serde_json::{Value, json};

use super::Stored;
use super::look::{Kind, Planned, chunks, row};
use crate::error::{Error, Result};
use crate::tensor::fingerprint::told;
use crate::tensor::{Checkpoint, Entry, int8};

/// Bytes done, and whether to go on.
pub(super) struct Progress<'a>(RefCell<Work<'a>>);

struct Work<'a> {
    done: u64,
    all: u64,
    seen: &'a mut dyn FnMut(u64, u64) -> bool,
    cancelled: bool,
    /// What went wrong inside of a writer that cannot say so.
    fault: Option<Error>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(all: u64, seen: &'a mut dyn FnMut(u64, u64) -> bool) -> Self {
        Self(RefCell::new(Work { done: 0, all, seen, cancelled: false, fault: None }))
    }

    /// Some more bytes are done.
    ///
    /// # Errors
    /// [`Error::Cancelled`]
    pub(super) fn add(&self, bytes: u64) -> Result<()> {
        let mut work = self.0.borrow_mut();
        work.done += bytes;
        let (done, all) = (work.done.min(work.all), work.all);
        work.cancelled |= !(work.seen)(done, all);
        if work.cancelled { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn fail(&self, fault: Error) {
        self.0.borrow_mut().fault.get_or_insert(fault);
    }

    fn stopped(&self) -> bool {
        let work = self.0.borrow();
        work.cancelled || work.fault.is_some()
    }

    fn result(&self) -> Result<()> {
        let mut work = self.0.borrow_mut();
        match work.fault.take() {
            Some(fault) => Err(fault),
            None if work.cancelled => Err(Error::Cancelled),
            None => Ok(()),
        }
    }
}

/// A tensor of a file to be: its numbers are made when they are written.
struct Out<'a, 'p> {
    entry: Entry<'a>,
    planned: &'a Planned,
    /// The scales of the tensor, and not its bytes.
    scales: bool,
    shape: Vec<usize>,
    progress: &'a Progress<'p>,
}

impl Out<'_, '_> {
    fn bytes(&self) -> std::result::Result<Cow<'_, [u8]>, String> {
        if let (true, Kind::Bytes(scales)) = (self.scales, &self.planned.kind) {
            return Ok(scales.iter().flat_map(|s| s.to_le_bytes()).collect());
        }
        let (row, mut out) = (row(&self.entry), Vec::new());
        if !matches!(self.planned.kind, Kind::Kept) {
            out.reserve_exact(self.data_len());
        }
        let mut numbers = |each: &mut dyn FnMut(usize, f32, &mut Vec<u8>)| {
            for range in chunks(&self.entry) {
                let first = range.start;
                let widened = self.entry.widen(range)?;
                widened.into_iter().enumerate().for_each(|(i, v)| each(first + i, v, &mut out));
            }
            Ok::<_, String>(())
        };
        match &self.planned.kind {
            Kind::Kept => return Ok(self.entry.bytes()),
            Kind::Float(Stored::F32) => numbers(&mut |_, v, out| out.extend(v.to_le_bytes()))?,
            Kind::Float(Stored::Bf16) => numbers(&mut |_, v, out| out.extend(half::bf16::from_f32(v).to_le_bytes()))?,
            Kind::Float(_) => numbers(&mut |_, v, out| out.extend(half::f16::from_f32(v).to_le_bytes()))?,
            Kind::Bytes(scales) => numbers(&mut |at, v, out| out.push(int8::byte(v, scales[at / row]) as u8))?,
        }
        Ok(out.into())
    }
}

impl View for Out<'_, '_> {
    fn dtype(&self) -> Dtype {
        match &self.planned.kind {
            Kind::Kept => self.entry.dtype(),
            Kind::Bytes(_) if self.scales => Dtype::F32,
            Kind::Bytes(_) => Dtype::I8,
            Kind::Float(Stored::F32) => Dtype::F32,
            Kind::Float(Stored::Bf16) => Dtype::BF16,
            Kind::Float(_) => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.progress.stopped() {
            return Vec::new().into(); // the file is given up
        }
        let bytes = self.bytes().unwrap_or_else(|problem| {
            let (file, tensor) = (self.entry.file.to_path_buf(), Some(self.planned.told.name.clone()));
            self.progress.fail(Error::Checkpoint { file, tensor, problem });
            Vec::new().into()
        });
        // a caller that wants to stop is heard at the end of the file
        let _ = self.progress.add(if self.scales { 0 } else { self.planned.told.before });
        bytes
    }

    fn data_len(&self) -> usize {
        (self.shape.iter().product::<usize>() * self.dtype().bitsize()).div_ceil(8)
    }
}

impl Checkpoint {
    /// Writes what was planned.
    pub(super) fn write(
        &self,
        folder: &Path,
        stem: &str,
        planned: &[Planned],
        most: Option<u64>,
        progress: &Progress<'_>,
    ) -> Result<Vec<PathBuf>> {
        let shards = shards(planned, most.unwrap_or(u64::MAX));
        let name = |i: usize| match shards.len() {
            1 => format!("{stem}.safetensors"),
            n => format!("{stem}-{:05}-of-{n:05}.safetensors", i + 1),
        };
        let eight = planned.iter().any(|p| matches!(p.kind, Kind::Bytes(_)) || p.told.to == "int8");
        // one entry: a map of several would be written in another order each time. (`format` is what other readers ask for)
        let note = match eight {
            true => (int8::KEY.to_string(), json!({"version": int8::VERSION, "source": self.sources()?}).to_string()),
            false => ("format".to_string(), "pt".to_string()),
        };
        let (mut files, mut map, mut total) = (Vec::new(), BTreeMap::new(), 0);
        for (i, shard) in shards.iter().enumerate() {
            let mut tensors = Vec::new();
            for &planned in shard {
                tensors.extend(self.outs(planned, progress));
                total += planned.told.after;
            }
            map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), name(i))));
            let path = folder.join(name(i));
            let wrote = safetensors::serialize_to_file(tensors, Some(HashMap::from([note.clone()])), &path);
            let ended = progress.result();
            if ended.is_err() {
                let _ = std::fs::remove_file(&path);
            }
            ended?;
            wrote.map_err(|e| match e {
                SafeTensorError::IoError(e) => Error::io(&path, e),
                other => Error::Encode { what: path.display().to_string(), problem: other.to_string() },
            })?;
            settle(folder, &path).map_err(|e| Error::io(&path, e))?;
            files.push(path);
        }
        if shards.len() > 1 {
            let path = folder.join(format!("{stem}.safetensors.index.json"));
            let index = json!({"metadata": {"total_size": total}, "weight_map": map});
            std::fs::write(&path, format!("{index:#}\n")).map_err(|e| Error::io(&path, e))?;
            files.push(path);
        }
        Ok(files)
    }

    /// A tensor as it is written, and its scales if it has any.
    fn outs<'a, 'p>(&'a self, planned: &'a Planned, progress: &'a Progress<'p>) -> Vec<(String, Out<'a, 'p>)> {
        let (name, shape) = (&planned.told.name, &planned.told.shape);
        let out = |name: String, entry: Entry<'a>, scales: bool, shape: Vec<usize>| {
            (name, Out { entry, planned, scales, shape, progress })
        };
        let Some(entry) = self.entry(name) else { return Vec::new() };
        let beside = match &planned.kind {
            Kind::Bytes(scales) => {
                self.entry(name).map(|entry| out(int8::scale_name(name), entry, true, vec![scales.len()]))
            }
            // bytes that are kept keep their scales
            Kind::Kept if planned.told.to == "int8" => self.entry(&int8::scale_name(name)).map(|entry| {
                let shape = entry.shape.to_vec();
                out(int8::scale_name(name), entry, true, shape)
            }),
            _ => None,
        };
        std::iter::once(out(name.clone(), entry, false, shape.clone())).chain(beside).collect()
    }

    /// The files this was read from, with what tells them from others.
    fn sources(&self) -> Result<Value> {
        let named = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let each = self.paths().filter(|path| path.is_file()).map(|path| Ok((named(path), told(path)?)));
        Ok(Value::Object(each.collect::<Result<_>>()?))
    }
}

/// Tensors in the order of their names, into files of at most so many bytes.
fn shards(planned: &[Planned], most: u64) -> Vec<Vec<&Planned>> {
    let (mut shards, mut bytes) = (vec![Vec::new()], 0);
    for tensor in planned {
        if bytes > 0 && bytes + tensor.told.after > most {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += tensor.told.after;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}

/// The file is on the disk, and readable by whom its folder is.
fn settle(folder: &Path, path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = folder.metadata()?.permissions().mode() & 0o666;
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    }
    #[cfg(not(unix))]
    let _ = folder;
    std::fs::File::open(path)?.sync_all()
}
