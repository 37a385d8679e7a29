//! Shape, type, and the handle to memory on the device; reading checkpoints into it.

mod checkpoint;
mod convert;
mod fingerprint;
mod int8;
mod noise;
mod weights;

use std::fmt;
use std::sync::Arc;

pub(crate) use checkpoint::bytes_of_file;
pub use checkpoint::{Checkpoint, Entry};
pub use convert::{Conversion, Converted, ConvertedTensor, Stored};
pub use fingerprint::{fingerprint, sha256, sha256_of_bytes, sha256_of_ends};
pub(crate) use int8::programs as int8_programs;
pub(crate) use noise::programs as noise_programs;
pub use weights::Weights;

pub use crate::gpu::DType;

use crate::error::Result;
use crate::gpu::{Gpu, Memory};

/// Sizes of a tensor, outermost first.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// The sizes.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// How many numbers.
    pub fn count(&self) -> usize {
        self.0.iter().product()
    }
}

impl<T: AsRef<[usize]>> From<T> for Shape {
    fn from(dims: T) -> Self {
        Shape(dims.as_ref().to_vec())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Memory that goes back where it came from when the last handle drops.
struct Storage {
    gpu: Gpu,
    memory: Memory,
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.gpu.release(&self.memory);
    }
}

/// A handle to a dense, row-major tensor on a device. Cloning shares the memory.
///
/// Ops never write into a tensor that somebody else can see: what they return is new.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    /// Where the numbers start, in bytes: 0 except in a part of another tensor.
    at: u64,
    shape: Shape,
    dtype: DType,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.dtype, self.shape)
    }
}

impl Gpu {
    /// Memory for a tensor, contents undefined.
    pub(crate) fn empty(&self, shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        let memory = self.take_buffer((shape.count() * dtype.size()) as u64);
        Tensor { storage: Arc::new(Storage { gpu: self.clone(), memory }), at: 0, shape, dtype }
    }

    /// Copies f32 numbers to the device.
    ///
    /// # Panics
    /// If `data` does not fill `shape`.
    pub fn upload(&self, data: &[f32], shape: impl Into<Shape>) -> Tensor {
        self.upload_words(bytemuck::cast_slice(data), shape)
    }

    /// Copies numbers to the device, kept as `dtype` says (halves are rounded to nearest, ties to even).
    ///
    /// # Panics
    /// If `data` does not fill `shape`.
    pub fn upload_as(&self, data: &[f32], shape: impl Into<Shape>, dtype: DType) -> Tensor {
        if dtype == DType::F32 {
            return self.upload(data, shape);
        }
        let shape = shape.into();
        assert_eq!(data.len(), shape.count(), "upload of {} numbers as {shape}", data.len());
        let packed: Vec<half::f16> = data.iter().copied().map(half::f16::from_f32).collect();
        self.upload_stored(bytemuck::cast_slice(&packed), shape, dtype)
    }

    /// Copies numbers to the device that are stored as `dtype` already, little-endian.
    ///
    /// # Panics
    /// If `data` does not fill `shape`.
    pub(crate) fn upload_stored(&self, data: &[u8], shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        assert_eq!(data.len(), shape.count() * dtype.size(), "upload of {} bytes as {dtype:?}{shape}", data.len());
        // the buffer of a tensor without numbers still has a few bytes
        self.filled(shape, dtype, |view| view.slice(..data.len()).copy_from_slice(data))
    }

    /// Copies 32-bit words to the device: indices and spans for kernels that read `u32`.
    pub(crate) fn upload_words(&self, data: &[u32], shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(data.len(), shape.count(), "upload of {} numbers as {shape}", data.len());
        self.upload_stored(bytemuck::cast_slice(data), shape, DType::F32)
    }

    /// A tensor that has a shape but no memory, for checking what a model would load.
    pub(crate) fn hollow(&self, shape: impl Into<Shape>) -> Tensor {
        Tensor { shape: shape.into(), ..self.empty([1], DType::F32) }
    }

    /// A fresh tensor written by `fill` (exactly its bytes) before the device first sees it.
    pub(crate) fn filled(
        &self,
        shape: impl Into<Shape>,
        dtype: DType,
        fill: impl FnOnce(&mut wgpu::BufferViewMut),
    ) -> Tensor {
        let shape = shape.into();
        let bytes = (shape.count() * dtype.size()) as u64;
        if bytes > self.largest_buffer() {
            return self.empty(shape, dtype); // remembers the error
        }
        let memory = self.filled_buffer(bytes, fill);
        Tensor { storage: Arc::new(Storage { gpu: self.clone(), memory }), at: 0, shape, dtype }
    }
}

