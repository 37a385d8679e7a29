//! The device: adapter choice, limits, buffers, shader linking, pipelines, recording.
//!
//! Work is recorded in order and submitted at step boundaries; there is no graph. A buffer whose last
//! tensor is dropped goes back to a pool and may be reused at once, because one queue runs in order.
//! Trouble (a limit, a lost device) is remembered and returned by [`Gpu::submit`] and `Tensor::read`,
//! so model code stays free of error handling.

mod adapter;
mod dtype;
mod memory;
mod open;
mod pace;
mod pipeline;
mod recorder;
pub mod shader;
mod timing;
mod tune;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

pub use adapter::{Class, Facts, Listed, Matrices, Prefs, advice, list};
pub use dtype::DType;
pub(crate) use memory::Memory;
pub use pipeline::Program;
pub use recorder::Dispatch;
pub use timing::{Clock, Timing};
pub(crate) use tune::replace;
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
    pace: Mutex<pace::Pace>,
    pool: Mutex<memory::Pool>,
    fault: Arc<Mutex<Option<Error>>>,
    /// Nothing runs and nothing is allocated, see [`Gpu::rehearsal`].
    rehearsal: bool,
    /// Bytes of weights handed over since the last submission: each waits in a staging copy until then.
    staged: AtomicU64,
}

/// Staged weights are pushed to the device at this many bytes, so that loading needs no second copy of a model.
const STAGED: u64 = 64 << 20;

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

    /// The most bytes that one binding can hold: launches over more are cut into parts.
    pub fn largest_tensor(&self) -> u64 {
        self.0.limits.max_storage_buffer_binding_size.min(self.0.limits.max_buffer_size)
    }

    /// The most bytes that one tensor can have.
    pub fn largest_buffer(&self) -> u64 {
        self.0.limits.max_buffer_size
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
        lock(&self.0.pace).waited();
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

    fn flush(&self) {
        if lock(&self.0.fault).is_some() {
            lock(&self.0.recorder).clear();
        } else {
            lock(&self.0.recorder).submit(&self.0.device, &self.0.queue);
        }
        lock(&self.0.pace).submitted();
    }

    /// How long work of so many operations and bytes is expected to take, in seconds.
    pub(crate) fn expected(&self, flops: f64, bytes: f64) -> f64 {
        lock(&self.0.pace).expected(flops, bytes)
    }

    /// Multiplications and additions in the products (attention's among them) recorded since the last call; passes over
    /// single numbers are not counted. A product with padding counts in full.
    pub fn take_flops(&self) -> f64 {
        std::mem::take(&mut lock(&self.0.pace).flops)
    }

    /// Counts work that was recorded, and hands it over once there is enough of it: drivers take back a device that
    /// is busy with one submission for seconds. Does not wait.
    fn count(&self, flops: f64, bytes: f64) {
        if lock(&self.0.pace).recorded(flops, bytes) {
            self.flush();
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

    /// What is said of a tensor that no binding (or, larger still, no buffer) can hold.
    pub(crate) fn over_limit(&self, bytes: u64) -> Error {
        let what = format!("one tensor on `{}`", self.0.info.name);
        let most = if bytes > self.largest_buffer() { self.largest_buffer() } else { self.largest_tensor() };
        Error::Limit { what, need: mib(bytes), have: mib(most) }
    }

    /// Bytes of some buffers from an offset on, one after the other (each rounded up to 4), after everything
    /// recorded before: one staging buffer and one wait, however many there are.
    pub(crate) async fn read_bytes(&self, parts: &[(&wgpu::Buffer, u64, u64)]) -> Result<Vec<u8>> {
        let size: u64 = parts.iter().map(|(_, _, bytes)| bytes.next_multiple_of(4)).sum();
        if self.0.rehearsal {
            self.take_fault()?;
            return Ok(vec![0; size as usize]);
        }
        let staging = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("residua/read"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut at = 0;
        for (buffer, from, bytes) in parts {
            if from + bytes > buffer.size() {
                self.fail(self.over_limit(*bytes)); // its buffer is a stand-in, see take_buffer
                break;
            }
            lock(&self.0.recorder).copy((buffer, *from), (&staging, at), bytes.next_multiple_of(4));
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
