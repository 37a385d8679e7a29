//! One device for each kernel family, opened once and shared by all tests.

use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

use residua::gpu::{Class, DType, Gpu, Prefs};
use residua::tensor::{Checkpoint, Shape, Tensor, Weights};
use residua::wgpu;

/// Runs a check on every kernel family, with operands in halves. One test at a time uses a device, so that which
/// buffers the pool hands out is known; a family that the adapter lacks is skipped aloud.
pub fn on_each(family: &str, check: impl Fn(&Gpu)) {
    on_each_with(&[DType::F16], family, check);
}

/// [`on_each`], with operands in f32 as well.
pub fn on_each_type(family: &str, check: impl Fn(&Gpu)) {
    on_each_with(&[DType::F16, DType::F32], family, check);
}

fn on_each_with(dtypes: &[DType], family: &str, check: impl Fn(&Gpu)) {
    type Slot = OnceLock<Option<Mutex<Gpu>>>;
    static DEVICES: [[Slot; Class::ALL.len()]; 2] = [const { [const { OnceLock::new() }; Class::ALL.len()] }; 2];
    for (dtype, slots) in dtypes.iter().zip(&DEVICES) {
        for (class, slot) in Class::ALL.into_iter().zip(slots) {
            match slot.get_or_init(|| open(class, *dtype)) {
                Some(gpu) => check(&gpu.lock().unwrap_or_else(PoisonError::into_inner)),
                None => say(&format!("skip {family} on {class:?}: the adapter cannot do it")),
            }
        }
    }
}

fn open(class: Class, dtype: DType) -> Option<Mutex<Gpu>> {
    let device = std::env::var("RESIDUA_DEVICE").ok();
    let prefs = Prefs { device, class: Some(class), dtype: Some(dtype), ..Prefs::default() };
    let gpu = pollster::block_on(Gpu::open(&prefs)).expect("a device for the kernel tests");
    let listed = pollster::block_on(residua::gpu::list()).into_iter().find(|l| l.info == *gpu.info());
    // what has matrices must pass the trial of their kernels
    assert!(gpu.class() == class || listed.and_then(|l| l.matrix) != Some(class), "{class:?} was refused");
    (gpu.class() == class).then(|| Mutex::new(gpu))
}

/// Prints although the test harness keeps what tests print.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A matrix stored as halves. The way there is a checkpoint, as for every model.
pub fn halves(gpu: &Gpu, numbers: &[f32], [n, k]: [usize; 2]) -> Tensor {
    let bytes: Vec<u8> = numbers.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![n, k], &bytes).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), safetensors::serialize([("w", view)], None).unwrap()).unwrap();
    let weights = Weights::new(gpu, Checkpoint::open(file.path()).unwrap().into(), "");
    weights.matrix("w", [n, k]).unwrap()
}

/// Numbers kept as a device keeps operands.
pub fn operands(gpu: &Gpu, numbers: &[f32], shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    match gpu.operands() {
        DType::F32 => gpu.upload(numbers, shape),
        DType::F16 => halves(gpu, numbers, [1, numbers.len()]).reshape(shape),
    }
}

/// What is left of numbers that are kept as operands.
pub fn kept(gpu: &Gpu, numbers: Vec<f32>) -> Vec<f32> {
    if gpu.operands() == DType::F16 { rounded(numbers) } else { numbers }
}

/// Rounded to half precision and back.
pub fn rounded(mut numbers: Vec<f32>) -> Vec<f32> {
    numbers.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
    numbers
}

/// What a product with a weight in halves sees of f32 inputs. Matrix units take halves: `matmul/coop`, which runs
/// where channels come in eights, rounds a 64th of each number to one, and no further out than halves go.
pub fn multiplied(gpu: &Gpu, mut numbers: Vec<f32>, channels: usize) -> Vec<f32> {
    if gpu.class().is_matrix() && channels.is_multiple_of(8) {
        let seen = |v: f32| half::f16::from_f32((v / 64.0).clamp(-65504.0, 65504.0)).to_f32() * 64.0;
        numbers.iter_mut().for_each(|v| *v = seen(*v));
    }
    numbers
}

/// Words for kernels that read integers.
pub fn words(gpu: &Gpu, words: &[u32], shape: &[usize]) -> Tensor {
    let numbers: Vec<f32> = words.iter().map(|&w| f32::from_bits(w)).collect();
    gpu.upload(&numbers, shape)
}

/// What a buffer holds from byte `from` on, as words.
pub fn tail(gpu: &Gpu, buffer: &wgpu::Buffer, from: u64) -> Vec<u32> {
    let size = buffer.size() - from;
    if size == 0 {
        return Vec::new();
    }
    let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("tail"),
        size,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(buffer, from, &staging, 0, size);
    gpu.queue().submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |outcome| outcome.unwrap());
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let view = staging.get_mapped_range(..).unwrap();
    view.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