impl Gpu {
    /// The numbers of several tensors, widened to f32, in one transfer once everything recorded so far has run.
    ///
    /// # Errors
    /// Whatever went wrong since the last submission.
    pub async fn read_all(&self, tensors: &[&Tensor]) -> Result<Vec<Vec<f32>>> {
        let widened = |t: &Tensor, own: &[u8]| match t.dtype {
            DType::F32 => bytemuck::pod_collect_to_vec(own),
            DType::F16 => own.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        };
        self.read_each(tensors, widened).await
    }

    /// The bytes of several tensors as they are stored, little-endian, one after the other: together they may be more
    /// than one buffer holds.
    ///
    /// # Errors
    /// As [`Gpu::read_all`].
    pub(crate) async fn read_stored(&self, tensors: &[&Tensor]) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::with_capacity(tensors.len());
        for t in tensors {
            let mut bytes = self.read_bytes(&[(t.buffer(), t.at, t.bytes())]).await?;
            bytes.truncate(t.bytes() as usize);
            all.push(bytes);
        }
        Ok(all)
    }

    async fn read_each<T>(&self, tensors: &[&Tensor], of: impl Fn(&Tensor, &[u8]) -> T) -> Result<Vec<T>> {
        let parts: Vec<_> = tensors.iter().map(|t| (t.buffer(), t.at, t.bytes())).collect();
        let bytes = self.read_bytes(&parts).await?;
        let mut at = 0;
        let each = tensors.iter().map(|t| {
            let own = &bytes[at..at + t.bytes() as usize];
            at += own.len().next_multiple_of(4);
            of(t, own)
        });
        Ok(each.collect())
    }
}

impl Tensor {
    /// The device this lives on.
    pub fn gpu(&self) -> &Gpu {
        &self.storage.gpu
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Sizes as a slice.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How many numbers.
    pub fn count(&self) -> usize {
        self.shape.count()
    }

    /// Bytes of the numbers (the buffer may be larger).
    pub fn bytes(&self) -> u64 {
        (self.count() * self.dtype.size()) as u64
    }

    /// The wgpu buffer, for hosts that read it in a pass of their own. What an op returns starts at offset 0.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.storage.memory.buffer
    }

    /// Where in the buffer the numbers start, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.at
    }

    /// Some of `of` equal pieces that lie one after the other, `[range, count / of]`: a view. It has to start at a
    /// multiple of 256 bytes if a kernel is to see it.
    ///
    /// # Panics
    /// If the tensor does not divide so, or the range is outside.
    #[track_caller]
    pub(crate) fn part(&self, of: usize, range: &std::ops::Range<usize>) -> Tensor {
        assert!(range.end <= of && self.count().is_multiple_of(of), "{range:?} of {of} parts of {}", self.shape);
        let each = self.count() / of.max(1);
        let at = self.at + (range.start * each * self.dtype.size()) as u64;
        Tensor { storage: self.storage.clone(), at, shape: [range.len(), each].into(), dtype: self.dtype }
    }

    /// Seen as a matrix: everything but the last axis, and the last axis.
    pub fn as_rows(&self) -> [usize; 2] {
        let last = self.dims().last().copied().unwrap_or(1);
        [self.count() / last.max(1), last]
    }

    /// The sizes as an array.
    ///
    /// # Panics
    /// If the tensor has another number of axes.
    #[track_caller]
    pub fn sizes<const N: usize>(&self) -> [usize; N] {
        self.dims().try_into().unwrap_or_else(|_| panic!("expected {N} axes, got {}", self.shape))
    }

    /// The same memory under another shape of the same count.
    ///
    /// # Panics
    /// If the counts differ.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.count(), self.count(), "reshape {} to {shape}", self.shape);
        Tensor { storage: self.storage.clone(), at: self.at, shape, dtype: self.dtype }
    }

    /// Pairs of halves, seen as words `[.., C / 2]`.
    pub(crate) fn as_words(&self) -> Tensor {
        self.retyped(DType::F32, |last| last / 2)
    }

    /// Words, seen as the pairs of halves they are, `[.., 2C]`.
    pub(crate) fn as_halves(&self) -> Tensor {
        self.retyped(DType::F16, |last| last * 2)
    }

    fn retyped(&self, dtype: DType, size: impl Fn(usize) -> usize) -> Tensor {
        let mut dims = self.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = size(*last);
        }
        Tensor { storage: self.storage.clone(), at: self.at, shape: dims.into(), dtype }
    }

    /// The numbers, widened to f32, once everything recorded so far has run.
    ///
    /// # Errors
    /// Whatever went wrong since the last submission.
    pub async fn read(&self) -> Result<Vec<f32>> {
        Ok(self.gpu().read_all(&[self]).await?.swap_remove(0))
    }

    /// [`Tensor::read`], waiting on this thread. For devices this crate opened.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn read_blocking(&self) -> Result<Vec<f32>> {
        pollster::block_on(self.read())
    }
}
