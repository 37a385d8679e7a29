//! Walking a checkpoint by path, with shapes asked for at load.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::noise::{Spread, noise};
use super::{Checkpoint, DType, Entry, Shape, Tensor, int8};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, lock};

/// The largest finite half.
const HALF_MAX: f32 = 65504.0;
/// Most names in a message.
const NAMED: usize = 20;

/// A tensor of the checkpoint, of the shape it was asked for.
struct Found<'a> {
    name: String,
    entry: Entry<'a>,
    /// Of weights in eight bits.
    scales: Option<Vec<f32>>,
}

/// A place in a checkpoint: a prefix such as `spatial_blocks.3.attn`, and where its tensors go.
#[derive(Clone)]
pub struct Weights {
    gpu: Gpu,
    checkpoint: Arc<Checkpoint>,
    prefix: String,
    /// What a mismatch probably means, for messages.
    hint: &'static str,
    /// Names and shapes are checked, numbers are not read.
    dry: bool,
    /// Whatever is asked for is there, made up on the device.
    random: bool,
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl Weights {
    /// The root of a checkpoint; `hint` ends the message of a missing or mis-shaped tensor.
    pub fn new(gpu: &Gpu, checkpoint: Arc<Checkpoint>, hint: &'static str) -> Self {
        let dry = checkpoint.is_outline();
        Self { gpu: gpu.clone(), checkpoint, prefix: String::new(), hint, dry, random: false, asked: Arc::default() }
    }

    /// Weights that nobody trained: every tensor that is asked for has the shape it is asked for and random numbers,
    /// made on the device, the same for the same name. Matrices keep the size of what they multiply (their deviation is
    /// 1/√inputs), norms are around 1, biases around 0. Optional tensors are not there.
    pub fn random(gpu: &Gpu) -> Self {
        Self { random: true, ..Self::new(gpu, Arc::new(Checkpoint::empty()), "weights are random") }
    }

    /// The random stand-in for a tensor, and what tells it from others.
    fn spread(&self, name: &str, shape: &Shape) -> (Spread, u32) {
        let full = self.full(name);
        let seed = full.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let inputs = shape.dims().iter().skip(1).product();
        let spread = match shape.dims() {
            [_] if name == "bias" => Spread::deviation(0.02),
            [_] => Spread { mean: 1.0, range: 0.05 },
            _ => Spread::layer(inputs),
        };
        (spread, seed)
    }

    fn made_up(&self, name: &str, shape: Shape, dtype: DType) -> Tensor {
        let (spread, seed) = self.spread(name, &shape);
        noise(&self.gpu, shape, dtype, seed, spread)
    }

    /// How a matrix is kept that could be kept either way.
    fn matrix_dtype(&self, numbers: usize) -> DType {
        let fits = (numbers * DType::F32.size()) as u64 <= self.gpu.largest_tensor();
        if fits { self.gpu.operands() } else { DType::F16 }
    }

    /// What stands for a tensor where nothing runs: memory is counted, numbers are not read.
    fn rehearsed(&self, shape: &Shape, dtype: DType) -> Option<Tensor> {
        let stand_in = || self.gpu.filled(shape.clone(), dtype, |_| ());
        (self.gpu.is_rehearsal() && !self.dry).then(stand_in)
    }

    /// The same place, for checking only: loading from it asks for every name and shape, but reads no numbers
    /// and takes no memory. What it gives must not be computed with.
    pub fn dry(&self) -> Self {
        Self { dry: true, ..self.clone() }
    }

    /// The tensors of the checkpoint that nobody has asked for by name and shape so far.
    pub fn unasked(&self) -> Vec<String> {
        let asked = lock(&self.asked);
        self.checkpoint.names().filter(|n| !asked.contains(*n)).map(String::from).collect()
    }

    /// The same without `known` ones: names, or beginnings of names that end in a dot.
    pub fn unasked_but(&self, known: &[&str]) -> Vec<String> {
        let is_known = |name: &str| known.iter().any(|k| name == *k || k.ends_with('.') && name.starts_with(k));
        self.unasked().into_iter().filter(|name| !is_known(name)).collect()
    }

    /// Logs [`Weights::unasked_but`] of a loaded model.
    pub fn tell_unasked(&self, known: &[&str]) {
        // (a rehearsal loads what is loaded once more)
        if self.gpu.is_rehearsal() || !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let left = self.unasked_but(known);
        if left.is_empty() {
            return;
        }
        let named = left.iter().take(NAMED).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let more = left.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        log::debug!("{}: nobody reads {named}{more}", self.checkpoint.path().display());
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

    fn find(&self, name: &str, shape: &Shape) -> Result<Found<'_>> {
        let full = self.full(name);
        match self.checkpoint.entry(&full) {
            None => {
                let near = self.nearest(&full);
                Err(self.wrong(&full, format!("is missing, expected {shape}{near}")))
            }
            Some(found) if found.shape != shape.dims() => {
                Err(self.wrong(&full, format!("is {:?}, expected {shape}", found.shape)))
            }
            Some(entry) => {
                let scales = entry.scales().map_err(|problem| self.wrong(&full, problem))?;
                let mut asked = lock(&self.asked);
                asked.extend(scales.as_ref().map(|_| int8::scale_name(&full)));
                asked.insert(full.clone());
                Ok(Found { name: full, entry, scales })
            }
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
        if self.random {
            let (spread, seed) = self.spread(name, &shape);
            return Ok((0..shape.count()).map(|i| spread.at(seed, i)).collect());
        }
        let Found { name, entry, .. } = self.find(name, &shape)?;
        if self.dry {
            return Ok(vec![1.0; shape.count()]);
        }
        entry.widen(0..shape.count()).map_err(|problem| self.wrong(&name, problem))
    }

    /// Rows of a table `[rows, C]` by index, on the host and widened to f32, one after the other: what a text
    /// needs of an embedding that is far too large for the device.
    ///
    /// # Errors
    /// As [`Weights::host`].
    ///
    /// # Panics
    /// If an index is outside the table.
    pub fn rows(&self, name: &str, [rows, c]: [usize; 2], index: &[u32]) -> Result<Vec<f32>> {
        if self.random {
            let (_, seed) = self.spread(name, &[rows, c].into());
            let numbers = index.iter().flat_map(|&i| (0..c).map(move |j| i as usize * c + j));
            return Ok(numbers.map(|at| Spread::deviation(1.0).at(seed, at)).collect());
        }
        let Found { name, entry, .. } = self.find(name, &[rows, c].into())?;
        let mut picked = Vec::with_capacity(index.len() * c);
        for &i in index {
            let at = i as usize * c;
            picked.extend(entry.widen(at..at + c).map_err(|problem| self.wrong(&name, problem))?);
        }
        Ok(picked)
    }

    /// A vector or small table as f32: biases, norms, modulation.
    ///
    /// # Errors
    /// As [`Weights::host`].
    pub fn get(&self, name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if self.random {
            return Ok(if self.dry { self.gpu.hollow(shape) } else { self.made_up(name, shape, DType::F32) });
        }
        let Found { name: full, entry, .. } = self.find(name, &shape)?;
        if self.dry {
            return Ok(self.gpu.hollow(shape));
        }
        if let Some(tensor) = self.rehearsed(&shape, DType::F32) {
            entry.widen(0..0).map_err(|problem| self.wrong(&full, problem))?;
            return Ok(tensor);
        }
        Ok(self.gpu.upload(&self.host(name, shape.clone())?, shape))
    }

    /// A matrix that products read, kept as [`Gpu::operands`] are. Halves of a file stay halves in any case; what
    /// leaves their range stays f32 (bf16 is widened), unless only halves fit one binding of this device. Weights in
    /// eight bits go to the device as they are and are made operands there.
    ///
    /// # Errors
    /// As [`Weights::host`].
    pub fn matrix(&self, name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if self.random {
            let dtype = self.matrix_dtype(shape.count());
            return Ok(if self.dry { self.gpu.hollow(shape) } else { self.made_up(name, shape, dtype) });
        }
        let Found { name: full, entry, scales } = self.find(name, &shape)?;
        if let Some(scales) = scales.filter(|_| !self.dry) {
            return Ok(self.expanded(&full, &entry.bytes(), &scales, shape));
        }
        let kept = if entry.is_f16() { DType::F16 } else { self.matrix_dtype(shape.count()) };
        if let Some(tensor) = self.rehearsed(&shape, kept) {
            return Ok(tensor);
        }
        if entry.is_f16() && !self.dry {
            let bytes = entry.bytes();
            return Ok(self.gpu.filled(shape, DType::F16, |view| view.slice(..bytes.len()).copy_from_slice(&bytes)));
        }
        if !self.dry && (shape.count() * DType::F32.size()) as u64 > self.gpu.largest_tensor() {
            if self.gpu.operands() == DType::F32 {
                log::warn!("`{full}` is kept as halves: as f32 it is larger than one binding of this device");
            }
            return Ok(self.halves(&self.host(name, shape.clone())?, shape));
        }
        if self.dry {
            return self.get(name, shape);
        }
        let numbers = self.host(name, shape.clone())?;
        Ok(self.operand(&self.full(name), &numbers, shape))
    }

    /// Weights in eight bits as this device keeps a matrix.
    fn expanded(&self, name: &str, bytes: &[u8], scales: &[f32], shape: Shape) -> Tensor {
        let (kept, reach) = (self.matrix_dtype(shape.count()), int8::reach(scales));
        let dtype = if reach > HALF_MAX { DType::F32 } else { kept };
        if dtype != kept {
            log::warn!("`{name}` is kept as f32: it may hold {reach}, which no half can");
        }
        self.gpu.upload_int8(bytes, scales, shape, dtype)
    }

    /// Numbers of a matrix as this device keeps them.
    fn operand(&self, name: &str, numbers: &[f32], shape: Shape) -> Tensor {
        if self.gpu.operands() == DType::F32 {
            return self.gpu.upload(numbers, shape);
        }
        match numbers.iter().find(|v| v.abs() > HALF_MAX) {
            None => self.halves(numbers, shape),
            Some(v) => {
                log::warn!("`{name}` is kept as f32: it holds {v}, which no half can");
                self.gpu.upload(numbers, shape)
            }
        }
    }

    fn halves(&self, numbers: &[f32], shape: Shape) -> Tensor {
        self.gpu.upload_as(numbers, shape, DType::F16)
    }

    /// Several matrices of one width under each other, as one: layers that are stored apart and read the same input.
    /// Kept as [`Weights::matrix`] keeps it.
    ///
    /// # Errors
    /// As [`Weights::host`].
    pub fn stacked(&self, names: &[String], each: [usize; 2]) -> Result<Tensor> {
        let to = Shape::from([names.len() * each[0], each[1]]);
        if self.random {
            let dtype = self.matrix_dtype(to.count());
            return Ok(if self.dry { self.gpu.hollow(to) } else { self.made_up(&names[0], to, dtype) });
        }
        let found = names.iter().map(|name| self.find(name, &each.into())).collect::<Result<Vec<_>>>()?;
        if self.dry {
            return Ok(self.gpu.hollow(to));
        }
        if let Some(scales) = found.iter().map(|f| f.scales.as_deref()).collect::<Option<Vec<_>>>() {
            let bytes: Vec<_> = found.iter().map(|f| f.entry.bytes()).collect();
            return Ok(self.expanded(&found[0].name, &bytes.concat(), &scales.concat(), to));
        }
        let halves = found.iter().all(|f| f.entry.is_f16());
        if let Some(tensor) = self.rehearsed(&to, if halves { DType::F16 } else { self.gpu.operands() }) {
            return Ok(tensor);
        }
        let mut numbers = Vec::with_capacity(to.count());
        for name in names {
            numbers.extend(self.host(name, each)?);
        }
        Ok(if halves { self.halves(&numbers, to) } else { self.operand(&self.full(&names[0]), &numbers, to) })
    }

    /// A matrix whose numbers `arrange` moves into the order a kernel reads, under a new shape.
    /// Kept as [`Weights::matrix`] keeps it.
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
        if self.random {
            let dtype = self.matrix_dtype(to.count());
            return Ok(if self.dry { self.gpu.hollow(to) } else { self.made_up(name, to, dtype) });
        }
        let halves = self.find(name, &shape)?.entry.is_f16();
        if self.dry {
            return Ok(self.gpu.hollow(to));
        }
        if let Some(tensor) = self.rehearsed(&to, if halves { DType::F16 } else { self.gpu.operands() }) {
            return Ok(tensor);
        }
        let numbers = arrange(&self.host(name, shape)?);
        Ok(if halves { self.halves(&numbers, to) } else { self.operand(&self.full(name), &numbers, to) })
    }
}
