//! Products with stored weights: linear layers and, as implicit matrices of patches, convolutions.
//!
//! Both run on the same two kernels (`matmul/tiled`, `matmul/simd8`), which differ only in where rows come
//! from. The tail of a layer (bias, activation, gate, residual) happens on the sums while they are in
//! registers, so no pass over the tokens is left that a product could have done.

use bytemuck::{Pod, Zeroable};

use super::{contract, empty_f32};
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
    k: u32,
    k4: u32,
    gate: [u32; 4],
    input: [u32; 4],
    out: [u32; 4],
    kernel: [u32; 4],
    pad: [u32; 4],
}

/// Rows and columns of registers an invocation of `matmul/simd8` holds.
const SIMD8_TILE: [usize; 2] = [8, 4];

/// out = target(activation(x · wᵀ + bias)).   x: `[.., K]`, w: `[N, K]` → `[.., N]`, f32.
///
/// # Panics
/// If K, the bias, or the target's shape do not fit.
#[track_caller]
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, then: Activation, target: Target<'_>) -> Tensor {
    let ([rows, k], [n, k_w]) = (x.as_rows(), w.sizes());
    contract!(k == k_w, "linear: x {} against w {}", x.shape(), w.shape());
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    let params = Params { m: rows as u32, n: n as u32, k: k as u32, k4: k.div_ceil(4) as u32, ..Params::default() };
    let input = if k % 4 == 0 { shader::MATMUL_INPUT_ROWS4 } else { shader::MATMUL_INPUT_ROWS1 };
    launch(x, w, bias, then, target, params, input, shape)
}

/// A 2D or 3D convolution on channels-last data, as a product with the matrix of its patches.
/// x: `[images, T, H, W, C]`, w: `[N, kt·kh·kw·C]` (tap-major) → `[images, out.., N]`, f32.
///
/// # Panics
/// If the weight does not fit the taps and channels.
#[track_caller]
pub fn conv(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, geometry: &Geometry, target: Target<'_>) -> Tensor {
    let ([images, t, h, wide, c], [n, k]) = (x.sizes(), w.sizes());
    let Geometry { kernel, pad, stride, upsample, out } = *geometry;
    contract!(k == kernel.iter().product::<usize>() * c, "conv: x {}, w {}, {geometry:?}", x.shape(), w.shape());
    let u = |v: usize| v as u32;
    let params = Params {
        m: u(images * out.iter().product::<usize>()),
        n: u(n),
        k: u(k),
        k4: u(k.div_ceil(4)),
        gate: [0; 4],
        input: [t, h, wide, c].map(u),
        out: [out[0], out[1], out[2], upsample].map(u),
        kernel: [kernel[0], kernel[1], kernel[2], stride[0]].map(u),
        pad: [pad[0], pad[1], pad[2], stride[1]].map(u),
    };
    let input = if c % 4 == 0 { shader::MATMUL_INPUT_CONV4 } else { shader::MATMUL_INPUT_CONV1 };
    launch(x, w, bias, Activation::None, target, params, input, vec![images, out[0], out[1], out[2], n])
}

fn launch(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    then: Activation,
    target: Target<'_>,
    mut params: Params,
    input: Source,
    shape: Vec<usize>,
) -> Tensor {
    let gpu = x.gpu();
    contract!(x.dtype() == DType::F32, "matmul: activations are f32, got {x:?}");
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
        contract!(onto.count() == m * n, "matmul: {} rows of {n} onto {}", m, onto.shape());
    }
    if let Some(gate) = gate {
        let [vectors, stride] = gate.table.as_rows();
        let fits = vectors * gate.rows == m && gate.at + n <= stride;
        contract!(fits, "matmul: gate {} at {} for {m} rows of {n}", gate.table.shape(), gate.at);
        params.gate = [gate.rows as u32, stride as u32, gate.at as u32, 0];
    }
    let out = empty_f32(gpu, shape);
    let (tile, base) = kernel_for(gpu.class());
    let program =
        program(base, input, weight_file(w.dtype(), params.k.is_multiple_of(4)), bias.is_some(), then, target.file());
    Dispatch::new(gpu, program)
        .bind("x", x)
        .bind("w", w)
        .bind_if("bias", bias)
        .bind_if("onto", onto)
        .bind_if("gate", gate.map(|g| g.table))
        .bind("out", &out)
        .params(&params)
        .over([n.div_ceil(tile[1]), m.div_ceil(tile[0]), 1])
        .record();
    out
}

/// Tile of a workgroup (rows, columns) and the kernel with its numbers.
fn kernel_for(class: Class) -> ([usize; 2], Program) {
    match class {
        Class::Portable => ([64, 64], Program::of(shader::MATMUL_TILED)),
        Class::Simd8 => {
            let [rows, columns] = SIMD8_TILE;
            let program =
                Program::of(shader::MATMUL_SIMD8).define("ROWS", rows as u32).define("COLUMNS", columns as u32);
            ([rows, columns * 8], program)
        }
    }
}

fn weight_file(dtype: DType, whole: bool) -> Source {
    match (dtype, whole) {
        (DType::F32, true) => shader::MATMUL_WEIGHT_F32X4,
        (DType::F32, false) => shader::MATMUL_WEIGHT_F32X1,
        (DType::F16, true) => shader::MATMUL_WEIGHT_F16X4,
        (DType::F16, false) => shader::MATMUL_WEIGHT_F16X1,
    }
}

fn program(base: Program, input: Source, weight: Source, bias: bool, then: Activation, target: Source) -> Program {
    base.link(input)
        .link(weight)
        .link(if bias { shader::MATMUL_BIAS_VECTOR } else { shader::MATMUL_BIAS_NONE })
        .link(match then {
            Activation::None => shader::MATMUL_ACT_NONE,
            Activation::GeluTanh => shader::MATMUL_ACT_GELU,
            Activation::Silu => shader::MATMUL_ACT_SILU,
        })
        .link(target)
}

pub(super) fn programs() -> Vec<Program> {
    use shader as s;
    let mut all = Vec::new();
    let rows = [(s::MATMUL_INPUT_ROWS4, true), (s::MATMUL_INPUT_ROWS1, false)];
    // with taps, k can be a multiple of 4 although the channels are not
    let patches = [(s::MATMUL_INPUT_CONV4, true), (s::MATMUL_INPUT_CONV1, true), (s::MATMUL_INPUT_CONV1, false)];
    for class in [Class::Portable, Class::Simd8] {
        for (input, whole) in rows.into_iter().chain(patches) {
            for dtype in [DType::F32, DType::F16] {
                for bias in [false, true] {
                    for then in [Activation::None, Activation::GeluTanh, Activation::Silu] {
                        for target in [
                            s::MATMUL_INTO_PLAIN,
                            s::MATMUL_INTO_RESIDUAL,
                            s::MATMUL_INTO_GATED,
                            s::MATMUL_INTO_GATED_RESIDUAL,
                            s::MATMUL_INTO_PRODUCT,
                        ] {
                            let base = kernel_for(class).1;
                            all.push(program(base, input, weight_file(dtype, whole), bias, then, target));
                        }
                    }
                }
            }
        }
    }
    all
}
