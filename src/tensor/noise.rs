//! Weights that nobody trained: made on the device, for measuring a network at its true size.

use bytemuck::{Pod, Zeroable};

use super::{DType, Shape, Tensor};
use crate::gpu::{Dispatch, Gpu, Program, shader};

/// Numbers of one launch: whole bindings of any adapter.
const STRETCH: usize = 16 << 20;

/// What random numbers look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub mean: f32,
    /// Numbers lie evenly within so much of the mean.
    pub range: f32,
}

impl Spread {
    /// Around 0, with this standard deviation.
    pub fn deviation(deviation: f32) -> Self {
        Self { mean: 0.0, range: deviation * 3f32.sqrt() }
    }

    /// What weights of a layer have whose outputs are to be as large as its inputs.
    pub fn layer(inputs: usize) -> Self {
        Self::deviation((inputs.max(1) as f32).sqrt().recip())
    }

    /// A number on the host, by the same rule but not the same numbers.
    pub fn at(self, seed: u32, i: usize) -> f32 {
        let mut z = (u64::from(seed) << 32 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.mean + self.range * (((z >> 40) as f32) / (1u32 << 23) as f32 - 1.0)
    }
}

/// A tensor of such numbers, the same for the same seed.
pub(super) fn noise(gpu: &Gpu, shape: Shape, dtype: DType, seed: u32, spread: Spread) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        count: u32,
        numbers: u32,
        first: u32,
        seed: u32,
        mean: f32,
        range: f32,
        pad: [u32; 2],
    }
    let out = gpu.empty(shape, dtype);
    let all = out.count();
    for first in (0..all).step_by(STRETCH) {
        let numbers = STRETCH.min(all - first);
        let count = numbers.div_ceil(2);
        Dispatch::new(gpu, program(dtype))
            .bind("out", &out.part(all, &(first..first + numbers)))
            .params(&Params {
                count: count as u32,
                numbers: numbers as u32,
                first: first as u32,
                seed,
                mean: spread.mean,
                range: spread.range,
                pad: [0; 2],
            })
            .over([count.div_ceil(64), 1, 1])
            .record();
    }
    out
}

fn program(dtype: DType) -> Program {
    Program::of(shader::ELEMENTWISE_NOISE).define("HALVES", u32::from(dtype == DType::F16))
}

pub(crate) fn programs() -> Vec<Program> {
    vec![program(DType::F32), program(DType::F16)]
}
