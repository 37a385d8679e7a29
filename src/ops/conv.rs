//! Convolutions as products with the matrix of their patches, which never exists.

use std::ops::Range;

use super::matmul::{Activation, Params, Target, check, launch};
use super::parts::{LONGEST, aligned};
use super::{Parts, Store, contract};
use crate::gpu::shader;
use crate::tensor::Tensor;

/// How a convolution walks over its input. Axes are time, height, width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Taps along each axis.
    pub kernel: [usize; 3],
    /// Zeros in front of each axis. Behind the end whatever the output reaches reads zero.
    pub pad: [usize; 3],
    /// Step along time, and along height and width.
    pub stride: [usize; 2],
    /// Nearest-neighbour enlargement of height and width before the convolution; the large image never exists.
    pub upsample: usize,
    /// Output frames, height and width.
    pub out: [usize; 3],
}

/// A 2D or 3D convolution on channels-last data, as a product with the matrix of its patches.
/// x: `[images, T, H, W, C]`, w: `[N, kt·kh·kw·C]` (tap-major) → `[images, out.., N]`, f32.
///
/// # Panics
/// If the weight does not fit the taps and channels, or `upsample` is no power of two.
#[track_caller]
pub fn conv(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, geometry: &Geometry, target: Target<'_>) -> Tensor {
    let ([images, _, _, _, c], [n, k]) = (x.sizes(), w.sizes());
    let Geometry { kernel, pad, stride, upsample, out } = *geometry;
    let taps = kernel.iter().product::<usize>();
    let fits = k == taps * c && upsample.is_power_of_two();
    contract!(fits, "conv: x {}, w {}, {geometry:?}", x.shape(), w.shape());
    let result = x.gpu().empty([images, out[0], out[1], out[2], n], Store::Full.dtype(x.gpu(), n));
    let (onto, gate) = target.reads();
    check(images * out.iter().product::<usize>(), n, bias, onto, gate);
    let walk = Walk { kernel, pad: pad.map(|p| p as isize), stride: [stride[0], stride[1], stride[1]], upsample };
    conv_into(x, w, bias, walk, target, &result);
    result
}

/// [`Geometry`] without the size of the output. What is in front may lie inside a larger input: then padding is negative.
#[derive(Clone, Copy)]
struct Walk {
    kernel: [usize; 3],
    pad: [isize; 3],
    stride: [usize; 3],
    upsample: usize,
}

/// A convolution into memory that is there already. Where it does not fit one launch it goes image by image, then by
/// stretches of frames, then by stretches of rows: each binds the stretch of its input that it reads.
#[track_caller]
fn conv_into(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, walk: Walk, target: Target<'_>, out: &Tensor) {
    let ([images, t, h, wide, c], [_, out_t, out_h, out_w, n]) = (x.sizes(), out.sizes());
    let (onto, gate) = target.reads();
    let taps = walk.kernel.iter().product::<usize>();
    let (gpu, most) = (x.gpu(), x.gpu().largest_tensor());
    let flops = 2.0 * (out.count() * taps) as f64 * c as f64;
    let small = |x: u64, out: u64, share: f64| x.max(out) <= most && gpu.expected(share * flops, 0.0) <= LONGEST;
    // a gate is for whole images; nothing that has one is cut
    if !small(x.bytes(), out.bytes(), 1.0) && gate.is_none() {
        let pieces = if images > 1 {
            let cut = Parts::of(images).sharing(x).sharing(out).flops(flops).cut(gpu);
            cut.into_iter().map(|range| Piece { out: range.clone(), input: range, pad: None }).collect()
        } else if out_t > 1 {
            walk.pieces(0, [t, out_t], [x, out], small)
        } else if t == 1 {
            walk.pieces(1, [h, out_h], [x, out], small)
        } else {
            Vec::new()
        };
        if pieces.len() > 1 {
            // axes in front of the one that is cut have size 1
            let axis = if images > 1 { 0 } else { 1 + usize::from(out_t == 1) };
            for Piece { input, out: made, pad } in pieces {
                let stretch = |x: &Tensor, range: &Range<usize>| {
                    let mut shape = x.dims().to_vec();
                    let all = std::mem::replace(&mut shape[axis], range.len());
                    x.part(all, range).reshape(shape)
                };
                let mut walk = walk;
                if let Some(pad) = pad {
                    walk.pad[axis - 1] = pad;
                }
                let onto = onto.map(|t| t.part(out.dims()[axis], &made));
                let target = target.reading(onto.as_ref(), None);
                conv_into(&stretch(x, &input), w, bias, walk, target, &stretch(out, &made));
            }
            return;
        }
    }
    let u = |v: usize| v as u32;
    let params = Params {
        m: u(images * out_t * out_h * out_w),
        n: u(n),
        c: u(c),
        c8: u(c.div_ceil(8)),
        taps: u(taps),
        gate: [0; 3],
        input: [u(t), u(h), u(wide), walk.upsample.trailing_zeros()],
        out: [out_t, out_h, out_w, 0].map(u),
        kernel: [walk.kernel[0], walk.kernel[1], walk.kernel[2], walk.stride[0]].map(u),
        pad: [walk.pad[0] as u32, walk.pad[1] as u32, walk.pad[2] as u32, u(walk.stride[1])],
    };
    launch(x, w, bias, Activation::None, target, params, shader::MATMUL_INPUT_CONV, out, None);
}

/// What one launch of several makes, and what of the input it reads.
struct Piece {
    input: Range<usize>,
    out: Range<usize>,
    /// Along the axis that is cut, where that changes it.
    pad: Option<isize>,
}

impl Walk {
    /// Stretches of an axis (0: frames, 1: rows) of `have` places in and `make` places out, each small enough.
    fn pieces(
        &self,
        axis: usize,
        [have, make]: [usize; 2],
        [x, out]: [&Tensor; 2],
        small: impl Fn(u64, u64, f64) -> bool,
    ) -> Vec<Piece> {
        let (stride, kernel, pad) = (self.stride[axis], self.kernel[axis], self.pad[axis]);
        let up = if axis == 0 { 1 } else { self.upsample };
        let [each_in, each_out] = [x.bytes() as usize / have, out.bytes() as usize / make];
        let (grain_in, grain_out) = (aligned(each_in), aligned(each_out));
        let fits = |count: usize| {
            let reads = ((count - 1) * stride + kernel) / up + 1 + grain_in;
            small((reads * each_in) as u64, (count * each_out) as u64, count as f64 / make as f64)
        };
        let mut step = make.next_multiple_of(grain_out);
        while step > grain_out && !fits(step) {
            step = (step / 2).next_multiple_of(grain_out);
        }
        let piece = |first: usize| {
            let last = (first + step).min(make);
            // the first number that is read and the one behind the last, in the enlarged input
            let from = (first * stride) as isize - pad;
            let to = ((last - 1) * stride + kernel) as isize - pad;
            let start = (from.max(0) as usize / up).min(have - 1) / grain_in * grain_in;
            let end = (to.max(1) as usize).div_ceil(up).clamp(start + 1, have);
            Piece { input: start..end, out: first..last, pad: Some((start * up) as isize - from) }
        };
        (0..make).step_by(step).map(piece).collect()
    }
}
