//! Products with stored weights: linear layers and, as implicit matrices of patches, convolutions.
//!
//! A linear layer is a convolution with one tap: both run on the same kernels (`matmul/tiled`, `matmul/simd8`,
//! `matmul/coop`), which differ only in where rows come from. The tail of a layer (bias, activation, gate, residual)
//! happens on the sums while they are in registers, so no pass over the tokens is left that a product could have done.
//!
//! # Bytes moved, against the least possible
//! The least is every number once: `m·k` of x, `n·k` of w, `m·n` of the result, with a residual `m·n` f32 more; biases
//! and gates are vectors. A result is written once and a residual read once, so what a kernel moves beyond the least
//! is x again for every column of workgroups and w again for every row of them:
//!
//! | kernel | x is loaded | w is loaded |
//! |---|---|---|
//! | `matmul/tiled` 64 × 64 | n/64 times | m/64 times |
//! | `matmul/coop` 128 × 128 | n/128 times | m/128 times |
//! | `matmul/simd8` 16 × 32 | n/32 times | m/16 times |
//!
//! Caches are to take the repeats: the groups of one row of tiles follow each other, so their rows of x are at hand, and
//! so is all of w where it fits (STDiT3's matrices have 2.7 to 10.6 MB in halves).
//! For the first layer of STDiT3's feed-forward at 480p (24 300 × 4608 × 1152, halves) the least is 291 MB, 224 of them
//! the result; `matmul/coop` loads 2.0 GB of x and 2.0 GB of w into workgroups.
//! What the fused tail saves next to kernels of its own, in passes of `4·m·n` bytes: bias 2, activation 2, gate 2,
//! residual 2 of its 3. A convolution loads x once a tap from the caches; a matrix of patches would be written and read
//! as well, `2·taps` passes over x, and an enlarged input written in 4 more.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::kernel::Kernel;
use super::{Parts, Store, contract, trial};
use crate::gpu::shader::{self, Source};
use crate::gpu::{Dispatch, Program};
use crate::tensor::{DType, Tensor};

/// What happens to each sum after the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// GELU, tanh form.
    GeluTanh,
    /// x · sigmoid(x).
    Silu,
}

/// A vector per sample (or frame) that scales every channel of its rows.
#[derive(Clone, Copy)]
pub struct Gate<'a> {
    /// `[vectors, stride]`.
    pub table: &'a Tensor,
    /// First column of the gate within a row of the table.
    pub at: usize,
    /// How many rows of the output share one vector.
    pub rows: usize,
}

impl<'a> Gate<'a> {
    /// The gate of some rows, which are those of whole vectors or lie within one.
    fn part(self, rows: &Range<usize>) -> Self {
        let first = rows.start / self.rows * self.table.as_rows()[1];
        Self { at: self.at + first, rows: self.rows.min(rows.len()), ..self }
    }
}

