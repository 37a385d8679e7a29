//! One function per kernel family: check shapes, choose a variant, record a dispatch.
//!
//! A shape that does not fit is a bug of the caller and panics with both sides; data never does.

mod attention;
mod conv;
mod elementwise;
mod heads;
mod join;
mod kernel;
mod lanes;
mod layout;
mod matmul;
mod norm;
mod parts;
mod reduce;
mod step;
mod trial;

pub use attention::{Keys, attention};
pub use conv::{Geometry, conv};
pub use elementwise::{add, add_scaled, affine_channels, choose, euler_step, posterior, renoise, silu, sub};
pub use heads::{Sequences, padded_head, split_heads};
pub(crate) use join::copy_rows;
pub use join::join;
pub use layout::{pack_rgba, permute, rows, window};
pub(crate) use matmul::linear_into;
pub use matmul::{Activation, Gate, Target, linear};
pub use norm::{Modulate, group_norm, layer_norm, rms_norm};
pub(crate) use parts::Parts;
pub use reduce::{Difference, Power, difference};
pub use step::{guide, mix, ranged_noise};
pub(crate) use trial::trial;

use crate::gpu::shader::{self, Source};
use crate::gpu::{Class, Gpu, Program};
use crate::tensor::{DType, Tensor};
use lanes::{Across, Lanes};

/// How the numbers of a result are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// In f32: the residual stream, statistics, and whatever may leave the range of halves.
    Full,
    /// As [`Gpu::operands`] are: what only feeds products.
    Operand,
}

impl Store {
    /// The type of a result whose rows have `last` numbers. An odd row would share words with its neighbour,
    /// so it stays f32.
    pub(crate) fn dtype(self, gpu: &Gpu, last: usize) -> DType {
        match self {
            Store::Operand if last.is_multiple_of(2) => gpu.operands(),
            _ => DType::F32,
        }
    }
}

/// Panics with a formatted message unless the condition holds: the shape contract of an op.
macro_rules! contract {
    ($holds:expr, $($message:tt)+) => {
        assert!($holds, $($message)+)
    };
}
pub(crate) use contract;

/// Every program the host can ask for, for a test that validates them all without a GPU.
pub fn programs() -> Vec<Program> {
    let mut all = attention::programs();
    all.extend(elementwise::programs());
    all.extend(heads::programs());
    all.extend(layout::programs());
    all.extend(matmul::programs());
    all.extend(norm::programs());
    all.extend(reduce::programs());
    all.extend(step::programs());
    all.extend(crate::tensor::int8_programs());
    all.extend(crate::tensor::noise_programs());
    all
}

/// Groups of 64 for one invocation a number.
fn groups_of_64(count: usize) -> [usize; 3] {
    [count.div_ceil(64), 1, 1]
}

fn empty_f32(gpu: &Gpu, shape: impl Into<crate::tensor::Shape>) -> Tensor {
    gpu.empty(shape, DType::F32)
}
