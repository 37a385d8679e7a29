//! Projections taken apart into heads, as attention wants them.

use bytemuck::{Pod, Zeroable};

use super::{contract, groups_of_64};
use crate::gpu::shader::{self, Source};
use crate::gpu::{Class, DType, Dispatch, Gpu, Program};
use crate::tensor::Tensor;

/// How token rows form sequences: `problems` of them, `len` long, with `inner` interleaved.
/// Row `r` is place `(r / inner) % len` of its sequence: `inner` = 1 for neighbours (patches of a frame, text),
/// `inner` = S for one patch through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// Tokens of a sequence.
    pub len: usize,
    /// Sequences interleaved row by row.
    pub inner: usize,
}

/// The head dimension as stored: rounded up to whole eights, or to whole matrices of 16; the rest is zero.
pub fn padded_head(gpu: &Gpu, d: usize) -> usize {
    d.next_multiple_of(if gpu.class() == Class::Coop16 { 16 } else { 8 })
}

/// Parts of a projection as heads, all in one pass. x: `[rows, parts · heads · d]` in f32 or halves; the N parts from
/// `first` on, which are q, k and v in this order, each → `[problems, heads, len, padded_head(d)]` kept as
/// [`Gpu::operands`] are. RMS norm over the head (weights `[d]`, eps 1e-6) for as many of the first parts as there are
/// weights, and rotary (angles `[≥ len, d/2, 2]` as cos, sin; interleaved pairs) for all but the third.
///
/// # Panics
/// If the sizes do not fit.
#[track_caller]
pub fn split_heads<const N: usize>(
    x: &Tensor,
    first: usize,
    [heads, d]: [usize; 2],
    seq: Sequences,
    norms: &[&Tensor],
    rotary: Option<&Tensor>,
) -> [Tensor; N] {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        rows: u32,
        parts: u32,
        first: u32,
        heads: u32,
        c: u32,
        c8: u32,
        d8: u32,
        pad0: u32,
        len: u32,
        inner: u32,
        pad: [u32; 2],
    }
    let [rows, width] = x.as_rows();
    let parts = width / (heads * d);
    let fits = parts * heads * d == width && first + N <= parts && rows % (seq.len * seq.inner) == 0;
    contract!(fits, "split_heads: {N} parts of {} from {first}, {heads} heads of {d}, {seq:?}", x.shape());
    contract!((1..=3).contains(&N) && norms.len() <= N.min(2), "split_heads: {N} parts, {} norms", norms.len());
    contract!(norms.iter().all(|w| w.count() == d), "split_heads: norm weights for heads of {d}");
    contract!(
        rotary.is_none_or(|a| d % 2 == 0 && a.count() >= seq.len * d),
        "split_heads: rotary angles for {} places of {d}",
        seq.len
    );
    let gpu = x.gpu();
    let padded = padded_head(gpu, d);
    let out: [Tensor; N] = std::array::from_fn(|_| gpu.empty([rows / seq.len, heads, seq.len, padded], gpu.operands()));
    let params = Params {
        rows: rows as u32,
        parts: parts as u32,
        first: first as u32,
        heads: heads as u32,
        c: d as u32,
        c8: d.div_ceil(8) as u32,
        d8: (padded / 8) as u32,
        pad0: 0,
        len: seq.len as u32,
        inner: seq.inner as u32,
        pad: [0; 2],
    };
    let kind = Kind {
        parts: N,
        x: x.dtype(),
        whole: d.is_multiple_of(8),
        out: gpu.operands(),
        norms: norms.len(),
        rotary: rotary.is_some(),
    };
    let mut dispatch = Dispatch::new(gpu, kind.program()).bind("x", x).bind_if("angles", rotary).params(&params);
    for (name, weight) in ["weight0", "weight1"].into_iter().zip(norms) {
        dispatch = dispatch.bind(name, weight);
    }
    for (name, out) in ["out0", "out1", "out2"].into_iter().zip(&out) {
        dispatch = dispatch.bind(name, out);
    }
    dispatch.over(groups_of_64(rows * heads * N)).record();
    out
}

/// How heads are stored.
pub(super) fn raw(dtype: DType) -> Source {
    match dtype {
        DType::F32 => shader::ATTENTION_RAW_F32,
        DType::F16 => shader::ATTENTION_RAW_F16,
    }
}

/// What a split is built for.
#[derive(Clone, Copy)]
struct Kind {
    parts: usize,
    x: DType,
    /// Heads come in whole eights, so that eight are one or two loads.
    whole: bool,
    out: DType,
    norms: usize,
    rotary: bool,
}

impl Kind {
    fn program(self) -> Program {
        let program = Program::of(shader::ATTENTION_SPLIT)
            .define("PARTS", self.parts as u32)
            .link(match (self.x, self.whole) {
                (DType::F32, true) => shader::MATMUL_X_F32X8,
                (DType::F32, false) => shader::MATMUL_X_F32X1,
                (DType::F16, true) => shader::MATMUL_X_F16X8,
                (DType::F16, false) => shader::MATMUL_X_F16X1,
            })
            .link(raw(self.out))
            .link(if self.rotary { shader::ATTENTION_TURN_ROTARY } else { shader::ATTENTION_TURN_NONE });
        match self.norms {
            0 => program.link(shader::ATTENTION_NORM_NONE),
            n => program.define("NORMED", n as u32).link(shader::ATTENTION_NORM_RMS).link(if self.whole {
                shader::ATTENTION_WEIGHT_EIGHTS
            } else {
                shader::ATTENTION_WEIGHT_ANY
            }),
        }
    }
}

pub(super) fn programs() -> Vec<Program> {
    let dtypes = [DType::F32, DType::F16];
    let mut all = Vec::new();
    for (x, out) in dtypes.into_iter().flat_map(|x| dtypes.map(|out| (x, out))) {
        for (whole, rotary) in [(false, false), (false, true), (true, false), (true, true)] {
            for (parts, norms) in (1..=3).flat_map(|parts| (0..=parts.min(2)).map(move |norms| (parts, norms))) {
                all.push(Kind { parts, x, whole, out, norms, rotary }.program());
            }
        }
    }
    all
}
