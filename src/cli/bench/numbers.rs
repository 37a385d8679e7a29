//! Inputs of any size that the host need not keep: runs through one pool of seeded numbers.

use std::sync::OnceLock;

use residua::gpu::{DType, Gpu};
use residua::tensor::{Shape, Tensor};

use super::random::Random;

/// A prime, so that rows of no matrix repeat each other.
const POOL: usize = 1_048_573;

fn pool() -> &'static [f32] {
    static POOL_OF_NUMBERS: OnceLock<Vec<f32>> = OnceLock::new();
    POOL_OF_NUMBERS.get_or_init(|| Random::new("bench").numbers(POOL))
}

/// About normal numbers, as a tensor of some type keeps them.
#[derive(Clone, Copy)]
pub struct Numbers {
    start: usize,
    count: usize,
    dtype: DType,
}

impl Numbers {
    /// `stream` tells the inputs of a case, and its sets of them, apart.
    pub fn new(stream: usize, count: usize, dtype: DType) -> Self {
        Self { start: stream.wrapping_mul(350_377) % POOL, count, dtype }
    }

    /// One of them, rounded as it is stored.
    pub fn at(&self, i: usize) -> f32 {
        debug_assert!(i < self.count);
        let number = pool()[(self.start + i) % POOL];
        match self.dtype {
            DType::F32 => number,
            DType::F16 => half::f16::from_f32(number).to_f32(),
        }
    }

    /// Some of them.
    pub fn pick(&self, at: impl IntoIterator<Item = usize>) -> Vec<f32> {
        at.into_iter().map(|i| self.at(i)).collect()
    }

    /// Whole rows of a matrix `[.., width]`, end to end.
    pub fn rows(&self, rows: &[usize], width: usize) -> Vec<f32> {
        self.pick(rows.iter().flat_map(|r| r * width..(r + 1) * width))
    }

    /// All of them on a device.
    pub fn upload(&self, gpu: &Gpu, shape: impl Into<Shape>) -> Tensor {
        let (pool, mut all) = (pool(), Vec::with_capacity(self.count));
        let mut from = self.start;
        while all.len() < self.count {
            let part = (self.count - all.len()).min(POOL - from);
            all.extend_from_slice(&pool[from..from + part]);
            from = 0;
        }
        gpu.upload_as(&all, shape, self.dtype)
    }
}

/// Up to `want` different numbers below `below`: both ends, the rest drawn.
pub fn some(stream: usize, want: usize, below: usize) -> Vec<usize> {
    if below <= want {
        return (0..below).collect();
    }
    let mut random = Random::new(&format!("sample {stream}"));
    let mut found = vec![0, below - 1];
    while found.len() < want {
        let next = random.below(below);
        if !found.contains(&next) {
            found.push(next);
        }
    }
    found
}
