//! Normalisation over rows and over groups of channels.

use bytemuck::{Pod, Zeroable};

use super::{ROW_WIDTHS, Store, contract, empty_f32, groups_of_64, row_width};
use crate::gpu::{DType, Dispatch, Program, shader};
use crate::tensor::Tensor;

/// Shift and scale vectors applied after a layer norm: `x · (1 + scale) + shift`.
#[derive(Clone, Copy)]
pub struct Modulate<'a> {
    /// `[vectors, stride]`.
    pub table: &'a Tensor,
    /// First column of the shift.
    pub shift_at: usize,
    /// First column of the scale.
    pub scale_at: usize,
    /// How many rows share one pair.
    pub rows: usize,
}

/// Layer norm without parameters over the last axis, then `modulate` if given. x: `[.., C]` → same.
///
/// # Panics
/// If the modulation does not fit.
#[track_caller]
pub fn layer_norm(x: &Tensor, eps: f32, modulate: Option<Modulate<'_>>, store: Store) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        rows: u32,
        c: u32,
        eps: f32,
        mod_rows: u32,
        mod_stride: u32,
        shift_at: u32,
        scale_at: u32,
        pad: u32,
    }
    let [rows, c] = x.as_rows();
    let mut params =
        Params { rows: rows as u32, c: c as u32, eps, mod_rows: 1, mod_stride: 0, shift_at: 0, scale_at: 0, pad: 0 };
    if let Some(m) = modulate {
        let [vectors, stride] = m.table.as_rows();
        let fits = vectors * m.rows == rows && m.shift_at.max(m.scale_at) + c <= stride;
        contract!(fits, "layer_norm: modulation {} for {rows} rows of {c}", m.table.shape());
        params.mod_rows = m.rows as u32;
        params.mod_stride = stride as u32;
        params.shift_at = m.shift_at as u32;
        params.scale_at = m.scale_at as u32;
    }
    let out = x.gpu().empty(x.shape().clone(), store.dtype(x.gpu(), c));
    Dispatch::new(x.gpu(), layer_program(row_width(x.gpu()), modulate.is_some(), out.dtype()))
        .bind("x", x)
        .bind_if("modulation", modulate.map(|m| m.table))
        .bind("out", &out)
        .params(&params)
        .over([rows, 1, 1])
        .record();
    out
}

fn layer_program(width: u32, modulated: bool, out: DType) -> Program {
    Program::of(shader::NORM_LAYER).define("WIDTH", width).link(out_file(out)).link(if modulated {
        shader::NORM_AFFINE_MODULATED
    } else {
        shader::NORM_AFFINE_NONE
    })
}

/// `x / √(mean x² + eps) · weight` over the last axis. x: `[.., C]`, weight: `[C]` → same as x.
///
/// # Panics
/// If the weight does not fit.
#[track_caller]
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32, store: Store) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        rows: u32,
        c: u32,
        eps: f32,
        pad: u32,
    }
    let [rows, c] = x.as_rows();
    contract!(weight.count() == c, "rms_norm: x {} against weight {}", x.shape(), weight.shape());
    let out = x.gpu().empty(x.shape().clone(), store.dtype(x.gpu(), c));
    Dispatch::new(x.gpu(), rms_program(row_width(x.gpu()), out.dtype()))
        .bind("x", x)
        .bind("weight", weight)
        .bind("out", &out)
        .params(&Params { rows: rows as u32, c: c as u32, eps, pad: 0 })
        .over([rows, 1, 1])
        .record();
    out
}

fn rms_program(width: u32, out: DType) -> Program {
    Program::of(shader::NORM_RMS).define("WIDTH", width).link(out_file(out))
}

fn out_file(dtype: DType) -> shader::Source {
    match dtype {
        DType::F32 => shader::NORM_OUT_F32,
        DType::F16 => shader::NORM_OUT_F16,
    }
}

/// Numbers of one group that one workgroup takes in a pass over the statistics.
const CHUNK: usize = 8192;

/// Group norm with weight and bias, then SiLU if asked. x: `[images, .., C]` channels last → same;
/// statistics over all positions of an image and the C/groups channels of a group.
///
/// # Panics
/// If the channels do not divide into groups, or the parameters do not fit.
#[track_caller]
pub fn group_norm(
    x: &Tensor,
    groups: usize,
    eps: f32,
    weight: &Tensor,
    bias: &Tensor,
    silu: bool,
    store: Store,
) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Stats {
        n: u32,
        positions: u32,
        c: u32,
        groups: u32,
        chunks: u32,
        chunk: u32,
        pad: [u32; 2],
    }
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Merge {
        groups: u32,
        chunks: u32,
        eps: f32,
        pad: u32,
    }
    let (n, [all, c]) = (x.dims()[0], x.as_rows());
    let fits = c % groups == 0 && weight.count() == c && bias.count() == c;
    contract!(fits, "group_norm: x {}, {groups} groups, weight {}", x.shape(), weight.shape());
    let gpu = x.gpu();
    let positions = all / n.max(1);
    let chunk = (CHUNK / (c / groups)).clamp(1, positions.max(1));
    let chunks = positions.div_ceil(chunk);
    let partial = empty_f32(gpu, [n, groups, chunks, 4]);
    Dispatch::new(gpu, Program::of(shader::NORM_GROUP_STATS).define("WIDTH", row_width(gpu)))
        .bind("x", x)
        .bind("out", &partial)
        .params(&Stats {
            n: n as u32,
            positions: positions as u32,
            c: c as u32,
            groups: groups as u32,
            chunks: chunks as u32,
            chunk: chunk as u32,
            pad: [0; 2],
        })
        .over([n * groups * chunks, 1, 1])
        .record();
    let stats = empty_f32(gpu, [n, groups, 2]);
    Dispatch::new(gpu, Program::of(shader::NORM_GROUP_MERGE))
        .bind("x", &partial)
        .bind("out", &stats)
        .params(&Merge { groups: (n * groups) as u32, chunks: chunks as u32, eps, pad: 0 })
        .over([(n * groups).div_ceil(64), 1, 1])
        .record();
    let out = gpu.empty(x.shape().clone(), store.dtype(gpu, c));
    Dispatch::new(gpu, apply_program(silu, out.dtype()))
        .bind("x", x)
        .bind("stats", &stats)
        .bind("weight", weight)
        .bind("bias", bias)
        .bind("out", &out)
        .params(&[
            x.count().div_ceil(2) as u32,
            (positions * c) as u32,
            c as u32,
            groups as u32,
            x.count() as u32,
            0,
            0,
            0,
        ])
        .over(groups_of_64(x.count().div_ceil(2)))
        .record();
    out
}

fn apply_program(silu: bool, out: DType) -> Program {
    let act = if silu { shader::MATMUL_ACT_SILU } else { shader::MATMUL_ACT_NONE };
    Program::of(shader::NORM_GROUP_APPLY).link(act).link(out_file(out))
}

pub(super) fn programs() -> Vec<Program> {
    let mut all = vec![Program::of(shader::NORM_GROUP_MERGE)];
    for out in [DType::F32, DType::F16] {
        all.extend([apply_program(false, out), apply_program(true, out)]);
        for width in ROW_WIDTHS {
            all.extend([layer_program(width, false, out), layer_program(width, true, out), rms_program(width, out)]);
        }
    }
    all.extend(ROW_WIDTHS.map(|width| Program::of(shader::NORM_GROUP_STATS).define("WIDTH", width)));
    all
}
