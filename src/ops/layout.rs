//! Moving numbers without changing them.

use super::{Lanes, Parts, contract, empty_f32, groups_of_64};
use crate::gpu::{Dispatch, Program, shader};
use crate::tensor::{DType, Tensor};

/// Reorders up to eight axes: axis `a` of the result is axis `order[a]` of x. Halves move in pairs.
///
/// # Panics
/// If `order` is no permutation of the axes of x, or would part two halves.
#[track_caller]
pub fn permute(x: &Tensor, order: &[usize]) -> Tensor {
    if x.dtype() == DType::F16 {
        let last = x.dims().len().saturating_sub(1);
        let pairs = order.last() == Some(&last) && x.dims()[last].is_multiple_of(2);
        contract!(pairs, "permute: halves {} by {order:?}", x.shape());
        let shape: Vec<usize> = order.iter().map(|&a| x.dims()[a]).collect();
        return permute(&x.as_words(), order).as_halves().reshape(shape);
    }
    let dims = x.dims();
    let mut seen = order.to_vec();
    seen.sort_unstable();
    let fits = seen.iter().copied().eq(0..dims.len()) && dims.len() <= 8;
    contract!(fits, "permute: {} by {order:?}", x.shape());
    let shape: Vec<usize> = order.iter().map(|&a| dims[a]).collect();
    let out = empty_f32(x.gpu(), shape);
    // axes that stay in front can be cut: what is behind them moves within
    let front =
        order.iter().enumerate().take_while(|(a, source)| a == *source).count().min(dims.len().saturating_sub(1));
    let rows: usize = dims[..front].iter().product();
    let place = usize::from(front > 0);
    let inner: Vec<usize> = (0..place).chain(order[front..].iter().map(|a| a - front + place)).collect();
    for part in Parts::of(rows).sharing(x).cut(x.gpu()) {
        let sizes: Vec<usize> = [part.len()].into_iter().take(place).chain(dims[front..].iter().copied()).collect();
        let (plan, count) = (Plan::of(&sizes, &inner), sizes.iter().product::<usize>());
        Dispatch::new(x.gpu(), permute_program(plan.take, plan.axes.len() - 1))
            .bind("x", &x.part(rows, &part))
            .bind("out", &out.part(rows, &part))
            .params(&plan.params(count))
            .over(groups_of_64(count / plan.take.lanes().count()))
            .record();
    }
    out
}

/// What an invocation of a permutation reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    /// Numbers that stay neighbours.
    Whole(Lanes),
    /// Four that become neighbours.
    Apart,
}

impl Take {
    const ALL: [Take; 4] =
        [Take::Whole(Lanes::Ones), Take::Whole(Lanes::Pairs), Take::Whole(Lanes::Fours), Take::Apart];

    fn lanes(self) -> Lanes {
        match self {
            Take::Whole(lanes) => lanes,
            Take::Apart => Lanes::Fours,
        }
    }
}

/// A permutation with as few axes as possible.
struct Plan {
    take: Take,
    /// (size, stride in x) of the result's axes, innermost first.
    axes: Vec<(usize, usize)>,
}

impl Plan {
    fn of(dims: &[usize], order: &[usize]) -> Self {
        let stride = |a: usize| dims[a + 1..].iter().product::<usize>();
        let mut axes: Vec<(usize, usize)> = Vec::new();
        for (size, stride) in order.iter().rev().map(|&a| (dims[a], stride(a))).filter(|(size, _)| *size != 1) {
            match axes.last_mut() {
                // neighbours in x as in the result
                Some((inner, by)) if stride == *inner * *by => *inner *= size,
                _ => axes.push((size, stride)),
            }
        }
        if axes.is_empty() {
            axes.push((1, 1));
        }
        let (size, by) = axes[0];
        let mut whole = vec![size];
        whole.extend(axes[1..].iter().map(|(_, stride)| stride));
        let take = match Lanes::of(&whole) {
            lanes if by == 1 => Take::Whole(lanes),
            _ if size.is_multiple_of(4) => Take::Apart,
            _ => Take::Whole(Lanes::Ones),
        };
        Self { take, axes }
    }

