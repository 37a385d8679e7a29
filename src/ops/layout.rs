//! Moving numbers without changing them.

use super::{contract, empty_f32, groups_of_64};
use crate::gpu::{Dispatch, Program, shader};
use crate::tensor::Tensor;

/// Reorders up to eight axes: axis `a` of the result is axis `order[a]` of x.
///
/// # Panics
/// If `order` is no permutation of the axes of x.
#[track_caller]
pub fn permute(x: &Tensor, order: &[usize]) -> Tensor {
    let dims = x.dims();
    let mut seen = order.to_vec();
    seen.sort_unstable();
    let fits = seen.iter().copied().eq(0..dims.len()) && dims.len() <= 8;
    contract!(fits, "permute: {} by {order:?}", x.shape());
    let mut strides = vec![1u32; dims.len()];
    for a in (1..dims.len()).rev() {
        strides[a - 1] = strides[a] * dims[a] as u32;
    }
    let shape: Vec<usize> = order.iter().map(|&a| dims[a]).collect();
    // right-aligned to eight axes: sizes, then strides, then the count
    let mut params = [[1u32; 4], [1; 4], [0; 4], [0; 4], [x.count() as u32, 0, 0, 0]];
    for (a, &source) in order.iter().enumerate() {
        let slot = a + 8 - order.len();
        params[slot / 4][slot % 4] = dims[source] as u32;
        params[2 + slot / 4][slot % 4] = strides[source];
    }
    let out = empty_f32(x.gpu(), shape);
    Dispatch::new(x.gpu(), Program::of(shader::LAYOUT_PERMUTE))
        .bind("x", x)
        .bind("out", &out)
        .params(&params)
        .over(groups_of_64(x.count()))
        .record();
    out
}

/// Pads with zeros or crops: axis `a` of the result has `to[a]` entries and starts `before[a]` before that of x
/// (negative: inside it). Up to four axes of x may change; neighbouring equal ones are joined.
///
/// # Panics
/// If the number of axes differs or more than four groups of axes remain.
#[track_caller]
pub fn window(x: &Tensor, before: &[isize], to: &[usize]) -> Tensor {
    let dims = x.dims();
    contract!(before.len() == dims.len() && to.len() == dims.len(), "window: {} to {to:?}", x.shape());
    // axes that stay whole join the one before them
    let mut axes: Vec<(usize, usize, isize)> = Vec::new();
    for a in 0..dims.len() {
        let whole = dims[a] == to[a] && before[a] == 0;
        match axes.last_mut() {
            Some((from, size, shift)) if whole => {
                *from *= dims[a];
                *size *= to[a];
                *shift *= dims[a] as isize;
            }
            _ => axes.push((dims[a], to[a], before[a])),
        }
    }
    contract!(axes.len() <= 4, "window: {} to {to:?} changes too many axes", x.shape());
    let count: usize = to.iter().product();
    let mut params = [[1u32; 4], [1; 4], [0; 4], [count as u32, 0, 0, 0]];
    let first = 4 - axes.len();
    for (i, (from, size, shift)) in axes.into_iter().enumerate() {
        params[0][first + i] = from as u32;
        params[1][first + i] = size as u32;
        params[2][first + i] = shift as i32 as u32;
    }
    let out = empty_f32(x.gpu(), to);
    Dispatch::new(x.gpu(), Program::of(shader::LAYOUT_WINDOW))
        .bind("x", x)
        .bind("out", &out)
        .params(&params)
        .over(groups_of_64(count))
        .record();
    out
}

/// Rows of a matrix by index, any number of times. x: `[.., C]`, `index`: words → `[index, C]`.
pub fn rows(x: &Tensor, index: &[u32]) -> Tensor {
    let [have, c] = x.as_rows();
    contract!(index.iter().all(|&i| (i as usize) < have), "rows: {index:?} of {}", x.shape());
    let picked = x.gpu().upload_words(index, [index.len()]);
    let out = empty_f32(x.gpu(), [index.len(), c]);
    Dispatch::new(x.gpu(), Program::of(shader::LAYOUT_ROWS))
        .bind("x", x)
        .bind("index", &picked)
        .bind("out", &out)
        .params(&[(index.len() * c) as u32, c as u32, 0, 0])
        .over(groups_of_64(index.len() * c))
        .record();
    out
}

/// Pixels in [−1, 1] to bytes. x: `[3, T, H, W]` → RGBA words `[T, H, stride]`, rows padded to `stride` pixels.
///
/// # Panics
/// If x has not three channels or the stride is too small.
#[track_caller]
pub fn pack_rgba(x: &Tensor, stride: usize) -> Tensor {
    let [channels, t, h, w] = x.sizes();
    contract!(channels == 3 && stride >= w, "pack_rgba: {} with rows of {stride}", x.shape());
    let count = t * h * stride;
    let out = empty_f32(x.gpu(), [t, h, stride]);
    Dispatch::new(x.gpu(), Program::of(shader::LAYOUT_RGBA))
        .bind("x", x)
        .bind("out", &out)
        .params(&[count as u32, (t * h * w) as u32, w as u32, stride as u32])
        .over(groups_of_64(count))
        .record();
    out
}

pub(super) fn programs() -> Vec<Program> {
    [shader::LAYOUT_PERMUTE, shader::LAYOUT_WINDOW, shader::LAYOUT_ROWS, shader::LAYOUT_RGBA].map(Program::of).to_vec()
}
