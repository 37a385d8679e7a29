//! Sums over whole tensors, as trees in a fixed order: the metrics of a cache.

use bytemuck::{Pod, Zeroable};

use super::{ROW_WIDTHS, contract, empty_f32, row_width};
use crate::gpu::{Dispatch, Gpu, Program, shader};
use crate::tensor::Tensor;

/// Numbers one workgroup adds up.
const PER: usize = 2048;

/// Which numbers of two tensors are compared: in every one of `segments` equal parts, `len` numbers from
/// `x_at` in x with those from `y_at` in y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Equal parts of both tensors (samples of a batch).
    pub segments: usize,
    /// Numbers compared in each.
    pub len: usize,
    /// Where they start in a part of x.
    pub x_at: usize,
    /// Where they start in a part of y.
    pub y_at: usize,
}

/// Σ|x − y|, Σ|x| and Σ|y| (then a zero) over the numbers `which` names: `[4]`, on the device.
///
/// # Panics
/// If the tensors differ in size or the numbers lie outside a part.
#[track_caller]
pub fn difference(x: &Tensor, y: &Tensor, which: Difference) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        segments: u32,
        stride: u32,
        len: u32,
        x_at: u32,
        y_at: u32,
        per_segment: u32,
        pad: [u32; 2],
    }
    let Difference { segments, len, x_at, y_at } = which;
    let stride = x.count() / segments;
    let fits = x.count() == y.count() && stride * segments == x.count() && x_at.max(y_at) + len <= stride && len > 0;
    contract!(fits, "difference: {} and {}, {which:?}", x.shape(), y.shape());
    let gpu = x.gpu();
    let per_segment = len.div_ceil(PER);
    let partials = segments * per_segment;
    let partial = empty_f32(gpu, [partials, 4]);
    Dispatch::new(gpu, program(gpu, Step::First))
        .bind("x", x)
        .bind("y", y)
        .bind("out", &partial)
        .params(&Params {
            segments: segments as u32,
            stride: stride as u32,
            len: len as u32,
            x_at: x_at as u32,
            y_at: y_at as u32,
            per_segment: per_segment as u32,
            pad: [0; 2],
        })
        .over([partials, 1, 1])
        .record();
    let (mut sums, mut count) = (partial, partials);
    while count > 1 {
        let fewer = count.div_ceil(PER);
        let out = empty_f32(gpu, [fewer, 4]);
        Dispatch::new(gpu, program(gpu, Step::Next))
            .bind("x", &sums)
            .bind("out", &out)
            .params(&[count as u32, 0, 0, 0])
            .over([fewer, 1, 1])
            .record();
        (sums, count) = (out, fewer);
    }
    sums.reshape([4])
}

#[derive(Clone, Copy)]
enum Step {
    First,
    Next,
}

fn program(gpu: &Gpu, step: Step) -> Program {
    program_for(row_width(gpu), step)
}

fn program_for(width: u32, step: Step) -> Program {
    let file = match step {
        Step::First => shader::REDUCE_DIFFERENCE,
        Step::Next => shader::REDUCE_TOTAL,
    };
    Program::of(file).define("WIDTH", width).define("PER", PER as u32)
}

pub(super) fn programs() -> Vec<Program> {
    ROW_WIDTHS.into_iter().flat_map(|w| [program_for(w, Step::First), program_for(w, Step::Next)]).collect()
}
