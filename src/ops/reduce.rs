//! Sums over whole tensors, as trees in a fixed order: the metrics of a cache.

use bytemuck::{Pod, Zeroable};

use super::{Across, Lanes, Parts, contract, empty_f32};
use crate::gpu::{Dispatch, Program, shader};
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

/// Of what the sums are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Sizes, |v|.
    One,
    /// Squares.
    Two,
}

/// Σ|x − y|ᵖ, Σ|x|ᵖ and Σ|y|ᵖ (then a zero) over the numbers `which` names: `[4]`, on the device.
///
/// # Panics
/// If the tensors differ in size or the numbers lie outside a part.
#[track_caller]
pub fn difference(x: &Tensor, y: &Tensor, which: Difference, power: Power) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        segments: u32,
        stride: u32,
        len: u32,
        x_at: u32,
        y_at: u32,
        per_segment: u32,
        first: u32,
        pad: u32,
    }
    let Difference { segments, len, x_at, y_at } = which;
    let stride = x.count() / segments;
    let fits = x.count() == y.count() && stride * segments == x.count() && x_at.max(y_at) + len <= stride && len > 0;
    contract!(fits, "difference: {} and {}, {which:?}", x.shape(), y.shape());
    let gpu = x.gpu();
    let (across, lanes) = (Across::on(gpu), Lanes::of(&[stride, len, x_at, y_at]));
    let per_segment = len.div_ceil(PER);
    let partials = segments * per_segment;
    let partial = empty_f32(gpu, [partials, 4]);
    let launch = |x: &Tensor, y: &Tensor, params: Params| {
        Dispatch::new(gpu, first_program(across, lanes, power))
            .bind("x", x)
            .bind("y", y)
            .bind("out", &partial)
            .params(&params)
            .over([(params.segments * params.per_segment) as usize, 1, 1])
            .iterations(across.iterations(PER / lanes.count(), 1, 1))
            .record();
    };
    let u = |v: usize| lanes.steps(v);
    let whole = Params {
        segments: segments as u32,
        stride: u(stride),
        len: u(len),
        x_at: u(x_at),
        y_at: u(y_at),
        per_segment: per_segment as u32,
        first: 0,
        pad: 0,
    };
    if x.bytes().max(y.bytes()) <= gpu.largest_tensor() {
        launch(x, y, whole);
    } else {
        // five bytes a number leave room for what is bound in front of the first
        let cut = Parts::of(len).grain(PER).sharing_bytes(5).cut(gpu);
        for (segment, part) in (0..segments).flat_map(|s| cut.iter().map(move |part| (s, part))) {
            // a binding starts a little before the numbers if it has to
            let window = |t: &Tensor, at: usize| {
                let from = segment * stride + at + part.start;
                let aligned = from / 64 * 64;
                (t.part(t.count(), &(aligned..from + part.len())), u(from - aligned))
            };
            let ((x, x_at), (y, y_at)) = (window(x, x_at), window(y, y_at));
            let first = (segment * per_segment + part.start / PER) as u32;
            let per_segment = part.len().div_ceil(PER) as u32;
            launch(&x, &y, Params { segments: 1, len: u(part.len()), x_at, y_at, per_segment, first, ..whole });
        }
    }
    let (mut sums, mut count) = (partial, partials);
    while count > 1 {
        let fewer = count.div_ceil(PER);
        let out = empty_f32(gpu, [fewer, 4]);
        Dispatch::new(gpu, next_program(across))
            .bind("x", &sums)
            .bind("out", &out)
            .params(&[count as u32, 0, 0, 0])
            .over([fewer, 1, 1])
            .iterations(across.iterations(PER, 1, 1))
            .record();
        (sums, count) = (out, fewer);
    }
    sums.reshape([4])
}

fn first_program(across: Across, lanes: Lanes, power: Power) -> Program {
    let power = match power {
        Power::One => shader::REDUCE_POWER_1,
        Power::Two => shader::REDUCE_POWER_2,
    };
    across.program(shader::REDUCE_DIFFERENCE).define("PER", lanes.steps(PER)).link(lanes.file()).link(power)
}

fn next_program(across: Across) -> Program {
    across.program(shader::REDUCE_TOTAL).define("PER", PER as u32)
}

pub(super) fn programs() -> Vec<Program> {
    let powers = [Power::One, Power::Two];
    let across = Across::ALL.into_iter().flat_map(|across| powers.map(|power| (across, power)));
    let first = across.flat_map(|(across, power)| Lanes::ALL.map(|lanes| first_program(across, lanes, power)));
    first.chain(Across::ALL.map(next_program)).collect()
}
