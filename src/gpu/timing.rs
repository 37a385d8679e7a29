//! How long work takes on the device.

use std::time::{Duration, Instant};

use super::{Gpu, lock};
use crate::error::{Error, Result};

/// Whose clock a [`Timing`] was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Timestamps the device wrote when its first pass began and when its last one ended.
    Device,
    /// The host's, around submission and wait: what it costs to hand work over is in it.
    Host,
}

/// How long a stretch of work took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the first dispatch to the end of the last.
    pub duration: Duration,
    /// Whose clock was read.
    pub clock: Clock,
}

/// Two timestamps around everything recorded while it is in place.
pub(super) struct Stamps {
    queries: wgpu::QuerySet,
    begun: bool,
}

impl Stamps {
    /// What the next pass has to write: the first one when it began, every one when it ended. The last end stays.
    pub(super) fn of_next_pass(&mut self) -> wgpu::ComputePassTimestampWrites<'_> {
        let first = !std::mem::replace(&mut self.begun, true);
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: first.then_some(0),
            end_of_pass_write_index: Some(1),
        }
    }
}

impl Gpu {
    /// Runs what `work` records and says how long the device was busy with it. Waits on this thread, before (so that
    /// earlier work is not counted) and after. By timestamps where the device has [`wgpu::Features::TIMESTAMP_QUERY`],
    /// by the host's clock elsewhere. Pipelines that `work` is the first to use are compiled while it records, by
    /// some drivers at their first run: let it run once before it counts. Not to be nested.
    ///
    /// # Errors
    /// As [`Gpu::submit`].
    pub fn timed(&self, work: impl FnOnce()) -> Result<Timing> {
        self.wait()?;
        let device = &self.0.device;
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            work();
            let start = Instant::now();
            self.wait()?;
            return Ok(Timing { duration: start.elapsed(), clock: Clock::Host });
        }
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("residua/timing"),
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        lock(&self.0.recorder).stamps = Some(Stamps { queries, begun: false });
        work();
        let done = self.wait();
        let stamps = lock(&self.0.recorder).stamps.take();
        done?;
        let ticks = match stamps {
            Some(stamps) if stamps.begun => self.stamped(&stamps.queries)?,
            _ => 0, // nothing was recorded
        };
        let nanoseconds = ticks as f64 * f64::from(self.0.queue.get_timestamp_period());
        Ok(Timing { duration: Duration::from_nanos(nanoseconds as u64), clock: Clock::Device })
    }

    /// Ticks between two timestamps that were written.
    fn stamped(&self, queries: &wgpu::QuerySet) -> Result<u64> {
        const BYTES: u64 = 16;
        let device = &self.0.device;
        let buffer = |usage| {
            let label = Some("residua/timing");
            device.create_buffer(&wgpu::BufferDescriptor { label, size: BYTES, usage, mapped_at_creation: false })
        };
        let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let staging = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("residua") });
        encoder.resolve_query_set(queries, 0..2, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, BYTES);
        self.0.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| {}); // a failure shows when the range is asked for
        self.wait()?;
        let view = staging.get_mapped_range(..).map_err(|e| Error::DeviceLost(e.to_string()))?;
        let stamps: &[u64] = &bytemuck::pod_collect_to_vec(&view);
        Ok(stamps[1].saturating_sub(stamps[0]))
    }
}
