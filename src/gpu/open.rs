//! Opening a device, or taking over a host's, and deciding which kernels it gets.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::adapter::{self, Abilities, Class, Matrices, Prefs};
use super::{DType, Gpu, Inner, Tune, lock, pace, pipeline, recorder, tune};
use crate::error::{Error, Result};

/// Sizes of the driver's memory that buffers are cut from: the default of 256 MiB leaves much of the last one idle.
const BLOCKS: std::ops::Range<u64> = (16 << 20)..(64 << 20);

impl Gpu {
    /// Opens an adapter of its own, asking for all of its limits and the features the kernels can use.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if none answers or none matches; [`Error::DeviceLost`] if it will not open.
    pub async fn open(prefs: &Prefs) -> Result<Self> {
        let adapter = adapter::choose(prefs).await?;
        let mut features = adapter.features() & Self::wanted_features();
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if adapter.features().contains(Self::matrix_features()) {
            features |= Self::matrix_features();
            // SAFETY: the only experimental feature asked for is cooperative matrices. They are used by kernels of
            // this crate alone, which validate, load and store within workgroup memory of a fixed size under naga's
            // index checks, and must have passed a trial on this very device before anything relies on them.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let limits = adapter.limits();
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("residua"),
                required_features: features,
                required_limits: limits,
                experimental_features,
                memory_hints: wgpu::MemoryHints::Manual { suballocated_device_memory_block_size: BLOCKS },
                trace: wgpu::Trace::Off,
            })
            .await
            .map_err(|e| Error::DeviceLost(format!("`{}` would not open: {e}", adapter.get_info().name)))?;
        let gpu = Self::settle(&adapter, device, queue, true, prefs);
        let fault = gpu.0.fault.clone();
        gpu.0.device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            lock(&fault).get_or_insert_with(|| match e {
                wgpu::Error::OutOfMemory { .. } => {
                    Error::OutOfMemory { need: "some".into(), have: "the driver has none to give".into() }
                }
                other => Error::DeviceLost(other.to_string()),
            });
        }));
        let fault = gpu.0.fault.clone();
        gpu.0.device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lock(&fault).get_or_insert(Error::DeviceLost(message));
            }
        });
        log::info!("{} ({:?}), kernels {:?}", gpu.0.info.name, gpu.0.info.backend, gpu.0.class);
        Ok(gpu)
    }

    /// Works on a device and queue that the host owns. Nothing is waited for unless asked, and the
    /// host's error and device-lost callbacks are left alone. One exception: if the host enabled
    /// [`Gpu::matrix_features`], the matrix kernels are tried out right here, which waits for a few products.
    pub fn adopt(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Self {
        // measuring would wait for the device
        let prefs = Prefs { tune: Tune::Off, ..Prefs::default() };
        Self::settle(adapter, device, queue, false, &prefs)
    }

    /// The optional features kernels use where the adapter has them; a host may ask for fewer.
    pub fn wanted_features() -> wgpu::Features {
        wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY
    }

    /// What the fastest kernels need as well, all together and where the adapter has them all. One of them is
    /// experimental in wgpu: a host that wants it must say so with [`wgpu::ExperimentalFeatures`].
    pub fn matrix_features() -> wgpu::Features {
        adapter::MATRIX_FEATURES
    }

    /// Decides on the kernel family; one that works with matrices must pass its trial first.
    fn settle(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue, owned: bool, prefs: &Prefs) -> Self {
        let info = adapter.get_info();
        let can = Abilities::of(adapter, device.features());
        let class = match prefs.class {
            Some(Class::Simd8) if !can.simd8 => {
                log::warn!("kernels simd8 need subgroups of 8; `{}` gets portable ones", info.name);
                Class::Portable
            }
            Some(asked) if asked.is_matrix() => can.matrix.unwrap_or_else(|| {
                log::warn!("`{}` has no cooperative matrices of halves; it gets portable kernels", info.name);
                Class::Portable
            }),
            Some(asked) => asked,
            None => can.class,
        };
        let build = |class, owned| Self::build(info.clone(), device.clone(), queue.clone(), owned, class, prefs);
        if !class.is_matrix() {
            return build(class, owned);
        }
        let trial = build(class, true); // it waits for its results, also on a device that a host lent
        let outcome = crate::ops::trial(&trial);
        trial.trim();
        trial.reset_peak();
        match outcome {
            Ok(()) if owned => trial,
            Ok(()) => build(class, false),
            Err(reason) => {
                log::warn!("`{}` fails the trial of its matrix kernels and gets portable ones: {reason}", info.name);
                build(Class::Portable, owned)
            }
        }
    }

    pub(super) fn build(
        info: wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        owned: bool,
        class: Class,
        prefs: &Prefs,
    ) -> Self {
        let tuner = tune::Tuner::new(prefs.tune, &info, prefs.cache_folder.as_deref());
        let mut limits = device.limits();
        let cap = |limit: &mut u64, cap: Option<u64>| *limit = cap.map_or(*limit, |most| most.min(*limit));
        cap(&mut limits.max_storage_buffer_binding_size, prefs.binding);
        cap(&mut limits.max_buffer_size, prefs.buffer);
        let pace = Mutex::new(pace::Pace::of(info.device_type));
        let recorder = Mutex::new(recorder::Recorder::new(limits.min_uniform_buffer_offset_alignment));
        Gpu(Arc::new(Inner {
            device,
            queue,
            info,
            limits,
            class,
            operands: prefs.dtype.unwrap_or(DType::F16),
            owned,
            pipelines: pipeline::Cache::default(),
            tuner,
            recorder,
            pace,
            pool: Mutex::default(),
            fault: Arc::default(),
            rehearsal: false,
            staged: AtomicU64::new(0),
        }))
    }

    /// What matrix kernels are built for, if the family in use is one of theirs.
    pub fn matrices(&self) -> Option<Matrices> {
        let edge = match self.0.class {
            Class::Portable | Class::Simd8 => return None,
            Class::Coop8 => 8,
            Class::Coop16 => 16,
        };
        Some(Matrices {
            edge,
            subgroup: self.0.info.subgroup_max_size,
            flat: self.0.info.backend == wgpu::Backend::Metal,
            software: self.0.info.device_type == wgpu::DeviceType::Cpu,
            workgroup_bytes: self.0.limits.max_compute_workgroup_storage_size,
            invocations: self
                .0
                .limits
                .max_compute_invocations_per_workgroup
                .min(self.0.limits.max_compute_workgroup_size_x),
        })
    }
}
