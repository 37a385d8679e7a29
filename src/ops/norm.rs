//! Normalisation over rows and over groups of channels.

use bytemuck::{Pod, Zeroable};

use super::parts::aligned;
use super::{Across, Lanes, Parts, Store, contract, empty_f32, groups_of_64};
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
/// If the modulation does not fit; its vectors start at even places if C is even, at multiples of 4 if C is one.
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
    let lanes = Lanes::of(&[c]);
    let mut params = Params { c: lanes.steps(c), eps, ..Params::zeroed() };
    if let Some(m) = modulate {
        let [vectors, stride] = m.table.as_rows();
        let fits = vectors * m.rows == rows && m.shift_at.max(m.scale_at) + c <= stride;
        contract!(fits, "layer_norm: modulation {} for {rows} rows of {c}", m.table.shape());
        let places = [stride, m.shift_at, m.scale_at];
        let even = places.iter().all(|at| at.is_multiple_of(lanes.count()));
        contract!(even, "layer_norm: rows of {c} with vectors at {} and {} of {stride}", m.shift_at, m.scale_at);
        [params.mod_stride, params.shift_at, params.scale_at] = places.map(|at| lanes.steps(at));
    }
    let out = x.gpu().empty(x.shape().clone(), store.dtype(x.gpu(), c));
    let across = Across::on(x.gpu());
    let group = modulate.map_or(1, |m| m.rows);
    for part in Parts::of(rows).groups_of(group).sharing(x).sharing(&out).cut(x.gpu()) {
        // a part is that of whole vectors, or lies within one
        let first = (part.start / group) as u32 * params.mod_stride;
        let params = Params {
            rows: part.len() as u32,
            mod_rows: group.min(part.len()) as u32,
            shift_at: params.shift_at + first,
            scale_at: params.scale_at + first,
            ..params
        };
        Dispatch::new(x.gpu(), layer_program(across, lanes, modulate.is_some(), out.dtype()))
            .bind("x", &x.part(rows, &part))
            .bind_if("modulation", modulate.map(|m| m.table))
            .bind("out", &out.part(rows, &part))
            .params(&params)
            .over([part.len(), 1, 1])
            .iterations(across.iterations(c / lanes.count(), 3, 2))
            .record();
    }
    out
}

fn layer_program(across: Across, lanes: Lanes, modulated: bool, out: DType) -> Program {
    let affine = if modulated { shader::NORM_AFFINE_MODULATED } else { shader::NORM_AFFINE_NONE };
    across.program(shader::NORM_LAYER).link(lanes.file()).link(affine).link(out_file(out))
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
    let (across, lanes) = (Across::on(x.gpu()), Lanes::of(&[c]));
    for part in Parts::of(rows).sharing(x).sharing(&out).cut(x.gpu()) {
        Dispatch::new(x.gpu(), rms_program(across, lanes, out.dtype()))
            .bind("x", &x.part(rows, &part))
            .bind("weight", weight)
            .bind("out", &out.part(rows, &part))
            .params(&Params { rows: part.len() as u32, c: lanes.steps(c), eps, pad: 0 })
            .over([part.len(), 1, 1])
            .iterations(across.iterations(c / lanes.count(), 2, 1))
            .record();
    }
    out
}

fn rms_program(across: Across, lanes: Lanes, out: DType) -> Program {
    across.program(shader::NORM_RMS).link(lanes.file()).link(out_file(out))
}

fn out_file(dtype: DType) -> shader::Source {
    match dtype {
        DType::F32 => shader::NORM_OUT_F32,
        DType::F16 => shader::NORM_OUT_F16,
    }
}

/// Invocations that keep any device busy, and what is least and most for each: positions to take statistics of.
const BUSY: usize = 1 << 16;
const LEAST: usize = 64;
const MOST: usize = 4096;
/// Positions of one invocation that applies them.
const APPLIED: usize = 8;

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
    let (n, [all, c]) = (x.dims()[0], x.as_rows());
    let fits = c % groups == 0 && weight.count() == c && bias.count() == c;
    contract!(fits, "group_norm: x {}, {groups} groups, weight {}", x.shape(), weight.shape());
    let gpu = x.gpu();
    let positions = all / n.max(1);
    let stats = group_statistics(x, [n, positions, c], groups, eps, weight);
    let lanes = Lanes::of(&[c]);
    let out = gpu.empty(x.shape().clone(), store.dtype(gpu, c));
    for part in Parts::of(all).groups_of(positions).sharing(x).sharing(&out).cut(gpu) {
        let (images, here) = stretch(&part, positions);
        let walk = Walk::new([images.len(), here, c], lanes, APPLIED);
        Dispatch::new(gpu, apply_program(lanes, silu, out.dtype()))
            .bind("x", &x.part(all, &part))
            .bind("stats", &stats.part(n, &images))
            .bind("bias", bias)
            .bind("out", &out.part(all, &part))
            .params(&walk)
            .over(groups_of_64(walk.count as usize))
            .record();
    }
    out
}

