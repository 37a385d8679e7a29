//! Products with stored weights: linear layers and, as implicit matrices of patches, convolutions.
//!
//! A linear layer is a convolution with one tap: both run on the same kernels (`matmul/tiled`, `matmul/simd8`), which
//! differ only in where rows come from. The tail of a layer (bias, activation, gate, residual) happens on the sums while they are in
//! registers, so no pass over the tokens is left that a product could have done.

use bytemuck::{Pod, Zeroable};

use super::{Store, contract};
use crate::gpu::shader::{self, Source};
use crate::gpu::{Class, Dispatch, Program};
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

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct Params {
    m: u32,
    n: u32,
    c: u32,
    c8: u32,
    taps: u32,
    gate: [u32; 3],
    input: [u32; 4],
    out: [u32; 4],
    kernel: [u32; 4],
    pad: [u32; 4],
}

/// Products from here on get the widest tile of `matmul/simd8`: 2 ms a launch, 15 % faster than half as wide.
const SIMD8_LARGE: usize = 1 << 26;

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
    let ([rows, k], [n, k_w]) = (x.as_rows(), w.sizes());
    contract!(k == k_w, "linear: x {} against w {}", x.shape(), w.shape());
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    let (m, n, c) = (rows as u32, n as u32, k as u32);
    let params = Params { m, n, c, c8: c.div_ceil(8), taps: 1, ..Params::default() };
    launch(x, w, bias, then, target, store, params, shader::MATMUL_INPUT_ROWS, shape)
}

/// A 2D or 3D convolution on channels-last data, as a product with the matrix of its patches.
/// x: `[images, T, H, W, C]`, w: `[N, kt·kh·kw·C]` (tap-major) → `[images, out.., N]`, f32.
///
/// # Panics
/// If the weight does not fit the taps and channels, or `upsample` is no power of two.
#[track_caller]
pub fn conv(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, geometry: &Geometry, target: Target<'_>) -> Tensor {
    let ([images, t, h, wide, c], [n, k]) = (x.sizes(), w.sizes());
    let Geometry { kernel, pad, stride, upsample, out } = *geometry;
    let taps = kernel.iter().product::<usize>();
    let fits = k == taps * c && upsample.is_power_of_two();
    contract!(fits, "conv: x {}, w {}, {geometry:?}", x.shape(), w.shape());
    let u = |v: usize| v as u32;
    let params = Params {
        m: u(images * out.iter().product::<usize>()),
        n: u(n),
        c: u(c),
        c8: u(c.div_ceil(8)),
        taps: u(taps),
        gate: [0; 3],
        input: [u(t), u(h), u(wide), upsample.trailing_zeros()],
        out: [out[0], out[1], out[2], 0].map(u),
        kernel: [kernel[0], kernel[1], kernel[2], stride[0]].map(u),
        pad: [pad[0], pad[1], pad[2], stride[1]].map(u),
    };
    let shape = vec![images, out[0], out[1], out[2], n];
    launch(x, w, bias, Activation::None, target, Store::Full, params, shader::MATMUL_INPUT_CONV, shape)
}

fn launch(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    then: Activation,
    target: Target<'_>,
    store: Store,
    mut params: Params,
    input: Source,
    shape: Vec<usize>,
) -> Tensor {
    let gpu = x.gpu();
    let (m, n) = (params.m as usize, params.n as usize);
    if let Some(bias) = bias {
        contract!(bias.count() == n, "matmul: bias {} for {n} columns", bias.shape());
    }
    let (onto, gate) = match target {
        Target::Plain => (None, None),
        Target::Residual(t) | Target::Product(t) => (Some(t), None),
        Target::Gated(g) => (None, Some(g)),
        Target::GatedResidual(g, t) => (Some(t), Some(g)),
    };
    if let Some(onto) = onto {
        let fits = onto.count() == m * n && onto.dtype() == DType::F32;
        contract!(fits, "matmul: {m} rows of {n} onto {onto:?}");
    }
    if let Some(gate) = gate {
        let [vectors, stride] = gate.table.as_rows();
        let fits = vectors * gate.rows == m && gate.at + n <= stride;
        contract!(fits, "matmul: gate {} at {} for {m} rows of {n}", gate.table.shape(), gate.at);
        params.gate = [gate.rows as u32, stride as u32, gate.at as u32];
    }
    let out = gpu.empty(shape, store.dtype(gpu, n));
    let depth = (params.c * params.taps) as usize;
    let stored = Stored { x: x.dtype(), w: w.dtype(), out: out.dtype(), whole: params.c.is_multiple_of(8) };
    let record = |kernel: Kernel| {
        let tile = kernel.tile();
        let program = program(kernel.program(), input, stored, bias.is_some(), then, target.file());
        Dispatch::new(gpu, program)
            .bind("x", x)
            .bind("w", w)
            .bind_if("bias", bias)
            .bind_if("onto", onto)
            .bind_if("gate", gate.map(|g| g.table))
            .bind("out", &out)
            .params(&params)
            .over([n.div_ceil(tile[1]), m.div_ceil(tile[0]), 1])
            .iterations(kernel.iterations(params.taps as usize, params.c8 as usize))
            .record();
    };
    let kernels = Kernel::candidates(gpu.class(), [m, n, depth]);
    // bias, activation and target cost all of them the same; rows vary from clip to clip, so one choice serves a doubling
    let key = || {
        let (class, rows, taps) = (gpu.class(), m.next_power_of_two(), params.taps);
        format!("product {class:?}, up to {rows} rows, {n} columns, {depth} deep, {taps} taps, {stored:?}")
    };
    let names: Vec<String> = kernels.iter().map(|k| format!("{k:?}")).collect();
    let work = 2.0 * m as f64 * n as f64 * depth as f64;
    record(kernels[gpu.fastest(&key(), work, &names, |i| record(kernels[i]))]);
    out
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

/// One algorithm with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Tiled,
    Simd8 { rows: usize, pairs: usize },
}

