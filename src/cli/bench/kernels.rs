//! `residua bench kernels`: every kernel family at the sizes of the models, checked before it is timed.

use residua::gpu::{Gpu, Prefs};

use crate::cli::args::{BenchKernels, BenchSize};
use crate::cli::exit::Outcome;
use crate::cli::screen::Screen;

/// Runs the verb.
///
/// # Errors
/// No adapter, a filter that fits nothing, a kernel that is wrong.
pub fn run(args: &BenchKernels, screen: &Screen) -> Outcome {
    let prefs = Prefs { device: args.device.device.clone(), class: args.device.kernels, dtype: args.device.dtype };
    let gpu = pollster::block_on(Gpu::open(&prefs))?;
    let software = gpu.info().device_type == residua::wgpu::DeviceType::Cpu;
    let _size = args.size.unwrap_or(if software { BenchSize::Small } else { BenchSize::Full });
    screen.say("no cases yet");
    Ok(())
}