/// The images of some positions, which are those of whole images or lie within one, and how many of each there are.
fn stretch(part: &std::ops::Range<usize>, positions: usize) -> (std::ops::Range<usize>, usize) {
    let first = part.start / positions.max(1);
    let images = part.len().div_ceil(positions.max(1));
    (first..first + images, part.len() / images.max(1))
}

/// How the invocations of a group norm share `[n, positions, c]`: each takes `chunk` positions of a step of channels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Walk {
    count: u32,
    positions: u32,
    c: u32,
    chunks: u32,
    chunk: u32,
    pad: [u32; 3],
}

impl Walk {
    fn new([n, positions, c]: [usize; 3], lanes: Lanes, chunk: usize) -> Self {
        let (c, chunks) = (lanes.steps(c), positions.div_ceil(chunk) as u32);
        let count = n as u32 * chunks * c;
        Self { count, positions: positions as u32, c, chunks, chunk: chunk as u32, pad: [0; 3] }
    }
}

/// Of every channel its group's mean, then its weight over the group's deviation: `[n, 2, c]`.
fn group_statistics(x: &Tensor, [n, positions, c]: [usize; 3], groups: usize, eps: f32, weight: &Tensor) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Merge {
        n: u32,
        groups: u32,
        chunks: u32,
        wide: u32,
        channels: u32,
        eps: f32,
        pad: [u32; 2],
    }
    let gpu = x.gpu();
    // a step of channels belongs to one group
    let lanes = Lanes::of(&[c / groups]);
    let even = (n * positions * c / lanes.count()).div_ceil(BUSY).next_multiple_of(8);
    let walk = Walk::new([n, positions, c], lanes, even.clamp(LEAST, MOST));
    let parts = empty_f32(gpu, [n, walk.chunks as usize, walk.c as usize, 4]);
    let (all, chunk, chunks) = (n * positions, walk.chunk as usize, walk.chunks as usize);
    let grain = chunk * aligned(16 * walk.c as usize);
    for part in Parts::of(all).groups_of(positions).grain(grain).sharing(x).cut(gpu) {
        let (images, here) = stretch(&part, positions);
        let own = Walk::new([images.len(), here, c], lanes, chunk);
        let first = images.start * chunks + part.start % positions.max(1) / chunk;
        let to = first..first + images.len() * own.chunks as usize;
        Dispatch::new(gpu, stats_program(lanes))
            .bind("x", &x.part(all, &part))
            .bind("out", &parts.part(n * chunks, &to))
            .params(&own)
            .over(groups_of_64(own.count as usize))
            .iterations(chunk)
            .record();
    }
    let stats = empty_f32(gpu, [n, 2, c]);
    let (width, wide) = (Across::on(gpu).width(), walk.c as usize / groups);
    let (chunks, channels) = (walk.chunks as usize, c / groups);
    Dispatch::new(gpu, merge_program(width))
        .bind("x", &parts)
        .bind("weight", weight)
        .bind("out", &stats)
        .params(&Merge {
            n: n as u32,
            groups: groups as u32,
            chunks: walk.chunks,
            wide: wide as u32,
            channels: c as u32,
            eps,
            pad: [0; 2],
        })
        .over([n * groups, 1, 1])
        .iterations(chunks.div_ceil(width) * (2 + wide) + width + channels.div_ceil(width))
        .record();
    stats
}

fn stats_program(lanes: Lanes) -> Program {
    Program::of(shader::NORM_GROUP_STATS).link(lanes.file())
}

fn merge_program(width: usize) -> Program {
    Program::of(shader::NORM_GROUP_MERGE).define("WIDTH", width as u32)
}

fn apply_program(lanes: Lanes, silu: bool, out: DType) -> Program {
    let then = if silu { shader::NORM_THEN_SILU } else { shader::NORM_THEN_NONE };
    Program::of(shader::NORM_GROUP_APPLY).link(lanes.file()).link(then).link(out_file(out))
}

pub(super) fn programs() -> Vec<Program> {
    let mut all: Vec<Program> = Across::ALL.map(|across| merge_program(across.width())).into();
    for lanes in Lanes::ALL {
        all.push(stats_program(lanes));
        // rows of an odd length are never kept in halves
        let stored = if lanes == Lanes::Ones { &[DType::F32][..] } else { &[DType::F32, DType::F16] };
        for &out in stored {
            all.extend([false, true].map(|silu| apply_program(lanes, silu, out)));
            for across in Across::ALL {
                all.extend([false, true].map(|modulated| layer_program(across, lanes, modulated, out)));
                all.push(rms_program(across, lanes, out));
            }
        }
    }
    all
}
