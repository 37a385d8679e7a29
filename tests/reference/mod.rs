//! What the kernels are judged by: plain loops, one file per family, mirroring the mathematics and not the
//! kernels' bindings.
//!
//! Loops written over [`Real`] run twice: in f64 they are the truth, in f32 the plain implementation whose
//! error the composite kernels may make twice over.

pub mod activation;
pub mod attention;
pub mod conv;
pub mod elementwise;
pub mod heads;
pub mod matmul;
pub mod norm;
pub mod reduce;

use std::ops::{Add, Div, Mul, Sub};

/// Unit roundoff of f16, and half of the step between its smallest numbers.
const U_HALF: f64 = 1.0 / (1u64 << 11) as f64;
const STEP_HALF: f64 = 1.0 / (1u64 << 25) as f64;
const MAX_HALF: f64 = 65504.0;

/// Unit roundoff of f32: half a unit in the last place, relative.
pub const U: f64 = 1.0 / (1u64 << 24) as f64;

/// The numbers a reference computes in.
pub trait Real:
    Copy + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    fn of(x: f32) -> Self;
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
    fn count(n: usize) -> Self {
        Self::of(n as f32)
    }
}

impl Real for f32 {
    fn of(x: f32) -> Self {
        x
    }
    fn exp(self) -> Self {
        f32::exp(self)
    }
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
}

impl Real for f64 {
    fn of(x: f32) -> Self {
        f64::from(x)
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
}

/// A sum as the dot-product class needs it: its value and the sum of the magnitudes of its terms.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    pub value: f64,
    pub magnitude: f64,
}

impl Sum {
    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.magnitude += term.abs();
    }

    /// `u·|r| + 4·√k·u·Σ|aᵢ·bᵢ|`
    pub fn bound(&self, terms: usize) -> f64 {
        U * self.value.abs() + 4.0 * (terms.max(1) as f64).sqrt() * U * self.magnitude
    }
}

/// What a kernel should give, and how far each number may be off.
#[derive(Clone, Default)]
pub struct Expected {
    pub values: Vec<f64>,
    /// 0 means bit for bit.
    pub bounds: Vec<f64>,
}

impl Expected {
    pub fn push(&mut self, value: f64, bound: f64) {
        self.values.push(value);
        self.bounds.push(bound);
    }

    /// Numbers that must arrive unchanged.
    pub fn exactly(values: impl IntoIterator<Item = f32>) -> Self {
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        Self { bounds: vec![0.0; values.len()], values }
    }

    /// The same result stored as halves: rounded once more, and cut off at the largest of them.
    pub fn in_halves(mut self) -> Self {
        for (value, bound) in self.values.iter_mut().zip(&mut self.bounds) {
            *value = value.clamp(-MAX_HALF, MAX_HALF);
            *bound += U_HALF * (value.abs() + *bound) + STEP_HALF;
        }
        self
    }

    /// The composite class: twice the worst error that the plain f32 loops make in the same group of
    /// numbers (a row, a whole tensor), plus the roundings that no implementation gets around.
    pub fn twice_plain(truth: Vec<f64>, plain: &[f32], floor: &[f64], group: impl Fn(usize) -> usize) -> Self {
        let groups = (0..truth.len()).map(&group).max().map_or(0, |g| g + 1);
        let mut worst = vec![0.0f64; groups];
        for (i, (&t, &p)) in truth.iter().zip(plain).enumerate() {
            worst[group(i)] = worst[group(i)].max((t - f64::from(p)).abs());
        }
        let bounds = floor.iter().enumerate().map(|(i, f)| 2.0 * worst[group(i)] + f).collect();
        Self { values: truth, bounds }
    }
}
