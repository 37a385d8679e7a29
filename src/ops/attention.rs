//! Attention: softmax(q·kᵀ)·v without ever storing the scores.

use bytemuck::{Pod, Zeroable};

use super::heads::raw;
use super::{Sequences, Store, contract, padded_head};
use crate::gpu::shader;
use crate::gpu::{Class, DType, Dispatch, Gpu, Matrices, Program};
use crate::tensor::Tensor;

/// Which keys a problem sees.
#[derive(Clone, Copy)]
pub enum Keys<'a> {
    /// Its own, all of them.
    Own,
    /// A range of one packed sequence shared by all: `[problems, 2]` words, first and count; and how many problems share
    /// it in all, of which these may be some.
    Packed(&'a Tensor, usize),
}

/// Queries times keys from which on `attention/lanes` takes several queries a lane: they read keys less often, but
/// compile for 0.8 s (two) or 1.9 s (four, d = 72) instead of a third of one.
const LARGE: usize = 1 << 15;
/// Widest head (in eights) whose query and output stay in registers.
const REGISTER_D8: usize = 16;
/// Longest sequence whose scores stay in registers.
const SHORT: usize = 64;
/// Workgroup memory every adapter has.
const WORKGROUP_BYTES: usize = 16 << 10;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    problems: u32,
    heads: u32,
    queries: u32,
    keys: u32,
    d: u32,
    inner: u32,
    scale: f32,
    pad: u32,
}

/// softmax(scale · q·kᵀ + relative) · v, heads joined again.
///
/// q: `[problems, heads, queries, padded]`, k and v: `[problems, heads, keys, padded]` (or `[1, heads, all, padded]`
/// when packed), from [`super::split_heads`]; `relative`: `[heads, 2·queries − 1]`, added by key − query (T5).
/// → `[rows, heads·d]` in the row order of `seq`, kept as [`Gpu::operands`] are (heads of odd d in f32): it feeds a
/// product. A problem without keys gives zeros. [`crate::Error::Limit`] where the device cannot go through that many
/// keys, or has no room for a head so wide.
///
/// # Panics
/// If the sizes do not fit.
#[track_caller]
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    d: usize,
    seq: Sequences,
    keys: Keys<'_>,
    relative: Option<&Tensor>,
    scale: f32,
) -> Tensor {
    let ([problems, heads, queries, padded], [key_problems, key_heads, key_count, key_padded]) = (q.sizes(), k.sizes());
    let (gpu, own) = (q.gpu(), matches!(keys, Keys::Own));
    let fits = key_heads == heads
        && padded == padded_head(gpu, d)
        && key_padded == padded
        && k.dims() == v.dims()
        && [k.dtype(), v.dtype()] == [q.dtype(); 2]
        && key_problems == if own { problems } else { 1 }
        && problems % seq.inner == 0
        && queries == seq.len;
    contract!(fits, "attention: q {q:?}, k {k:?}, v {v:?}, d {d}, {seq:?}");
    if let Some(table) = relative {
        contract!(table.count() == heads * (2 * queries - 1), "attention: bias {} for {queries}", table.shape());
    }
    let spans = match keys {
        Keys::Own => None,
        Keys::Packed(spans, _) => {
            contract!(spans.count() == 2 * problems, "attention: spans {} for {problems}", spans.shape());
            Some(spans)
        }
    };
    let out = gpu.empty([problems * queries, heads * d], Store::Operand.dtype(gpu, d));
    let shape = Shape { d8: padded / 8, queries, keys: key_count, own, dtype: q.dtype() };
    let form = Form::of(gpu.class(), gpu.matrices().as_ref(), shape);
    if let Err(error) = form.check(padded / 8) {
        gpu.fail(error);
        return out;
    }
    let params = Params {
        problems: problems as u32,
        heads: heads as u32,
        queries: queries as u32,
        keys: key_count as u32,
        d: d as u32,
        inner: seq.inner as u32,
        scale,
        pad: 0,
    };
    // of packed keys a problem sees its share
    let seen = match keys {
        Keys::Own => key_count as f64,
        Keys::Packed(_, sharing) => key_count as f64 / sharing.max(1) as f64,
    };
    let flops = 4.0 * (problems * queries * heads * d) as f64 * seen;
    let kind = Kind { form, d8: shape.d8, own, relative: relative.is_some(), dtype: q.dtype(), out: out.dtype() };
    Dispatch::new(gpu, kind.program())
        .bind("q", q)
        .bind("k", k)
        .bind("v", v)
        .bind_if("spans", spans)
        .bind_if("relative", relative)
        .bind("out", &out)
        .params(&params)
        .over([form.groups(problems * heads, queries), 1, 1])
        .iterations(form.iterations(padded / 8, key_count))
        .flops(flops)
        .record();
    out
}

