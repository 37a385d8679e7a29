//! Attention: heads laid out once, then softmax(q·kᵀ)·v without ever storing the scores.

use bytemuck::{Pod, Zeroable};

use super::{contract, empty_f32, groups_of_64};
use crate::gpu::shader::{self, Source};
use crate::gpu::{Class, Dispatch, Program};
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

/// Which keys a problem sees.
#[derive(Clone, Copy)]
pub enum Keys<'a> {
    /// Its own, all of them.
    Own,
    /// A range of one packed sequence shared by all: `[problems, 2]` words, first and count.
    Packed(&'a Tensor),
}

/// Widest head (in vec4) whose query and output stay in registers.
const REGISTER_D4: usize = 32;
/// Sequences up to this length are read straight from storage, longer ones staged (on real GPUs).
const SHORT: usize = 32;
/// Workgroup memory every adapter has.
const WORKGROUP_BYTES: usize = 16 << 10;
/// Software Vulkan ends an invocation after 65 535 loop iterations, without an error.
const CPU_ITERATIONS: usize = 60_000;

/// The head dimension as stored: rounded up to a multiple of 4, the rest zero.
pub fn padded_head(d: usize) -> usize {
    d.next_multiple_of(4)
}

/// One part of a projection as heads. x: `[rows, width]`, columns `first .. first + heads·d`
/// → `[problems, heads, len, padded_head(d)]`, with RMS norm over the head (weight `[d]`, eps 1e-6) and rotary
/// (angles `[≥ len, d/2, 2]` as cos, sin; interleaved pairs) where given.
///
/// # Panics
/// If the sizes do not fit.
#[track_caller]
pub fn split_heads(
    x: &Tensor,
    first: usize,
    [heads, d]: [usize; 2],
    seq: Sequences,
    norm: Option<&Tensor>,
    rotary: Option<&Tensor>,
) -> Tensor {
    #[repr(C)]
    #[derive(Clone, Copy, Pod, Zeroable)]
    struct Params {
        rows: u32,
        width: u32,
        first: u32,
        heads: u32,
        d: u32,
        len: u32,
        inner: u32,
        pad: u32,
    }
    let [rows, width] = x.as_rows();
    let fits = first + heads * d <= width && rows % (seq.len * seq.inner) == 0;
    contract!(fits, "split_heads: {} at {first}, {heads} heads of {d}, {seq:?}", x.shape());
    contract!(norm.is_none_or(|w| w.count() == d), "split_heads: norm weight for heads of {d}");
    contract!(
        rotary.is_none_or(|a| d % 2 == 0 && a.count() >= seq.len * d),
        "split_heads: rotary angles for {} places of {d}",
        seq.len
    );
    let out = empty_f32(x.gpu(), [rows / seq.len, heads, seq.len, padded_head(d)]);
    let params = Params {
        rows: rows as u32,
        width: width as u32,
        first: first as u32,
        heads: heads as u32,
        d: d as u32,
        len: seq.len as u32,
        inner: seq.inner as u32,
        pad: 0,
    };
    Dispatch::new(x.gpu(), split_program(padded_head(d) / 4, norm.is_some(), rotary.is_some()))
        .bind("x", x)
        .bind_if("weight", norm)
        .bind_if("angles", rotary)
        .bind("out", &out)
        .params(&params)
        .over(groups_of_64(rows * heads))
        .record();
    out
}

