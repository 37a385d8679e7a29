//! Checks a case, then times it.

use std::time::Instant;

use residua::Result;
use residua::gpu::{Clock, Gpu};
use residua::ops;
use residua::tensor::{DType, Tensor};

use super::cases::{Case, Ready};

/// A quiet NaN of f32, and two of f16.
const POISON: u32 = 0x7fff_7fff;
/// A stretch of launches that clocks resolve well.
const STRETCH: f64 = 0.001;
const MOST_LAUNCHES: usize = 64;
const MOST_SAMPLES: usize = 400;
const LEAST_SAMPLES: usize = 5;
const MOST_SETS: u64 = 64;

/// How long to measure, and with how much memory.
pub struct Budget {
    /// Seconds of repetitions a case.
    pub seconds: f64,
    /// Inputs are rotated until this many bytes lie between two uses of the same.
    pub beyond_caches: u64,
    /// All sets of inputs together stay below this.
    pub memory: u64,
}

impl Budget {
    pub fn new(gpu: &Gpu, seconds: f64) -> Self {
        // no interface tells a GPU's last cache; 128 MiB is as large as those in wide use are
        let (cache, memory) = match gpu.info().device_type {
            residua::wgpu::DeviceType::Cpu => (last_cache_of_host().unwrap_or(32 << 20), 512 << 20),
            _ => (128 << 20, 2 << 30),
        };
        Self { seconds, beyond_caches: 4 * cache, memory }
    }
}

/// Linux only.
fn last_cache_of_host() -> Option<u64> {
    let read = |i: u32| std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size")).ok();
    let text = (0..8).map_while(read).last()?;
    let text = text.trim();
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let number: u64 = number.parse().ok()?;
    match unit {
        "K" => Some(number << 10),
        "M" => Some(number << 20),
        _ => None,
    }
}

/// Seconds of one launch, as often as it was measured.
pub struct Times {
    sorted: Vec<f64>,
    /// Launches between two looks at the clock.
    pub launches: usize,
    pub clock: Clock,
    /// Sets of inputs in rotation.
    pub sets: usize,
    /// Bytes read and written by one launch, every number once.
    pub bytes: f64,
}

impl Times {
    /// The share of samples below which a time lies.
    pub fn at(&self, share: f64) -> f64 {
        self.sorted[((self.sorted.len() - 1) as f64 * share).round() as usize]
    }

    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    pub fn samples(&self) -> usize {
        self.sorted.len()
    }
}

/// How a check went.
pub struct Verdict {
    /// Numbers compared with the reference.
    pub compared: usize,
    /// Largest share of its bound that one of them used up.
    pub worst: f64,
    /// What is wrong, if something is.
    pub wrong: Option<String>,
}

/// Launches a case into memory full of NaN and compares a sample of the result with its reference; the rest of it
/// must at least have been written.
///
/// # Errors
/// What [`Gpu::submit`] returns.
pub fn check(gpu: &Gpu, case: &Case) -> Result<Verdict> {
    let ready = (case.prepare)(gpu, 0);
    let first = (ready.launch)();
    gpu.submit()?;
    let poisoned = poison(gpu, &first);
    drop(first);
    let buffer = poisoned.buffer().clone();
    drop(poisoned);
    let out = (ready.launch)();
    if *out.buffer() != buffer {
        log::debug!("{}: the result is not in the poisoned buffer", case.name);
    }
    let values = out.read_blocking()?;
    let sample = (ready.sample)();
    let expected = match out.dtype() {
        DType::F32 => sample.expected,
        DType::F16 => sample.expected.in_halves(),
    };
    let mut verdict = Verdict { compared: sample.at.len(), worst: 0.0, wrong: None };
    if let Some(i) = values.iter().position(|v| v.is_nan()) {
        verdict.wrong = Some(format!("number {i} of {} is NaN or was never written", values.len()));
    }
    for (&at, (&want, &bound)) in sample.at.iter().zip(expected.values.iter().zip(&expected.bounds)) {
        let off = (f64::from(values[at]) - want).abs();
        // a device may flush numbers below the normal ones to zero
        let allowed = if bound > 0.0 { bound + f64::from(f32::MIN_POSITIVE) } else { 0.0 };
        let share = if off == 0.0 { 0.0 } else { off / allowed };
        if verdict.wrong.is_none() && (share.is_nan() || share > 1.0) {
            verdict.wrong = Some(format!("number {at} is {}, expected {want} within {bound:e}", values[at]));
        }
        verdict.worst = verdict.worst.max(share);
    }
    Ok(verdict)
}

/// NaN in a buffer as that of `like`, which is the next one the pool hands out once both are dropped, this one last.
fn poison(gpu: &Gpu, like: &Tensor) -> Tensor {
    let words = like.bytes().div_ceil(4) as usize;
    let nan = gpu.upload(&vec![f32::from_bits(POISON); words], [words]);
    ops::window(&nan, &[0], &[words])
}

/// Times a case on rotating inputs. The result is dropped at once, so that the next launch writes where the last one
/// did and waits for it, as the steps of a model do.
///
/// # Errors
/// What [`Gpu::submit`] returns.
pub fn time(gpu: &Gpu, case: &Case, budget: &Budget) -> Result<Times> {
    let first = (case.prepare)(gpu, 0);
    let bytes = first.reads + (first.launch)().bytes();
    let wanted = budget.beyond_caches.div_ceil(first.reads.max(1)).max(2);
    let fits = (budget.memory / first.reads.max(1)).max(1);
    let sets = wanted.min(fits).min(MOST_SETS) as usize;
    let mut ready: Vec<Ready> = vec![first];
    ready.extend((1..sets).map(|set| (case.prepare)(gpu, set)));
    let times = repeat(gpu, budget, |i| drop((ready[i % sets].launch)()))?;
    Ok(Times { sets, bytes: bytes as f64, ..times })
}

/// Times numbered launches, after some that warm up.
///
/// # Errors
/// What [`Gpu::submit`] returns.
pub fn repeat(gpu: &Gpu, budget: &Budget, launch: impl Fn(usize)) -> Result<Times> {
    // the first one may compile
    gpu.timed(|| launch(0))?;
    let one = gpu.timed(|| launch(1))?.duration.as_secs_f64().max(1e-7);
    let launches = ((STRETCH / one).ceil() as usize).clamp(1, MOST_LAUNCHES);
    let (mut sorted, mut clock, mut next) = (Vec::new(), Clock::Host, 2);
    let start = Instant::now();
    while sorted.len() < MOST_SAMPLES
        && (sorted.len() < LEAST_SAMPLES || start.elapsed().as_secs_f64() < budget.seconds)
    {
        let timing = gpu.timed(|| (0..launches).for_each(|i| launch(next + i)))?;
        next += launches;
        clock = timing.clock;
        sorted.push(timing.duration.as_secs_f64() / launches as f64);
    }
    sorted.sort_by(f64::total_cmp);
    Ok(Times { sorted, launches, clock, sets: 1, bytes: 0.0 })
}
