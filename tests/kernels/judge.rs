//! Runs a case and judges it.

use std::fmt::Display;
use std::time::Instant;

use residua::gpu::Gpu;
use residua::ops;
use residua::tensor::Tensor;
use residua::wgpu;

use super::device::{say, tail};
use super::random::seed;
use super::reference::Expected;

/// A NaN that no kernel makes by itself.
const POISON: u32 = 0x7fc0_dead;
/// Buffer sizes (bytes) at which kernels keep small intermediate results.
const SMALL: [u64; 9] = [256, 512, 768, 1024, 1536, 2048, 2560, 3072, 4096];
/// A result and the intermediates that may share its size.
const COPIES: usize = 4;

/// The cases of one kernel on one device: counts them, and keeps the one closest to its bound.
pub struct Judge<'a> {
    gpu: &'a Gpu,
    family: &'static str,
    cases: usize,
    worst: (f64, String),
    since: Instant,
}

impl<'a> Judge<'a> {
    pub fn new(gpu: &'a Gpu, family: &'static str) -> Self {
        Self { gpu, family, cases: 0, worst: (0.0, "none".into()), since: Instant::now() }
    }

    /// Launches twice and compares with what is expected. Between the launches every buffer the second
    /// one can get from the pool is filled with NaN, so that
    /// - equal bytes mean: the same inputs give the same bits, and nothing depends on old contents;
    /// - NaN behind the result mean: nothing was written there. (A write past the numbers that stays in a
    ///   checked binding lands on the last number instead; that shows as a wrong value.)
    pub fn case(&mut self, name: impl Display, launch: impl Fn() -> Tensor, expected: &Expected) {
        let case = name.to_string();
        let name = format!("{} on {:?}, seed {}: {case}", self.family, self.gpu.class(), seed());
        let first = launch();
        let size = first.buffer().size();
        let values = first.read_blocking().unwrap_or_else(|e| panic!("{name}: {e}"));
        drop(first);
        let poisoned = self.poison(size);
        let second = launch();
        assert!(poisoned.contains(second.buffer()), "{name}: the second result is not in a poisoned buffer");
        let again = second.read_blocking().unwrap_or_else(|e| panic!("{name}: {e}"));
        let differs = values.iter().zip(&again).position(|(a, b)| a.to_bits() != b.to_bits());
        if let Some(i) = differs {
            panic!("{name}: number {i} was {}, then {} into poisoned memory", values[i], again[i]);
        }
        let behind = tail(self.gpu, second.buffer(), second.bytes().next_multiple_of(4));
        assert!(behind.iter().all(|&w| w == POISON), "{name}: something was written behind the result");
        if let Some(share) = self.compare(&name, &values, expected) {
            self.worst = (share, case);
        }
    }

    fn poison(&self, size: u64) -> Vec<wgpu::Buffer> {
        let most = size.max(SMALL[SMALL.len() - 1]) as usize / 4;
        let nan = self.gpu.upload(&vec![f32::from_bits(POISON); most], [most]);
        let sizes = SMALL.iter().filter(|&&s| s != size).chain([&size]);
        let held: Vec<Tensor> = sizes
            .flat_map(|&s| (0..COPIES).map(|_| ops::window(&nan, &[0], &[s as usize / 4])).collect::<Vec<_>>())
            .collect();
        held.iter().map(|t| t.buffer().clone()).collect()
    }

    /// The share of the bound in use, if it is the largest so far.
    fn compare(&mut self, name: &str, values: &[f32], expected: &Expected) -> Option<f64> {
        assert_eq!(values.len(), expected.values.len(), "{name}: count of results");
        let (mut worst, mut at) = (0.0, 0);
        for (i, (&got, (&want, &bound))) in values.iter().zip(expected.values.iter().zip(&expected.bounds)).enumerate()
        {
            let off = (f64::from(got) - want).abs();
            // a device may flush numbers below the normal ones to zero
            let allowed = if bound > 0.0 { bound + f64::from(f32::MIN_POSITIVE) } else { 0.0 };
            let share = if off == 0.0 { 0.0 } else { off / allowed };
            // NaN compares with nothing: it must end here
            if share.is_nan() || share > worst {
                (worst, at) = (share, i);
                if share.is_nan() {
                    break;
                }
            }
        }
        let (got, want, bound) = match values.is_empty() {
            true => (0.0, 0.0, 0.0),
            false => (values[at], expected.values[at], expected.bounds[at]),
        };
        assert!(
            worst <= 1.0,
            "{name}: number {at} is {got}, expected {want} within {bound:e}: {worst:.2} of the bound"
        );
        self.cases += 1;
        (worst > self.worst.0).then_some(worst)
    }

    /// Says how many cases passed and which used most of its bound.
    pub fn finish(self) {
        let (share, name) = &self.worst;
        let spent = self.since.elapsed().as_secs_f64();
        let head = format!("{} on {:?}: {} cases in {spent:.1} s", self.family, self.gpu.class(), self.cases);
        match *share {
            0.0 => say(&format!("{head}, bit for bit")),
            share => say(&format!("{head}, worst {:.0} % of its bound ({name})", 100.0 * share)),
        }
    }
}

/// Numbers that must arrive with these very bits (payloads of NaN included).
pub fn same_bits(name: impl Display, out: &Tensor, expected: &[f32]) {
    let got = out.read_blocking().unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(got.len(), expected.len(), "seed {}: {name}: count of results", seed());
    let differs = got.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(i) = differs {
        panic!(
            "seed {}: {name}: number {i} is {:08x}, expected {:08x}",
            seed(),
            got[i].to_bits(),
            expected[i].to_bits()
        );
    }
}