fn split_program(d4: usize, norm: bool, rotary: bool) -> Program {
    Program::of(shader::ATTENTION_SPLIT)
        .define("D4", d4 as u32)
        .link(if norm { shader::ATTENTION_NORM_RMS } else { shader::ATTENTION_NORM_NONE })
        .link(if rotary { shader::ATTENTION_TURN_ROTARY } else { shader::ATTENTION_TURN_NONE })
}

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
/// when packed), from [`split_heads`]; `relative`: `[heads, 2·queries − 1]`, added by key − query (T5).
/// → `[rows, heads·d]` in the row order of `seq`. A problem without keys gives zeros.
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
    let own = matches!(keys, Keys::Own);
    let fits = key_heads == heads
        && padded == padded_head(d)
        && key_padded == padded
        && k.dims() == v.dims()
        && key_problems == if own { problems } else { 1 }
        && problems % seq.inner == 0
        && queries == seq.len;
    contract!(fits, "attention: q {}, k {}, v {}, d {d}, {seq:?}", q.shape(), k.shape(), v.shape());
    if let Some(table) = relative {
        contract!(table.count() == heads * (2 * queries - 1), "attention: bias {} for {queries}", table.shape());
    }
    let spans = match keys {
        Keys::Own => None,
        Keys::Packed(spans) => {
            contract!(spans.count() == 2 * problems, "attention: spans {} for {problems}", spans.shape());
            Some(spans)
        }
    };
    let gpu = q.gpu();
    let out = empty_f32(gpu, [problems * queries, heads * d]);
    let (d4, class) = (padded / 4, gpu.class());
    let form = Form::of(d4, key_count, class);
    if class == Class::Simd8 && form.iterations(d4, key_count) > CPU_ITERATIONS {
        gpu.fail(crate::Error::Limit {
            what: "attention on a software driver".into(),
            need: format!("{} loop iterations for {key_count} keys", form.iterations(d4, key_count)),
            have: CPU_ITERATIONS.to_string(),
        });
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
    let groups = match form {
        Form::Stream => (problems * heads * queries).div_ceil(64),
        Form::Flash => problems * heads * queries.div_ceil(64),
        Form::Wide => problems * heads * queries.div_ceil(4),
    };
    // of packed keys a problem sees its share
    let seen = if own { key_count as f64 } else { key_count as f64 / problems as f64 };
    let flops = 4.0 * (problems * queries * heads * d) as f64 * seen;
    Dispatch::new(gpu, program(form, d4, own, relative.is_some()))
        .bind("q", q)
        .bind("k", k)
        .bind("v", v)
        .bind_if("spans", spans)
        .bind_if("relative", relative)
        .bind("out", &out)
        .params(&params)
        .flops(flops)
        .over([groups, 1, 1])
        .record();
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Stream,
    Flash,
    Wide,
}

impl Form {
    fn of(d4: usize, keys: usize, class: Class) -> Self {
        if d4 > REGISTER_D4 {
            Form::Wide
        } else if class == Class::Simd8 || keys <= SHORT {
            Form::Stream
        } else {
            Form::Flash
        }
    }

    /// Loop iterations of the busiest invocation.
    fn iterations(self, d4: usize, keys: usize) -> usize {
        match self {
            Form::Stream => keys,
            Form::Flash => keys + keys * d4 / 64,
            Form::Wide => keys.div_ceil(64) * (d4 + 3 * 64),
        }
    }
}

fn program(form: Form, d4: usize, own: bool, relative: bool) -> Program {
    let file: Source = match form {
        Form::Stream => shader::ATTENTION_STREAM,
        Form::Flash => shader::ATTENTION_FLASH,
        Form::Wide => shader::ATTENTION_WIDE,
    };
    let mut program = Program::of(file).define("D4", d4 as u32);
    match form {
        Form::Stream => {}
        Form::Flash => program = program.define("BLOCK", (WORKGROUP_BYTES / (32 * d4)).min(32) as u32),
        Form::Wide => program = program.define("OWN", d4.div_ceil(64) as u32),
    }
    program.link(if own { shader::ATTENTION_KEYS_OWN } else { shader::ATTENTION_KEYS_PACKED }).link(if relative {
        shader::ATTENTION_BIAS_RELATIVE
    } else {
        shader::ATTENTION_BIAS_NONE
    })
}

pub(super) fn programs() -> Vec<Program> {
    let mut all = Vec::new();
    // every width in registers, then the wide heads of VAEs
    for d4 in (1..=REGISTER_D4).chain([33, 64, 100, 128, 129, 192]) {
        for flag in [false, true] {
            all.push(split_program(d4, flag, false));
            all.push(split_program(d4, flag, true));
            for form in [Form::Stream, Form::Flash, Form::Wide] {
                if (form == Form::Wide) == (d4 > REGISTER_D4) {
                    all.push(program(form, d4, flag, false));
                    all.push(program(form, d4, flag, true));
                }
            }
        }
    }
    all
}
