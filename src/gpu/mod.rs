//! The device: adapter choice, limits, buffers, shader linking, pipelines, recording.
//!
//! Work is recorded in order and submitted at step boundaries; there is no graph. A buffer whose last
//! tensor is dropped goes back to a pool and may be reused at once, because one queue runs in order.
//! Trouble (a limit, a lost device) is remembered and returned by [`Gpu::submit`] and `Tensor::read`,
//! so model code stays free of error handling.

mod adapter;
mod dtype;
mod open;
mod pipeline;
mod recorder;
pub mod shader;
mod timing;
mod tune;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

pub use adapter::{Class, Listed, Matrices, Prefs, advice, list};
pub use dtype::DType;
pub use pipeline::Program;
pub use recorder::Dispatch;
pub use timing::{Clock, Timing};
pub use tune::{Tune, cache_folder, tuned};

use crate::error::{Error, Result};

/// A cheap handle to one device and its queue, with everything this crate keeps for it.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    limits: wgpu::Limits,
    class: Class,
    operands: DType,
    /// Opened by us: we may wait on the device. A host that lent us its device polls it itself.
    owned: bool,
    pipelines: pipeline::Cache,
    tuner: tune::Tuner,
    recorder: Mutex<recorder::Recorder>,
    pool: Mutex<Pool>,
    fault: Arc<Mutex<Option<Error>>>,
    live: AtomicU64,
    peak: AtomicU64,
    /// Bytes of weights handed over since the last submission: each waits in a staging copy until then.
    staged: AtomicU64,
}

/// Staged weights are pushed to the device at this many bytes, so that loading needs no second copy of a model.
const STAGED: u64 = 64 << 20;

