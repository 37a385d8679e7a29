//! What is timed: every kernel family at the sizes the models give it, each with its reference.

mod attention;
mod conv;
mod linear;
mod norm;
mod pass;

use residua::gpu::Gpu;
use residua::tensor::Tensor;

use super::args::BenchSize;
use super::reference::Expected;

/// The 480p video of 51 frames that the full sizes belong to: one sample of the guided pair.
const FRAMES: usize = 15;
const PATCHES: usize = 1590;
const TOKENS: usize = FRAMES * PATCHES;
const WIDTH: usize = 1152;
const HEADS: [usize; 2] = [16, 72];
/// Latent rows and columns of it; the decoder's image has eight times as many.
const LATENT: [usize; 2] = [60, 106];
/// Longest caption.
const CAPTION: usize = 300;

/// Numbers of a result, and what they must be.
pub struct Sample {
    /// Where in the result.
    pub at: Vec<usize>,
    pub expected: Expected,
}

/// A case with its inputs on the device.
pub struct Ready {
    pub launch: Box<dyn Fn() -> Tensor>,
    /// Bytes of what is read: every number once.
    pub reads: u64,
    /// Only asked of the first set of inputs, and only where a kernel is to be checked.
    pub sample: Box<dyn Fn() -> Sample>,
}

/// Makes the inputs of a set; sets differ in their numbers only.
type Prepare = Box<dyn Fn(&Gpu, usize) -> Ready>;

/// One role of one kernel.
pub struct Case {
    /// Model, size, role.
    pub name: &'static str,
    /// The numbers that make its size; the order is that of the kind of case.
    pub shape: Vec<usize>,
    /// Additions and multiplications of the mathematics. 0 where memory alone counts.
    pub flops: f64,
    pub prepare: Prepare,
}

/// All cases of a size, in the order of the table.
pub fn all(size: BenchSize) -> Vec<Case> {
    let full = size == BenchSize::Full;
    let mut all = linear::cases(full);
    all.extend(attention::cases(full));
    all.extend(conv::cases(full));
    all.extend(norm::cases(full));
    all.extend(pass::cases(full));
    all
}

/// A plain product, for the ceiling of whatever multiplies.
pub fn product(n: usize) -> Case {
    linear::square(n)
}

fn bytes(tensors: &[&Tensor]) -> u64 {
    tensors.iter().map(|t| t.bytes()).sum()
}