impl Kernel {
    /// The tile for m rows, n columns and a depth of k.
    fn of(class: Class, [m, n, k]: [usize; 3]) -> Self {
        match class {
            Class::Portable => Kernel::Tiled,
            Class::Simd8 => {
                // a wide tile reads rows less often, but compiles for half a second
                let pairs = match n {
                    0..=16 => 1,
                    _ if m * n * k >= SIMD8_LARGE && n > 32 => 4,
                    _ => 2,
                };
                Kernel::Simd8 { rows: 16, pairs }
            }
        }
    }

    /// [`Kernel::of`], then what else may be faster.
    fn candidates(class: Class, [m, n, k]: [usize; 3]) -> Vec<Self> {
        let guess = Self::of(class, [m, n, k]);
        let tiles: &[(usize, usize)] = match class {
            Class::Portable => &[],
            Class::Simd8 => &[(16, 1), (16, 2), (16, 4), (8, 2), (8, 4)],
        };
        let others = tiles.iter().map(|&(rows, pairs)| Kernel::Simd8 { rows, pairs });
        std::iter::once(guess).chain(others.filter(|&k| k != guess && k.tile()[1] < 2 * n.max(16))).collect()
    }

    /// Rows and columns of a workgroup.
    fn tile(self) -> [usize; 2] {
        match self {
            Kernel::Tiled => [64, 64],
            Kernel::Simd8 { rows, pairs } => [rows, pairs * 16],
        }
    }

    /// Loop iterations of an invocation, all loops together; leaving a loop counts as one.
    fn iterations(self, taps: usize, c8: usize) -> usize {
        match self {
            Kernel::Tiled => (taps * c8).div_ceil(2) * (2 + 16),
            Kernel::Simd8 { .. } => (taps * c8).div_ceil(8) * (2 + 8),
        }
    }

    fn program(self) -> Program {
        match self {
            Kernel::Tiled => Program::of(shader::MATMUL_TILED),
            Kernel::Simd8 { rows, pairs } => {
                Program::of(shader::MATMUL_SIMD8).define("ROWS", rows as u32).define("PAIRS", pairs as u32)
            }
        }
    }
}

fn program(base: Program, input: Source, stored: Stored, bias: bool, then: Activation, target: Source) -> Program {
    let x = match (stored.x, stored.whole) {
        (DType::F32, true) => shader::MATMUL_X_F32X8,
        (DType::F32, false) => shader::MATMUL_X_F32X1,
        (DType::F16, true) => shader::MATMUL_X_F16X8,
        (DType::F16, false) => shader::MATMUL_X_F16X1,
    };
    let w = match (stored.w, stored.whole) {
        (DType::F32, true) => shader::MATMUL_W_F32X8,
        (DType::F32, false) => shader::MATMUL_W_F32X1,
        (DType::F16, true) => shader::MATMUL_W_F16X8,
        (DType::F16, false) => shader::MATMUL_W_F16X1,
    };
    base.link(input)
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
    for class in Class::ALL {
        let base = Kernel::of(class, [64; 3]).program();
        // where numbers come from and go to, and what becomes of them, know nothing of each other
        for (x, w, out) in dtypes.iter().flat_map(|x| dtypes.iter().flat_map(move |w| dtypes.map(|out| (*x, *w, out))))
        {
            for (input, whole) in
                [shader::MATMUL_INPUT_ROWS, shader::MATMUL_INPUT_CONV].into_iter().flat_map(|i| [(i, true), (i, false)])
            {
                let stored = Stored { x, w, out, whole };
                all.push(program(base.clone(), input, stored, true, Activation::GeluTanh, targets[3]));
            }
        }
        for (target, bias) in targets.into_iter().flat_map(|t| [(t, false), (t, true)]) {
            for then in [Activation::None, Activation::GeluTanh, Activation::Silu] {
                for out in dtypes {
                    let stored = Stored { x: out, w: DType::F16, out, whole: true };
                    all.push(program(base.clone(), shader::MATMUL_INPUT_ROWS, stored, bias, then, target));
                }
            }
        }
    }
    all
}