    fn params(&self, count: usize) -> [[u32; 4]; 5] {
        let lanes = self.take.lanes();
        let mut params = [[1u32; 4], [1; 4], [0; 4], [0; 4], [lanes.steps(count), self.axes[0].1 as u32, 0, 0]];
        for (a, &(size, stride)) in self.axes.iter().enumerate() {
            params[a / 4][a % 4] = if a == 0 { lanes.steps(size) } else { size as u32 };
            params[2 + a / 4][a % 4] = match self.take {
                Take::Whole(_) if a == 0 => stride as u32,
                Take::Whole(_) => lanes.steps(stride),
                Take::Apart if a == 0 => 4 * stride as u32,
                Take::Apart => stride as u32,
            };
        }
        params
    }
}

/// `inner`: axes but the outermost.
fn permute_program(take: Take, inner: usize) -> Program {
    let file = if take == Take::Apart { shader::LAYOUT_TAKE_APART } else { shader::LAYOUT_TAKE_WHOLE };
    Program::of(shader::LAYOUT_PERMUTE).define("INNER", inner as u32).link(file).link(take.lanes().file())
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
    // the innermost axis in steps of as many numbers as divide all of it
    let lanes = match axes.last_mut() {
        Some((from, size, shift)) => {
            let lanes = Lanes::of(&[*from, *size, shift.unsigned_abs()]);
            let by = lanes.count();
            (*from, *size, *shift) = (*from / by, *size / by, *shift / by as isize);
            lanes
        }
        None => Lanes::Ones,
    };
    let count = lanes.steps(to.iter().product());
    let mut params = [[1u32; 4], [1; 4], [0; 4], [count, 0, 0, 0]];
    let first = 4 - axes.len();
    for (i, (from, size, shift)) in axes.into_iter().enumerate() {
        params[0][first + i] = from as u32;
        params[1][first + i] = size as u32;
        params[2][first + i] = shift as i32 as u32;
    }
    let out = empty_f32(x.gpu(), to);
    Dispatch::new(x.gpu(), Program::of(shader::LAYOUT_WINDOW).link(lanes.file()))
        .bind("x", x)
        .bind("out", &out)
        .params(&params)
        .over(groups_of_64(count as usize))
        .record();
    out
}

/// Rows of a matrix by index, any number of times. x: `[.., C]`, `index`: words → `[index, C]`, kept as x is.
///
/// # Panics
/// If an index is outside the matrix, or rows of halves are no whole words.
pub fn rows(x: &Tensor, index: &[u32]) -> Tensor {
    let [have, c] = x.as_rows();
    contract!(index.iter().all(|&i| (i as usize) < have), "rows: {index:?} of {}", x.shape());
    let picked = x.gpu().upload_words(index, [index.len()]);
    let out = x.gpu().empty([index.len(), c], x.dtype());
    let words = c * x.dtype().size() / 4;
    contract!(words * 4 == c * x.dtype().size(), "rows: {:?} of odd length", x);
    let lanes = Lanes::of(&[words]);
    let count = lanes.steps(index.len() * words);
    Dispatch::new(x.gpu(), Program::of(shader::LAYOUT_ROWS).link(lanes.file()))
        .bind("x", x)
        .bind("index", &picked)
        .bind("out", &out)
        .params(&[count, lanes.steps(words), 0, 0])
        .over(groups_of_64(count as usize))
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
    let by_lanes = [shader::LAYOUT_WINDOW, shader::LAYOUT_ROWS];
    let mut all = vec![Program::of(shader::LAYOUT_RGBA)];
    all.extend(by_lanes.into_iter().flat_map(|main| Lanes::ALL.map(|lanes| Program::of(main).link(lanes.file()))));
    all.extend((0..8).flat_map(|inner| Take::ALL.map(|take| permute_program(take, inner))));
    all
}