/// What decides on a form.
#[derive(Clone, Copy)]
struct Shape {
    /// Width of a head as stored, in eights.
    d8: usize,
    queries: usize,
    keys: usize,
    own: bool,
    dtype: DType,
}

impl Shape {
    /// Bytes of an eight.
    fn eight(self) -> usize {
        8 * self.dtype.size()
    }
}

/// One algorithm with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `attention/lanes`: queries a lane.
    Lanes { queries: usize },
    /// `attention/lanes_wide`.
    LanesWide,
    /// `attention/short`: places of a problem, eights staged at a time.
    Short { bucket: usize, part: usize },
    /// `attention/flash`: keys staged at a time.
    Flash { block: usize },
    /// `attention/wide`.
    Wide,
    /// `attention/coop`.
    Coop(Coop),
}

/// The numbers of `attention/coop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Coop {
    edge: usize,
    subgroup: usize,
    flat: bool,
    /// Subgroups of a workgroup, a tile of queries each.
    subgroups: usize,
    /// Keys staged at a time.
    block: usize,
}

impl Coop {
    fn of(on: &Matrices, d8: usize) -> Option<Self> {
        let (edge, subgroup) = (on.edge as usize, on.subgroup as usize);
        let known: &[(usize, usize)] = if on.software { &[(2, 2 * edge)] } else { &[(4, 32), (2, 32), (2, 16)] };
        let make = |&(subgroups, block)| Self { edge, subgroup, flat: on.flat, subgroups, block };
        known.iter().map(make).find(|c| {
            subgroup.is_multiple_of(edge)
                && d8 <= REGISTER_D8
                && (8 * d8).is_multiple_of(edge)
                // queries pass through the memory of keys and values
                && c.subgroups * edge <= 2 * c.block
                && c.bytes(d8) <= on.workgroup_bytes as usize
                && c.subgroups * subgroup <= on.invocations as usize
        })
    }

    /// Workgroup memory as the shader lays it out.
    fn bytes(self, d8: usize) -> usize {
        let rows = self.subgroups * self.edge;
        2 * self.block * (8 * d8 + 8) * 2 + rows * (self.block + 8) * (4 + 2) + rows * 4 + 8
    }
}

impl Form {
    fn of(class: Class, matrices: Option<&Matrices>, shape: Shape) -> Self {
        let Shape { d8, queries, keys, own, dtype } = shape;
        let few = own && (1..=SHORT).contains(&keys) && queries <= SHORT;
        match class {
            Class::Simd8 if d8 > REGISTER_D8 => Form::LanesWide,
            // more queries a lane are faster where there are many of them, and take longer to compile
            Class::Simd8 if queries * keys < LARGE => Form::Lanes { queries: 1 },
            Class::Simd8 => Form::Lanes { queries: if d8 <= 10 { 4 } else { 2 } },
            _ if few => {
                let part = (WORKGROUP_BYTES / (64 * shape.eight())).min(d8);
                Form::Short { bucket: queries.max(keys).next_power_of_two().max(16), part }
            }
            _ if d8 > REGISTER_D8 => Form::Wide,
            _ => match matrices.filter(|_| dtype == DType::F16).and_then(|on| Coop::of(on, d8)) {
                Some(coop) => Form::Coop(coop),
                None => Form::Flash { block: (WORKGROUP_BYTES / (2 * d8 * shape.eight())).min(32) },
            },
        }
    }

