//! Walking a checkpoint by path, with shapes asked for at load.

use std::sync::Arc;

use super::{Checkpoint, DType, Entry, Shape, Tensor};
use crate::error::{Error, Result};
use crate::gpu::Gpu;

/// A place in a checkpoint: a prefix such as `spatial_blocks.3.attn`, and where its tensors go.
#[derive(Clone)]
pub struct Weights {
    gpu: Gpu,
    checkpoint: Arc<Checkpoint>,
    prefix: String,
    /// What a mismatch probably means, for messages.
    hint: &'static str,
}

impl Weights {
    /// The root of a checkpoint; `hint` ends the message of a missing or mis-shaped tensor.
    pub fn new(gpu: &Gpu, checkpoint: Arc<Checkpoint>, hint: &'static str) -> Self {
        Self { gpu: gpu.clone(), checkpoint, prefix: String::new(), hint }
    }

    /// The device tensors go to.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// A place below this one.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: self.full(&name.to_string()), ..self.clone() }
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.into() } else { format!("{}.{name}", self.prefix) }
    }

    /// Whether a tensor of this name is there.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.entry(&self.full(name)).is_some()
    }

    /// The sizes of a tensor that may be there.
    pub fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        self.checkpoint.entry(&self.full(name)).map(|e| e.shape.to_vec())
    }

    fn wrong(&self, name: &str, problem: String) -> Error {
        let file = self.checkpoint.entry(name).map_or(self.checkpoint.path(), |e| e.file).to_path_buf();
        Error::Checkpoint { file, tensor: Some(name.into()), problem: format!("{problem}; {}", self.hint) }
    }

    fn entry(&self, name: &str, shape: &Shape) -> Result<(String, Entry<'_>)> {
        let full = self.full(name);
        match self.checkpoint.entry(&full) {
            None => {
                let near = self.nearest(&full);
                Err(self.wrong(&full, format!("is missing, expected {shape}{near}")))
            }
            Some(found) if found.shape != shape.dims() => {
                Err(self.wrong(&full, format!("is {:?}, expected {shape}", found.shape)))
            }
            Some(found) => Ok((full, found)),
        }
    }

    /// The stored name that shares the longest beginning, as a clue.
    fn nearest(&self, name: &str) -> String {
        let common = |other: &str| name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        self.checkpoint
            .names()
            .max_by_key(|other| common(other))
            .map(|other| format!(" (nearest name in the file: `{other}`)"))
            .unwrap_or_default()
    }

    /// The numbers on the host, widened to f32.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the tensor is missing or has another shape or an unknown type.
    pub fn host(&self, name: &str, shape: impl Into<Shape>) -> Result<Vec<f32>> {
        let shape = shape.into();
        let (full, entry) = self.entry(name, &shape)?;
        entry.widen(0..shape.count()).map_err(|dtype| self.wrong(&full, format!("is stored as {dtype}, expected a float type")))
    }

    /// A vector or small table as f32: biases, norms, modulation.
    ///
    /// # Errors
    /// As [`Weights::host`].
    pub fn get(&self, name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        Ok(self.gpu.upload(&self.host(name, shape.clone())?, shape))
    }

    /// A matrix, kept as halves where the file holds halves, else as f32 (bf16 is widened).
    ///
    /// # Errors
    /// As [`Weights::host`].
    pub fn matrix(&self, name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let (_, entry) = self.entry(name, &shape)?;
        if entry.is_f16() {
            let bytes = entry.bytes();
            return Ok(self.gpu.filled(shape, DType::F16, |view| view.slice(..bytes.len()).copy_from_slice(bytes)));
        }
        self.get(name, shape)
    }

    /// A matrix whose numbers `arrange` moves into the order a kernel reads, under a new shape.
    /// Halves stay halves.
    ///
    /// # Errors
    /// As [`Weights::host`].
    pub fn arranged(
        &self,
        name: &str,
        shape: impl Into<Shape>,
        arrange: impl FnOnce(&[f32]) -> Vec<f32>,
        to: impl Into<Shape>,
    ) -> Result<Tensor> {
        let (shape, to) = (shape.into(), to.into());
        let halves = self.entry(name, &shape)?.1.is_f16();
        let numbers = arrange(&self.host(name, shape)?);
        if !halves {
            return Ok(self.gpu.upload(&numbers, to));
        }
        let packed: Vec<half::f16> = numbers.into_iter().map(half::f16::from_f32).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&packed);
        Ok(self.gpu.filled(to, DType::F16, |view| view.slice(..bytes.len()).copy_from_slice(bytes)))
    }
}