/// Where the values of a product go.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// `out = value`.
    Plain,
    /// `out = onto + value`.
    Residual(&'a Tensor),
    /// `out = gate · value`.
    Gated(Gate<'a>),
    /// `out = onto + gate · value`.
    GatedResidual(Gate<'a>, &'a Tensor),
    /// `out = onto · value`.
    Product(&'a Tensor),
}

impl<'a> Target<'a> {
    /// Adds to `onto` if there is something to add to.
    pub fn onto(onto: Option<&'a Tensor>) -> Self {
        onto.map_or(Target::Plain, Target::Residual)
    }

    /// Gates, then adds to `onto` if there is something to add to.
    pub fn gated_onto(gate: Gate<'a>, onto: Option<&'a Tensor>) -> Self {
        onto.map_or(Target::Gated(gate), |t| Target::GatedResidual(gate, t))
    }

    /// What is added to (or multiplied with), and the gate.
    pub(super) fn reads(self) -> (Option<&'a Tensor>, Option<Gate<'a>>) {
        match self {
            Target::Plain => (None, None),
            Target::Residual(t) | Target::Product(t) => (Some(t), None),
            Target::Gated(g) => (None, Some(g)),
            Target::GatedResidual(g, t) => (Some(t), Some(g)),
        }
    }

    /// Parts in which each row has one gate.
    pub(crate) fn grouping(self, parts: Parts) -> Parts {
        let (onto, gate) = self.reads();
        let parts = parts.groups_of(gate.map_or(1, |gate| gate.rows));
        onto.map_or(parts, |onto| parts.sharing(onto))
    }

    /// Calls `make` with the target of some of `rows`: those of a part made under [`Target::grouping`].
    pub(crate) fn on(self, rows: usize, part: &Range<usize>, make: impl FnOnce(Target<'_>)) {
        let (onto, gate) = self.reads();
        let onto = onto.map(|onto| onto.part(rows, part));
        make(self.reading(onto.as_ref(), gate.map(|gate| gate.part(part))));
    }

    /// The same with other tensors.
    pub(super) fn reading<'b>(self, onto: Option<&'b Tensor>, gate: Option<Gate<'b>>) -> Target<'b> {
        match (self, onto, gate) {
            (Target::Product(_), Some(onto), _) => Target::Product(onto),
            (_, None, None) => Target::Plain,
            (_, Some(onto), None) => Target::Residual(onto),
            (_, None, Some(gate)) => Target::Gated(gate),
            (_, Some(onto), Some(gate)) => Target::GatedResidual(gate, onto),
        }
    }

    fn file(self) -> Source {
        match self {
            Target::Plain => shader::MATMUL_INTO_PLAIN,
            Target::Residual(_) => shader::MATMUL_INTO_RESIDUAL,
            Target::Gated(_) => shader::MATMUL_INTO_GATED,
            Target::GatedResidual(..) => shader::MATMUL_INTO_GATED_RESIDUAL,
            Target::Product(_) => shader::MATMUL_INTO_PRODUCT,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(super) struct Params {
    pub m: u32,
    pub n: u32,
    pub c: u32,
    pub c8: u32,
    pub taps: u32,
    pub gate: [u32; 3],
    pub input: [u32; 4],
    pub out: [u32; 4],
    pub kernel: [u32; 4],
    pub pad: [u32; 4],
}

/// out = target(activation(x · wᵀ + bias)).   x: `[.., K]`, w: `[N, K]` → `[.., N]`.
///
/// # Panics
/// If K, the bias, or the target's shape do not fit.
#[track_caller]
pub fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    then: Activation,
    target: Target<'_>,
    store: Store,
) -> Tensor {
    let ([_, k], [n, k_w]) = (x.as_rows(), w.sizes());
    contract!(k == k_w, "linear: x {} against w {}", x.shape(), w.shape());
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    let out = x.gpu().empty(shape, store.dtype(x.gpu(), n));
    linear_into(x, w, bias, then, target, &out);
    out
}

/// [`linear`] into memory that is there already: `[rows, N]`, perhaps some rows of something larger.
#[track_caller]
pub(crate) fn linear_into(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    then: Activation,
    target: Target<'_>,
    out: &Tensor,
) {
    let ([rows, k], [n, _]) = (x.as_rows(), w.sizes());
    let (onto, gate) = target.reads();
    check(rows, n, bias, onto, gate);
    let flops = 2.0 * (rows * n) as f64 * k as f64;
    for part in target.grouping(Parts::of(rows)).sharing(x).sharing(out).flops(flops).cut(x.gpu()) {
        let (m, n, c) = (part.len() as u32, n as u32, k as u32);
        let params = Params { m, n, c, c8: c.div_ceil(8), taps: 1, ..Params::default() };
        let (x, out) = (x.part(rows, &part), out.part(rows, &part));
        target.on(rows, &part, |target| {
            launch(&x, w, bias, then, target, params, shader::MATMUL_INPUT_ROWS, &out, None);
        });
    }
}

/// Panics unless a tail fits m rows of n.
#[track_caller]
pub(super) fn check(m: usize, n: usize, bias: Option<&Tensor>, onto: Option<&Tensor>, gate: Option<Gate<'_>>) {
    if let Some(bias) = bias {
        contract!(bias.count() == n, "matmul: bias {} for {n} columns", bias.shape());
    }
    if let Some(onto) = onto {
        let fits = onto.count() == m * n && onto.dtype() == DType::F32;
        contract!(fits, "matmul: {m} rows of {n} onto {onto:?}");
    }
    if let Some(gate) = gate {
        let [vectors, stride] = gate.table.as_rows();
        // the gate of some rows may start further down its table
        let last = (m / gate.rows).saturating_sub(1) * stride;
        let fits = m.is_multiple_of(gate.rows) && gate.at + last + n <= vectors * stride;
        contract!(fits, "matmul: gate {} at {} for {m} rows of {n}", gate.table.shape(), gate.at);
    }
}

/// out = x · wᵀ by one kernel, whether or not it would be chosen: for the trial.
pub(super) fn product(x: &Tensor, w: &Tensor, kernel: Kernel) -> Tensor {
    let ([m, k], [n, _]) = (x.sizes(), w.sizes());
    let params =
        Params { m: m as u32, n: n as u32, c: k as u32, c8: k.div_ceil(8) as u32, taps: 1, ..Params::default() };
    let (then, target, input) = (Activation::None, Target::Plain, shader::MATMUL_INPUT_ROWS);
    let out = x.gpu().empty([m, n], DType::F32);
    launch(x, w, None, then, target, params, input, &out, Some(kernel));
    out
}

/// Records the product: what [`check`] has passed.
pub(super) fn launch(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    then: Activation,
    target: Target<'_>,
    mut params: Params,
    input: Source,
    out: &Tensor,
    kernel: Option<Kernel>,
) {
    let gpu = x.gpu();
    let (m, n) = (params.m as usize, params.n as usize);
    let (onto, gate) = target.reads();
    if let Some(gate) = gate {
        params.gate = [gate.rows, gate.table.as_rows()[1], gate.at].map(|v| v as u32);
    }
    let depth = (params.c * params.taps) as usize;
    let stored = Stored { x: x.dtype(), w: w.dtype(), out: out.dtype(), whole: params.c.is_multiple_of(8) };
    let record = |kernel: Kernel| {
        let tile = kernel.tile();
        let program = program(kernel, input, stored, bias.is_some(), then, target.file());
        Dispatch::new(gpu, program)
            .bind("x", x)
            .bind("w", w)
            .bind_if("bias", bias)
            .bind_if("onto", onto)
            .bind_if("gate", gate.map(|g| g.table))
            .bind("out", out)
            .flops(2.0 * m as f64 * n as f64 * depth as f64)
            .params(&params)
            .over([n.div_ceil(tile[1]), m.div_ceil(tile[0]), 1])
            .iterations(kernel.iterations(params.taps as usize, params.c8 as usize))
            .record();
    };
    if let Some(kernel) = kernel {
        return record(kernel);
    }
    // without depth there is nothing to stage
    let halves = stored.w == DType::F16 && gpu.operands() == DType::F16 && stored.whole && depth > 0;
    let kernels = Kernel::candidates(gpu, [m, n, depth], halves);
    // bias, activation and target cost all of them the same; rows vary from clip to clip, so one choice serves a doubling
    let key = || {
        let (class, rows, taps) = (gpu.class(), m.next_power_of_two(), params.taps);
        format!("product {class:?}, up to {rows} rows, {n} columns, {depth} deep, {taps} taps, {stored:?}")
    };
    let names: Vec<String> = kernels.iter().map(|k| format!("{k:?}")).collect();
    let work = 2.0 * m as f64 * n as f64 * depth as f64;
    record(kernels[gpu.fastest(&key(), work, &names, |i| record(kernels[i]), |i| trial::sound(gpu, kernels[i]))]);
}

/// How the numbers of a product are stored.
#[derive(Clone, Copy, Debug)]
struct Stored {
    x: DType,
    w: DType,
    out: DType,
    /// Channels of a tap come in whole eights, so that eight are one or two loads.
    whole: bool,
}

fn program(kernel: Kernel, input: Source, stored: Stored, bias: bool, then: Activation, target: Source) -> Program {
    let [x, w] = kernel.loaders(stored.x, stored.w, stored.whole);
    kernel
        .program()
        .link(input)
        .link(x)
        .link(w)
        .link(if bias { shader::MATMUL_BIAS_VECTOR } else { shader::MATMUL_BIAS_NONE })
        .link(match then {
            Activation::None => shader::MATMUL_ACT_NONE,
            Activation::GeluTanh => shader::MATMUL_ACT_GELU,
            Activation::Silu => shader::MATMUL_ACT_SILU,
        })
        .link(target)
        .link(match stored.out {
            DType::F32 => shader::MATMUL_OUT_F32,
            DType::F16 => shader::MATMUL_OUT_F16,
        })
}

pub(super) fn programs() -> Vec<Program> {
    let targets = [
        shader::MATMUL_INTO_PLAIN,
        shader::MATMUL_INTO_RESIDUAL,
        shader::MATMUL_INTO_GATED,
        shader::MATMUL_INTO_GATED_RESIDUAL,
        shader::MATMUL_INTO_PRODUCT,
    ];
    let dtypes = [DType::F32, DType::F16];
    let mut all = Vec::new();
    for (kernel, halves) in Kernel::everywhere() {
        // where numbers come from and go to, and what becomes of them, know nothing of each other
        for (x, w, out) in dtypes.iter().flat_map(|x| dtypes.iter().flat_map(move |w| dtypes.map(|out| (*x, *w, out))))
        {
            for (input, whole) in
                [shader::MATMUL_INPUT_ROWS, shader::MATMUL_INPUT_CONV].into_iter().flat_map(|i| [(i, true), (i, false)])
            {
                let stored = Stored { x, w, out, whole };
                if halves && !(whole && w == DType::F16) {
                    continue;
                }
                all.push(program(kernel, input, stored, true, Activation::GeluTanh, targets[3]));
            }
        }
        for (target, bias) in targets.into_iter().flat_map(|t| [(t, false), (t, true)]) {
            for then in [Activation::None, Activation::GeluTanh, Activation::Silu] {
                for out in dtypes {
                    let stored = Stored { x: out, w: DType::F16, out, whole: true };
                    all.push(program(kernel, shader::MATMUL_INPUT_ROWS, stored, bias, then, target));
                }
            }
        }
    }
    all
}
