//! Buffers: taken, counted, and used again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Gpu, Prefs, STAGED, lock, mib};
use crate::error::Error;

/// What a tensor holds on to.
pub(crate) struct Memory {
    pub(crate) buffer: wgpu::Buffer,
    /// What it counts for: the size of the buffer, unless that is a stand-in.
    bytes: u64,
    /// Goes back to the pool, not to the driver.
    pooled: bool,
}

/// Free buffers by size class, and what there is in all.
#[derive(Default)]
pub(super) struct Pool {
    free: BTreeMap<u64, Vec<wgpu::Buffer>>,
    /// Bytes of tensors alive.
    live: u64,
    peak: u64,
    /// Bytes of buffers, free ones among them.
    held: u64,
    most_held: u64,
    /// The most that may be held.
    budget: Option<u64>,
}

impl Pool {
    fn count(&mut self, bytes: u64, fresh: bool) {
        self.live += bytes;
        self.peak = self.peak.max(self.live);
        if fresh {
            self.held += bytes;
            self.most_held = self.most_held.max(self.held);
        }
    }

    /// Whether so many bytes more are too many.
    fn is_full(&self, more: u64) -> bool {
        self.budget.is_some_and(|budget| self.held + more > budget)
    }

    /// Lets free buffers go, the largest first, until so many bytes more fit the budget.
    fn make_room(&mut self, more: u64) {
        while self.is_full(more)
            && let Some((size, buffers)) = self.free.pop_last()
        {
            let over = self.budget.map_or(0, |budget| (self.held + more).saturating_sub(budget));
            let gone = over.div_ceil(size).min(buffers.len() as u64);
            self.held -= gone * size;
            let kept = buffers.into_iter().skip(gone as usize).collect::<Vec<_>>();
            if !kept.is_empty() {
                self.free.insert(size, kept);
            }
        }
    }
}

impl Gpu {
    /// Bytes of tensors alive now, and the most there ever were since [`Gpu::reset_peak`].
    pub fn memory(&self) -> (u64, u64) {
        let pool = lock(&self.0.pool);
        (pool.live, pool.peak)
    }

    /// Bytes of all buffers that belong to tensors or wait to be used again, now and at the most since
    /// [`Gpu::reset_peak`].
    pub fn held(&self) -> (u64, u64) {
        let pool = lock(&self.0.pool);
        (pool.held, pool.most_held)
    }

    /// Lets buffers take no more than so many bytes together, from now on; `None`: whatever the driver gives. Near the
    /// budget, free buffers are given back before new ones are made, which on a device of our own waits for the work that
    /// still uses them; what does not fit even then ends with [`Error::OutOfMemory`].
    pub fn set_budget(&self, bytes: Option<u64>) {
        lock(&self.0.pool).budget = bytes;
    }

    /// Bytes of memory the adapter has of its own, or, where it shares the host's, may use of that. `None`: the driver
    /// does not say.
    pub fn memory_size(&self) -> Option<u64> {
        if self.0.info.device_type == wgpu::DeviceType::Cpu {
            return host_memory();
        }
        self.heap()
    }

    /// The largest heap that the driver keeps tensors in.
    #[cfg(any(windows, all(unix, not(target_vendor = "apple"))))]
    fn heap(&self) -> Option<u64> {
        // SAFETY: the handles are only asked for properties while the device keeps them alive, and none is destroyed.
        let device = unsafe { self.0.device.as_hal::<wgpu::hal::api::Vulkan>() }?;
        let instance = device.shared_instance().raw_instance();
        // SAFETY: the physical device is one of this instance.
        let memory = unsafe { instance.get_physical_device_memory_properties(device.raw_physical_device()) };
        let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
        // what shares the host's memory may call no more than a small part of it its own
        let shares = self.0.info.device_type == wgpu::DeviceType::IntegratedGpu;
        // the lowest bit is VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
        heaps.filter(|heap| shares || heap.flags.as_raw() & 1 != 0).map(|heap| heap.size).max()
    }

