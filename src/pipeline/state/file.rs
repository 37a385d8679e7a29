//! A state as a file: safetensors, with a head in JSON.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::super::Caption;
use super::super::video::{GivenLatents, Latents};
use super::{Head, State, Stored};
use crate::error::{Error, Result};
use crate::gpu::DType;

/// The version that is written and read.
const VERSION: u32 = 1;
/// Most bytes of the file's own header, the head included.
const HEADER: u64 = 64 << 20;

/// The head as it is written.
#[derive(serde::Serialize, serde::Deserialize)]
struct Whole<H, N> {
    v: u32,
    head: H,
    note: N,
}

/// What is looked at before the rest is understood.
#[derive(serde::Deserialize)]
struct Versioned {
    v: u32,
}

impl State {
    /// Where what is no tensor is among the metadata of the file, as JSON.
    pub const KEY: &str = "residua.state";

    /// As the bytes of a file.
    ///
    /// # Errors
    /// [`Error::Encode`] if they cannot be put together.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let failed = |problem: String| Error::Encode { what: "state".into(), problem };
        let whole = Whole { v: VERSION, head: &self.head, note: &self.note };
        let head = serde_json::to_string(&whole).map_err(|e| failed(e.to_string()))?;
        let mut views = Vec::new();
        let mut add = |name: String, dtype: Dtype, shape: Vec<usize>, bytes| {
            views.push((name, TensorView::new(dtype, shape, bytes).map_err(|e| failed(e.to_string()))?));
            Ok(())
        };
        let mut numbers = |name: String, shape: Vec<usize>, numbers| {
            add(name, Dtype::F32, shape, bytemuck::cast_slice::<f32, u8>(numbers))
        };
        numbers("latent".into(), vec![self.latent.len()], &self.latent)?;
        if let Some(start) = &self.start {
            numbers("start".into(), vec![start.len()], start)?;
        }
        let given = self.given.0.iter().enumerate().map(|(i, given)| (format!("given.{i}"), given));
        for (name, latents) in given.chain(self.made.iter().map(|made| ("made".into(), made))) {
            numbers(name, frames_and_cells(latents), &latents.numbers)?;
        }
        for (i, caption) in self.captions.iter().enumerate() {
            let tokens = caption.tokens.len();
            numbers(format!("caption.{i}"), vec![tokens, caption.rows.len() / tokens.max(1)], &caption.rows)?;
        }
        for (i, Stored { dtype, shape, bytes }) in self.cache.iter().enumerate() {
            let dtype = match dtype {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
            };
            add(format!("cache.{i}"), dtype, shape.clone(), bytes)?;
        }
        // one entry: a map of several would be written in another order each time
        let metadata = HashMap::from([(Self::KEY.to_string(), head)]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| failed(e.to_string()))
    }

    /// Whether bytes begin as a state's do, whatever else is wrong with them.
    fn is_state(bytes: &[u8]) -> bool {
        let size = header(bytes).unwrap_or(0) as usize;
        let header = bytes.get(8..).map(|rest| &rest[..size.min(rest.len())]).unwrap_or_default();
        header.windows(Self::KEY.len()).any(|part| part == Self::KEY.as_bytes())
    }

    /// Reads the bytes of a file; `name` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if they are no state, of another version, cut short or damaged.
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: &[u8]) -> Result<Self> {
        let name = name.into();
        let wrong = |problem: String| Error::checkpoint(&name, problem);
        let no_state =
            |why: &str| wrong(format!("is no state of a run ({why}); `generate --save-state` writes such files"));
        if header(bytes).is_none() {
            return Err(no_state("it does not begin as safetensors do"));
        }
        let cut = |e: safetensors::SafeTensorError| match State::is_state(bytes) {
            true => wrong(format!("is damaged or cut short ({e})")),
            false => no_state("it holds no safetensors"),
        };
        let file = SafeTensors::deserialize(bytes).map_err(cut)?;
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(cut)?;
        let Some(head) = metadata.metadata().as_ref().and_then(|m| m.get(Self::KEY)) else {
            return Err(no_state("other tensors are in it"));
        };
        let damaged = |e: serde_json::Error| wrong(format!("has a damaged head: {e}"));
        let Versioned { v } = serde_json::from_str(head).map_err(damaged)?;
        if v != VERSION {
            let problem = format!(
                "is of version {v}, this program reads version {VERSION}; go on with the program that wrote it"
            );
            return Err(wrong(problem));
        }
        let Whole { head, note, .. } = serde_json::from_str::<Whole<Head, Value>>(head).map_err(damaged)?;
        let mut tensors = Tensors::read(&name, &file)?;
        let captions = (0..head.tokens.len()).map(|i| {
            let (tokens, rows) = tensors.numbers(&format!("caption.{i}"), 2)?;
            if tokens != head.tokens[i].len() {
                return Err(wrong(format!("has {tokens} rows for the {} tokens of caption {i}", head.tokens[i].len())));
            }
            Ok(Caption { tokens: head.tokens[i].clone(), rows, known: true })
        });
        let captions = captions.collect::<Result<Vec<_>>>()?;
        if let Some(&lost) = head.captions.iter().find(|&&number| number >= captions.len()) {
            return Err(wrong(format!("has no caption {lost}")));
        }
        let mut given = Vec::new();
        while tensors.has(&format!("given.{}", given.len())) {
            given.push(tensors.latents(&format!("given.{}", given.len()))?);
        }
        let made = if tensors.has("made") { Some(tensors.latents("made")?) } else { None };
        let start = if tensors.has("start") { Some(tensors.numbers("start", 1)?.1) } else { None };
        let latent = tensors.numbers("latent", 1)?.1;
        let mut cache = Vec::new();
        while let Some(stored) = tensors.by_name.remove(&format!("cache.{}", cache.len())) {
            cache.push(stored);
        }
        if let Some(more) = tensors.by_name.keys().next() {
            return Err(wrong(format!("holds a tensor that no state has (one of {} characters)", more.len())));
        }
        Ok(Self { note, head, captions, given: GivenLatents(given), made, start, latent, cache, name })
    }
}

