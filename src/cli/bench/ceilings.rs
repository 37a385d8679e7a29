//! What this adapter reaches on the plainest work there is: the measure of everything else, taken in the same run.

use std::time::Instant;

use residua::Result;
use residua::gpu::{Dispatch, Gpu, Program, shader};
use residua::wgpu;
use serde_json::{Value, json};

use super::args::BenchSize;
use super::cases;
use super::measure::{self, Budget};

/// What was reached.
pub struct Ceilings {
    /// Bytes per second, read and written, of a kernel that copies.
    pub copy_kernel: f64,
    /// The same of the driver's own copy between buffers, by the host's clock.
    pub copy_buffer: f64,
    /// Floating-point operations per second of multiply-adds in registers.
    pub fma: f64,
    /// The same of our own large product: matrix units, where they are used, are faster than `fma`.
    pub matmul: f64,
}

impl Ceilings {
    /// Measures them all.
    ///
    /// # Errors
    /// What [`Gpu::submit`] returns.
    pub fn measure(gpu: &Gpu, size: BenchSize, budget: &Budget) -> Result<Self> {
        let n = if size == BenchSize::Full { 4096 } else { 1024 };
        let product = cases::product(n);
        // a wrong product is no measure of anything
        let matmul = match measure::check(gpu, &product)?.wrong {
            None => product.flops / measure::time(gpu, &product, budget)?.median(),
            Some(_) => 0.0,
        };
        Ok(Self { copy_kernel: copy_kernel(gpu, budget)?, copy_buffer: copy_buffer(gpu)?, fma: fma(gpu)?, matmul })
    }

    /// Bytes per second.
    pub fn memory(&self) -> f64 {
        self.copy_kernel.max(self.copy_buffer)
    }

    /// Floating-point operations per second.
    pub fn math(&self) -> f64 {
        self.fma.max(self.matmul)
    }

    /// The least time for so much work: seconds, and which ceiling it touches.
    pub fn least(&self, bytes: f64, flops: f64) -> (f64, &'static str) {
        let (memory, math) = (bytes / self.memory(), flops / self.math());
        if math > memory { (math, "math") } else { (memory, "memory") }
    }

    /// For programs.
    pub fn fields(&self) -> Value {
        json!({
            "copy_kernel_gb_s": self.copy_kernel / 1e9,
            "copy_buffer_gb_s": self.copy_buffer / 1e9,
            "fma_gflop_s": self.fma / 1e9,
            "matmul_gflop_s": self.matmul / 1e9,
        })
    }
}

/// Far more than caches hold, within what a binding may.
fn large(gpu: &Gpu) -> u64 {
    (256u64 << 20).min(gpu.largest_tensor()) / 2
}

fn copy_kernel(gpu: &Gpu, budget: &Budget) -> Result<f64> {
    let bytes = large(gpu);
    let numbers = bytes as usize / 4;
    let zeros = vec![0.0; numbers];
    let (x, out) = (gpu.upload(&zeros, [numbers]), gpu.upload(&zeros, [numbers]));
    let launch = || {
        let count = numbers / 4;
        Dispatch::new(gpu, Program::of(shader::BENCH_COPY))
            .bind("x", &x)
            .bind("out", &out)
            .params(&[count as u32, 0, 0, 0])
            .over([count.div_ceil(64), 1, 1])
            .record();
    };
    let seconds = measure::repeat(gpu, budget, |_| launch())?;
    Ok(2.0 * bytes as f64 / seconds.median())
}

/// Several copies in one submission, so that handing it over does not count.
fn copy_buffer(gpu: &Gpu) -> Result<f64> {
    const COPIES: u32 = 8;
    let size = large(gpu);
    let buffer = || {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("ceiling"),
            size,
            usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    };
    let (from, to) = (buffer(), buffer());
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for _ in 0..COPIES {
            encoder.copy_buffer_to_buffer(&from, 0, &to, 0, size);
        }
        let commands = encoder.finish();
        gpu.wait()?;
        let start = Instant::now();
        gpu.queue().submit([commands]);
        gpu.wait()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * size as f64 * f64::from(COPIES) / best)
}

/// More and more of it, until it takes long enough for every core to be busy.
fn fma(gpu: &Gpu) -> Result<f64> {
    const STEPS: u32 = 1024;
    const FLOPS: f64 = 64.0 * 64.0 * STEPS as f64; // of a workgroup: 32 multiply-adds a step
    let x = gpu.upload(&[0.5, 0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7], [8]);
    let out = gpu.upload(&[0.0; 8], [8]);
    let mut best = 0.0f64;
    let mut groups = 256;
    let mut repeats = 0;
    while repeats < 5 {
        let program = Program::of(shader::BENCH_FMA).define("STEPS", STEPS);
        let timing = gpu.timed(|| {
            Dispatch::new(gpu, program).bind("x", &x).bind("out", &out).over([groups, 1, 1]).record();
        })?;
        let seconds = timing.duration.as_secs_f64();
        if repeats == 0 && seconds < 0.01 && groups < 1 << 20 {
            groups *= 2;
            continue;
        }
        best = best.max(FLOPS * groups as f64 / seconds);
        repeats += 1;
    }
    Ok(best)
}