    /// Where there is no Vulkan, nobody is asked yet.
    #[cfg(not(any(windows, all(unix, not(target_vendor = "apple")))))]
    fn heap(&self) -> Option<u64> {
        None
    }

    /// Starts a new measurement of the peaks.
    pub fn reset_peak(&self) {
        let mut pool = lock(&self.0.pool);
        (pool.peak, pool.most_held) = (pool.live, pool.held);
    }

    /// Frees pooled buffers that no tensor uses.
    pub fn trim(&self) {
        let mut pool = lock(&self.0.pool);
        let free: u64 = pool.free.iter().map(|(size, buffers)| size * buffers.len() as u64).sum();
        pool.held -= free;
        pool.free.clear();
    }

    /// A device like this one on which work is only rehearsed: tensors have sizes but no memory, launches are checked
    /// and dropped, what is read is zero. It says what a run at full size would need (by [`Gpu::memory`] and
    /// [`Gpu::held`]), and with which error it would end, in the time it takes to record it.
    pub fn rehearsal(&self) -> Gpu {
        self.rehearsal_within(self.largest_tensor(), self.largest_buffer())
    }

    /// [`Gpu::rehearsal`] of another adapter: one that binds and allocates so many bytes at a time.
    pub fn rehearsal_within(&self, binding: u64, buffer: u64) -> Gpu {
        let prefs = Prefs { dtype: Some(self.operands()), tune: super::Tune::Off, ..Prefs::default() };
        let of = &self.0;
        let (info, device, queue) = (of.info.clone(), of.device.clone(), of.queue.clone());
        let mut gpu = Gpu::build(info, device, queue, of.owned, self.class(), &prefs);
        if let Some(inner) = Arc::get_mut(&mut gpu.0) {
            inner.rehearsal = true;
            (inner.limits.max_storage_buffer_binding_size, inner.limits.max_buffer_size) = (binding, buffer);
        }
        gpu
    }

    /// Whether this is a [`Gpu::rehearsal`].
    pub(crate) fn is_rehearsal(&self) -> bool {
        self.0.rehearsal
    }

    /// A buffer of at least `bytes`, from the pool if one fits.
    pub(crate) fn take_buffer(&self, bytes: u64) -> Memory {
        let mut size = size_class(bytes);
        if size > self.0.limits.max_buffer_size {
            size = bytes.next_multiple_of(256);
        }
        if bytes > self.largest_buffer() {
            self.fail(self.over_limit(bytes));
            size = 256; // nothing recorded after a fault runs, so the size no longer matters
        }
        let found = lock(&self.0.pool).free.get_mut(&size).and_then(Vec::pop);
        if found.is_none() && !self.has_room(size) {
            size = 256;
        }
        lock(&self.0.pool).count(size, found.is_none());
        let buffer = found.unwrap_or_else(|| self.buffer(if self.0.rehearsal { 256 } else { size }, "tensor", false));
        // what was made after a fault may be no buffer at all
        Memory { buffer, bytes: size, pooled: !self.has_failed() }
    }

    /// Whether a new buffer fits the budget, perhaps once free ones are gone; if not, that is remembered.
    fn has_room(&self, bytes: u64) -> bool {
        if !lock(&self.0.pool).is_full(bytes) {
            return true;
        }
        if self.0.owned && !self.0.rehearsal {
            // memory that recorded work still uses is not free when its buffer goes
            self.flush();
            if let Err(e) = self.0.device.poll(wgpu::PollType::wait_indefinitely()) {
                self.fail(Error::DeviceLost(e.to_string()));
            }
        }
        let mut pool = lock(&self.0.pool);
        pool.make_room(bytes);
        let (full, held, budget) = (pool.is_full(bytes), pool.held, pool.budget.unwrap_or(u64::MAX));
        drop(pool);
        if full {
            let have = format!("the budget is {}, and {} of it are in use", mib(budget), mib(held));
            self.fail(Error::OutOfMemory { need: mib(bytes), have });
        }
        !full
    }