    /// Whether a device can run it at all.
    fn check(self, d8: usize) -> Result<(), crate::Error> {
        let bytes = 128 * d8 + (1 << 10) + 48;
        if self == Form::Wide && bytes > WORKGROUP_BYTES {
            return Err(crate::Error::Limit {
                what: format!("attention with heads of {}", 8 * d8),
                need: format!("{bytes} bytes of workgroup memory"),
                have: WORKGROUP_BYTES.to_string(),
            });
        }
        Ok(())
    }

    /// Loop iterations of the busiest invocation, all loops together; leaving a loop counts as one.
    fn iterations(self, d8: usize, keys: usize) -> usize {
        match self {
            Form::Lanes { .. } => keys.div_ceil(8) * (2 + 8),
            Form::LanesWide => keys,
            Form::Short { part, .. } => 2 * d8.div_ceil(part) * (3 + 2 * part),
            Form::Flash { block } => keys + keys.div_ceil(block) * (3 + (block * d8).div_ceil(64)),
            Form::Wide => d8.div_ceil(16) + keys.div_ceil(64) * (5 + d8 + 3 * 64),
            Form::Coop(c) => {
                let once = (c.subgroups * c.edge * d8).div_ceil(c.subgroups * c.subgroup);
                let staged = (c.block * d8).div_ceil(c.subgroups * c.subgroup);
                // scaling every sum by way of scratch, and the steps of a maximum over lanes
                let scaled = 8 * d8 / c.edge * (c.edge * c.edge).div_ceil(c.subgroup);
                2 * once + keys.div_ceil(c.block) * (2 + staged + scaled + 8 + 8 * d8 / c.edge)
            }
        }
    }

    /// Workgroups for so many sequences of so many queries.
    fn groups(self, sequences: usize, queries: usize) -> usize {
        match self {
            Form::Lanes { queries: each } => sequences * queries.div_ceil(8 * each),
            Form::LanesWide => sequences * queries.div_ceil(8),
            Form::Short { bucket, .. } => sequences.div_ceil(64 / bucket),
            Form::Flash { .. } => sequences * queries.div_ceil(64),
            Form::Wide => sequences * queries.div_ceil(4),
            Form::Coop(c) => sequences * queries.div_ceil(c.subgroups * c.edge),
        }
    }

    fn program(self, d8: usize) -> Program {
        match self {
            Form::Lanes { queries } => Program::of(shader::ATTENTION_LANES).define("QUERIES", queries as u32),
            Form::LanesWide => Program::of(shader::ATTENTION_LANES_WIDE).define("OWN", d8.div_ceil(8) as u32),
            Form::Short { bucket, part } => {
                Program::of(shader::ATTENTION_SHORT).define("S", bucket as u32).define("PART", part as u32)
            }
            Form::Flash { block } => Program::of(shader::ATTENTION_FLASH).define("BLOCK", block as u32),
            Form::Wide => Program::of(shader::ATTENTION_WIDE).define("OWN", d8.div_ceil(64) as u32),
            Form::Coop(c) => Program::of(shader::ATTENTION_COOP)
                .link(if c.edge == 8 { shader::LIB_MATRIX8 } else { shader::LIB_MATRIX16 })
                .link(if c.flat { shader::ATTENTION_STAGE_ONES } else { shader::ATTENTION_STAGE_FOURS })
                .define("SG", c.subgroup as u32)
                .define("SUBGROUPS", c.subgroups as u32)
                .define("BC", c.block as u32)
                .define("TC", (c.block / c.edge) as u32)
                .define("TD", (8 * d8 / c.edge) as u32)
                .define("CL", (c.block * c.edge / c.subgroup) as u32),
        }
        .define("D8", d8 as u32)
    }
}

/// What a program is built for.
#[derive(Clone, Copy)]
struct Kind {
    form: Form,
    d8: usize,
    own: bool,
    relative: bool,
    dtype: DType,
    out: DType,
}

impl Kind {
    fn program(self) -> Program {
        let mut program = self.form.program(self.d8);
        if !matches!(self.form, Form::Coop(_)) {
            program = program.link(raw(self.dtype));
        }
        program
            .link(if self.own { shader::ATTENTION_KEYS_OWN } else { shader::ATTENTION_KEYS_PACKED })
            .link(if self.relative { shader::ATTENTION_BIAS_RELATIVE } else { shader::ATTENTION_BIAS_NONE })
            .link(match self.out {
                DType::F32 => shader::ATTENTION_OUT_F32,
                DType::F16 => shader::ATTENTION_OUT_F16,
            })
    }
}