/// Free buffers by size class.
#[derive(Default)]
struct Pool(std::collections::BTreeMap<u64, Vec<wgpu::Buffer>>);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // a panic elsewhere does not make plain data unusable
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Gpu {
    /// The wgpu device, for hosts that draw what was made.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The wgpu queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// Name, driver and kind of the adapter.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.0.info
    }

    /// The kernel family in use.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// How weights, and activations that only feed products, are kept. Sums, norms, softmax and the residual
    /// stream are f32 in any case.
    pub fn operands(&self) -> DType {
        self.0.operands
    }

    /// The largest tensor that one binding can hold, in bytes.
    pub fn largest_tensor(&self) -> u64 {
        self.0.limits.max_storage_buffer_binding_size.min(self.0.limits.max_buffer_size)
    }

    /// Bytes of tensors alive now, and the most there ever were since [`Gpu::reset_peak`].
    pub fn memory(&self) -> (u64, u64) {
        (self.0.live.load(Ordering::Relaxed), self.0.peak.load(Ordering::Relaxed))
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(&self) {
        self.0.peak.store(self.0.live.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Hands everything recorded so far to the queue. Does not wait.
    ///
    /// # Errors
    /// Whatever went wrong since the last call: a tensor over the limits, a lost device.
    pub fn submit(&self) -> Result<()> {
        self.flush();
        self.take_fault()
    }

    /// Waits until the queue is empty.
    ///
    /// # Errors
    /// As [`Gpu::submit`].
    pub fn wait(&self) -> Result<()> {
        self.flush();
        if let Err(e) = self.0.device.poll(wgpu::PollType::wait_indefinitely()) {
            self.fail(Error::DeviceLost(e.to_string()));
        }
        self.take_fault()
    }

    /// Ends a step: hands over what was recorded and, on a device of our own, waits for it, so that progress and
    /// step times mean something. A host's device is never waited for.
    ///
    /// # Errors
    /// As [`Gpu::submit`].
    pub fn end_step(&self) -> Result<()> {
        if self.0.owned { self.wait() } else { self.submit() }
    }

    /// Frees pooled buffers that no tensor uses.
    pub fn trim(&self) {
        lock(&self.0.pool).0.clear();
    }

    fn flush(&self) {
        if lock(&self.0.fault).is_some() {
            lock(&self.0.recorder).clear();
        } else {
            lock(&self.0.recorder).submit(&self.0.device, &self.0.queue);
        }
    }

    fn take_fault(&self) -> Result<()> {
        match lock(&self.0.fault).take() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    /// Remembers the first thing that went wrong; recording goes on but is never submitted.
    pub(crate) fn fail(&self, error: Error) {
        lock(&self.0.fault).get_or_insert(error);
    }

    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.0.fault).is_some()
    }

    /// Records the filling of a texture from rows of pixels in a buffer; `bytes_per_row` is a multiple of 256.
    pub(crate) fn fill_texture(&self, buffer: &wgpu::Buffer, at: u64, bytes_per_row: u32, texture: &wgpu::Texture) {
        lock(&self.0.recorder).texture(buffer, at, bytes_per_row, texture);
    }

    /// What is said of a tensor that no binding can hold.
    pub(crate) fn over_limit(&self, bytes: u64) -> Error {
        let what = format!("one tensor on `{}`", self.0.info.name);
        Error::Limit { what, need: mib(bytes), have: mib(self.largest_tensor()) }
    }

    /// A buffer of at least `bytes`, from the pool if one fits.
    pub(crate) fn take_buffer(&self, bytes: u64) -> wgpu::Buffer {
        let mut size = size_class(bytes);
        if size > self.0.limits.max_buffer_size {
            size = bytes.next_multiple_of(256);
        }
        let most = self.largest_tensor();
        if bytes > most {
            self.fail(self.over_limit(bytes));
            size = 256; // nothing recorded after a fault runs, so the size no longer matters
        }
        let live = self.0.live.fetch_add(size, Ordering::Relaxed) + size;
        self.0.peak.fetch_max(live, Ordering::Relaxed);
        if let Some(buffer) = lock(&self.0.pool).0.get_mut(&size).and_then(Vec::pop) {
            return buffer;
        }
        self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("residua/tensor"),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    /// Takes back the buffer of a tensor nobody holds any more.
    pub(crate) fn release(&self, buffer: &wgpu::Buffer, pooled: bool) {
        self.0.live.fetch_sub(buffer.size(), Ordering::Relaxed);
        if pooled {
            lock(&self.0.pool).0.entry(buffer.size()).or_default().push(buffer.clone());
        }
    }

    /// A fresh buffer filled by `fill` before the GPU first sees it: no staging copy, no zero fill.
    pub(crate) fn filled_buffer(&self, bytes: u64, fill: impl FnOnce(&mut wgpu::BufferViewMut)) -> wgpu::Buffer {
        let size = bytes.max(32).next_multiple_of(4); // a binding of eights holds at least one
        let buffer = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("residua/weights"),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: true,
        });
        match buffer.get_mapped_range_mut(..) {
            Ok(mut view) => fill(&mut view),
            Err(e) => self.fail(Error::DeviceLost(format!("a buffer of {} could not be mapped: {e}", mib(size)))),
        }
        buffer.unmap();
        let live = self.0.live.fetch_add(size, Ordering::Relaxed) + size;
        self.0.peak.fetch_max(live, Ordering::Relaxed);
        if self.0.staged.fetch_add(size, Ordering::Relaxed) + size > STAGED {
            self.0.staged.store(0, Ordering::Relaxed);
            self.0.queue.submit([]);
            if self.0.owned
                && let Err(e) = self.0.device.poll(wgpu::PollType::wait_indefinitely())
            {
                self.fail(Error::DeviceLost(e.to_string()));
            }
        }
        buffer
    }

    /// The first bytes of some buffers, one after the other (each rounded up to 4), after everything
    /// recorded before: one staging buffer and one wait, however many there are.
    pub(crate) async fn read_bytes(&self, parts: &[(&wgpu::Buffer, u64)]) -> Result<Vec<u8>> {
        let size: u64 = parts.iter().map(|(_, bytes)| bytes.next_multiple_of(4)).sum();
        let staging = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("residua/read"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut at = 0;
        for (buffer, bytes) in parts {
            if *bytes > buffer.size() {
                self.fail(self.over_limit(*bytes)); // its buffer is a stand-in, see take_buffer
                break;
            }
            lock(&self.0.recorder).copy(buffer, &staging, at, bytes.next_multiple_of(4));
            at += bytes.next_multiple_of(4);
        }
        self.submit()?;
        let (sender, receiver) = oneshot();
        staging.map_async(wgpu::MapMode::Read, .., move |outcome| sender.send(outcome));
        if self.0.owned
            && let Err(e) = self.0.device.poll(wgpu::PollType::wait_indefinitely())
        {
            self.fail(Error::DeviceLost(e.to_string()));
            self.take_fault()?;
        }
        receiver.await.map_err(|e| Error::DeviceLost(e.to_string()))?;
        self.take_fault()?;
        let view = staging.get_mapped_range(..).map_err(|e| Error::DeviceLost(e.to_string()))?;
        Ok(view.to_vec())
    }
}

/// Size classes: four per power of two, so that at most a quarter is wasted.
fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let step = (bytes.next_power_of_two() / 8).max(256);
    bytes.next_multiple_of(step)
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// The smallest one-value channel a mapping callback needs.
fn oneshot<T: Send + 'static>() -> (Sender<T>, impl Future<Output = T>) {
    let slot = Arc::new(Mutex::new((None, None::<std::task::Waker>)));
    let sender = Sender(slot.clone());
    let receiver = std::future::poll_fn(move |cx| {
        let mut slot = lock(&slot);
        match slot.0.take() {
            Some(value) => std::task::Poll::Ready(value),
            None => {
                slot.1 = Some(cx.waker().clone());
                std::task::Poll::Pending
            }
        }
    });
    (sender, receiver)
}

type Slot<T> = Arc<Mutex<(Option<T>, Option<std::task::Waker>)>>;
struct Sender<T>(Slot<T>);

impl<T> Sender<T> {
    fn send(self, value: T) {
        let mut slot = lock(&self.0);
        slot.0 = Some(value);
        if let Some(waker) = slot.1.take() {
            waker.wake();
        }
    }
}