    /// Takes back the buffer of a tensor nobody holds any more.
    pub(crate) fn release(&self, memory: &Memory) {
        let mut pool = lock(&self.0.pool);
        pool.live -= memory.bytes;
        if memory.pooled {
            pool.free.entry(memory.bytes).or_default().push(memory.buffer.clone());
        } else {
            pool.held -= memory.bytes;
        }
    }

    fn buffer(&self, size: u64, what: &str, mapped_at_creation: bool) -> wgpu::Buffer {
        self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(&format!("residua/{what}")),
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation,
        })
    }

    /// A fresh buffer filled by `fill` before the GPU first sees it: no staging copy, no zero fill.
    pub(crate) fn filled_buffer(&self, bytes: u64, fill: impl FnOnce(&mut wgpu::BufferViewMut)) -> Memory {
        let mut size = bytes.max(32).next_multiple_of(4); // a binding of eights holds at least one
        let fits = self.has_room(size);
        if !fits {
            size = 256; // as in take_buffer
        }
        lock(&self.0.pool).count(size, true);
        if !fits || self.0.rehearsal {
            return Memory { buffer: self.buffer(256, "stand-in", false), bytes: size, pooled: false };
        }
        let buffer = self.buffer(size, "weights", true);
        match buffer.get_mapped_range_mut(..) {
            Ok(mut view) => fill(&mut view),
            Err(e) => self.fail(Error::DeviceLost(format!("a buffer of {} could not be mapped: {e}", mib(size)))),
        }
        buffer.unmap();
        if self.0.staged.fetch_add(size, Ordering::Relaxed) + size > STAGED {
            self.0.staged.store(0, Ordering::Relaxed);
            // what reads staged bytes only once goes with them, or they would stay until it does
            self.flush();
            self.0.queue.submit([]);
            if self.0.owned {
                if let Err(e) = self.0.device.poll(wgpu::PollType::wait_indefinitely()) {
                    self.fail(Error::DeviceLost(e.to_string()));
                }
                lock(&self.0.pace).waited();
            }
        }
        Memory { buffer, bytes: size, pooled: false }
    }
}

/// Bytes of the host's memory that are free or can be made so.
fn host_memory() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Size classes: four per power of two, so that at most a quarter is wasted.
fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let step = (bytes.next_power_of_two() / 8).max(256);
    bytes.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_tells_how_much_memory_there_is() {
        let prefs = Prefs { device: std::env::var("RESIDUA_DEVICE").ok(), ..Prefs::default() };
        let gpu = pollster::block_on(Gpu::open(&prefs)).expect("a device for the tests");
        if gpu.info().backend == wgpu::Backend::Vulkan {
            assert!(gpu.heap().is_some_and(|bytes| bytes >= 64 << 20), "{:?}", gpu.heap());
        }
    }

    #[test]
    fn a_full_pool_lets_go_of_what_is_free() {
        let prefs = Prefs { device: std::env::var("RESIDUA_DEVICE").ok(), ..Prefs::default() };
        let gpu = pollster::block_on(Gpu::open(&prefs)).expect("a device for the tests");
        let take = |kib: u64| gpu.take_buffer(kib << 10);
        let kept = take(64);
        let free = [256, 128, 128].map(take);
        free.iter().for_each(|memory| gpu.release(memory));
        assert_eq!((gpu.memory().0, gpu.held().0), (64 << 10, 576 << 10));
        gpu.set_budget(Some(600 << 10));
        // 24 KiB are left: of what is free the largest goes
        let new = take(192);
        assert_eq!((gpu.memory().0, gpu.held().0), (256 << 10, 512 << 10));
        let again = [128, 128].map(take);
        assert_eq!(gpu.held().0, 512 << 10, "the others are still there");
        let large = take(512);
        assert!(matches!(gpu.submit(), Err(Error::OutOfMemory { .. })), "more than there is");
        again.iter().chain([&kept, &new, &large]).for_each(|memory| gpu.release(memory));
        gpu.trim();
        assert_eq!((gpu.memory().0, gpu.held().0), (0, 0), "nothing is lost count of");
    }
}