/// Size of the header, if it can be one.
fn header(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)).filter(|&size| size <= HEADER)
}

/// `[frames, numbers of a frame]`; the numbers lie channel by channel all the same.
fn frames_and_cells(latents: &Latents) -> Vec<usize> {
    vec![latents.frames, latents.numbers.len() / latents.frames.max(1)]
}

/// The tensors of a file that have not been asked for yet.
struct Tensors<'a> {
    file: &'a Path,
    by_name: BTreeMap<String, Stored>,
}

impl<'a> Tensors<'a> {
    fn read(file: &'a Path, tensors: &SafeTensors<'_>) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for (name, view) in tensors.tensors() {
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                other => {
                    return Err(Error::checkpoint(
                        file,
                        format!("holds numbers stored as {other:?}, no state has such"),
                    ));
                }
            };
            by_name.insert(name, Stored { dtype, shape: view.shape().to_vec(), bytes: view.data().to_vec() });
        }
        Ok(Self { file, by_name })
    }

    fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// A tensor of so many axes, f32 and finite: its first size, and its numbers.
    fn numbers(&mut self, name: &str, axes: usize) -> Result<(usize, Vec<f32>)> {
        let file = self.file;
        let wrong = |problem: String| Error::Checkpoint { file: file.into(), tensor: Some(name.into()), problem };
        let Some(stored) = self.by_name.remove(name) else { return Err(wrong("is missing".into())) };
        if stored.dtype != DType::F32 || stored.shape.len() != axes {
            let (dtype, shape) = (stored.dtype, stored.shape);
            return Err(wrong(format!("is {dtype:?}{shape:?}, expected F32 with {axes} axes")));
        }
        let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(&stored.bytes);
        match numbers.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(wrong(format!("holds {} (number {at})", numbers[at]))),
            None => Ok((stored.shape[0], numbers)),
        }
    }

    fn latents(&mut self, name: &str) -> Result<Latents> {
        let (frames, numbers) = self.numbers(name, 2)?;
        Ok(Latents { frames, numbers })
    }
}