pub(super) fn programs() -> Vec<Program> {
    let matrices = Matrices::examples();
    let classes = [(Class::Portable, None), (Class::Simd8, None)];
    let on = matrices.iter().map(|m| (if m.edge == 8 { Class::Coop8 } else { Class::Coop16 }, Some(m)));
    let mut all = Vec::new();
    for (class, matrices) in classes.into_iter().chain(on) {
        // every width in registers, then the wide heads of VAEs
        for d8 in (1..=REGISTER_D8).chain([17, 32, 50, 64, 65, 96]) {
            for (dtype, own) in [(DType::F32, false), (DType::F32, true), (DType::F16, false), (DType::F16, true)] {
                for (queries, keys) in [(15, 15), (32, 20), (64, 64), (300, 65)] {
                    let form = Form::of(class, matrices, Shape { d8, queries, keys, own, dtype });
                    for (relative, out) in [(false, dtype), (true, dtype), (false, DType::F32)] {
                        all.push(Kind { form, d8, own, relative, dtype, out }.program());
                    }
                }
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|p| seen.insert(p.clone()));
    all
}

/// Runs the matrix form where it is right or wrong in ways that show: ragged ends, and scores that rise from block to
/// block, so that sums must be scaled on the way.
pub(super) fn trial(gpu: &Gpu) -> Result<(), String> {
    let (heads, d, queries, keys) = (2, 72, 77, 150);
    let number = |i: usize, step: usize| ((i * step + i / 7) % 17) as f32 / 8.0 - 1.0;
    let rows = |count: usize, step: usize, rise: f32| -> Vec<f32> {
        (0..heads * count * d)
            .map(|i| half::f16::from_f32(number(i, step) + rise * (i / d % count) as f32).to_f32())
            .collect()
    };
    let (q, k, v) = (rows(queries, 5, 0.01), rows(keys, 11, 0.01), rows(keys, 3, 0.0));
    let padded = padded_head(gpu, d);
    let upload = |x: &[f32], count: usize| {
        gpu.filled([1, heads, count, padded], DType::F16, |view| {
            let row = |row: &[f32]| {
                (0..padded)
                    .flat_map(|e| half::f16::from_f32(row.get(e).copied().unwrap_or(0.0)).to_le_bytes())
                    .collect::<Vec<u8>>()
            };
            let bytes: Vec<u8> = x.chunks_exact(d).flat_map(row).collect();
            view.slice(..bytes.len()).copy_from_slice(&bytes);
        })
    };
    let scale = 1.0 / (d as f32).sqrt();
    let (q_on, k_on, v_on) = (upload(&q, queries), upload(&k, keys), upload(&v, keys));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut expected = vec![0.0; queries * heads * d];
    for (head, query) in (0..heads).flat_map(|h| (0..queries).map(move |q| (h, q))) {
        let own = &q[(head * queries + query) * d..][..d];
        let scores: Vec<f64> =
            (0..keys).map(|j| dot(own, &k[(head * keys + j) * d..][..d]) * f64::from(scale)).collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        for (j, score) in scores.iter().enumerate() {
            let weight = (score - top).exp() / total;
            for e in 0..d {
                expected[(query * heads + head) * d + e] += weight * f64::from(v[(head * keys + j) * d + e]);
            }
        }
    }
    for _ in 0..2 {
        let seq = Sequences { len: queries, inner: 1 };
        let out = attention(&q_on, &k_on, &v_on, d, seq, Keys::Own, None, scale);
        let got = out.read_blocking().map_err(|e| format!("attention: {e}"))?;
        // weights and results are rounded to halves: 2^-11 of values below 1 each, and half as much again
        let off = |i: usize| (f64::from(got[i]) - expected[i]).abs();
        let wrong = |i: &usize| off(*i).is_nan() || off(*i) > 1.5e-3;
        if let Some(i) = (0..expected.len()).find(wrong) {
            return Err(format!("attention: {} in place {i}, where {} was due", got[i], expected[i]));
        }
    }
    Ok(())
}
