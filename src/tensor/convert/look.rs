//! What is to become of a tensor, by its name, its shape and all of its numbers.

use std::ops::Range;

use safetensors::Dtype;

use super::{Conversion, ConvertedTensor, LEAST, Stored};
use crate::tensor::{Entry, int8};

/// Rows of fewer numbers are not worth a scale: with it each of them has over nine bits.
const SHORT: usize = 32;
/// Numbers that are looked at together, whole rows of them.
const CHUNK: usize = 1 << 20;

/// How the numbers of a tensor are written.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// The bytes as they are.
    Kept,
    /// Floats of a type.
    Float(Stored),
    /// Bytes, under the scales of the rows.
    Bytes(Vec<f32>),
}

/// A tensor that was looked at.
pub(super) struct Planned {
    pub kind: Kind,
    pub told: ConvertedTensor,
}

/// Looks at a tensor.
///
/// # Errors
/// What is wrong with it.
pub(super) fn look(entry: &Entry<'_>, name: &str, how: &Conversion<'_>) -> Result<Planned, String> {
    let numbers: usize = entry.shape.iter().product();
    let mut kind = wanted(entry, name, how);
    let (mut error, mut note) = (0.0, None);
    // what is passed on has to be sound as well
    entry.scales()?;
    let unread = !matches!(entry.dtype(), Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
    if how.to.is_some() && unread && entry.type_name() != "int8" && name.ends_with("weight") {
        note = Some(format!("is stored as {}, which is not read", entry.type_name()));
    }
    if !matches!(kind, Kind::Kept) {
        let range = Extent::of(entry)?;
        if !range.finite {
            // some buffers of masks are infinite on purpose
            (kind, note) = (Kind::Kept, Some("holds infinite numbers or NaN".to_string()));
        } else if range.most > most_of(&kind) {
            (kind, note) = (Kind::Float(Stored::F32), Some(format!("holds numbers up to {:e}", range.most)));
        } else if let Kind::Bytes(scales) = &mut kind {
            *scales = range.scales;
        }
        if !matches!(kind, Kind::Kept) {
            error = error_of(entry, &kind)?;
        }
    }
    let to = match &kind {
        Kind::Kept => entry.type_name(),
        Kind::Float(to) => to.to_string(),
        Kind::Bytes(_) => Stored::Int8.to_string(),
    };
    let after = match &kind {
        Kind::Kept => entry.stored_bytes(),
        Kind::Float(to) => (numbers * size(*to)) as u64,
        Kind::Bytes(scales) => (numbers + size_of::<f32>() * scales.len()) as u64,
    };
    let (from, before) = (entry.type_name(), entry.stored_bytes());
    let told = ConvertedTensor { name: name.into(), shape: entry.shape.to_vec(), from, to, before, after, error, note };
    Ok(Planned { kind, told })
}

/// What a tensor becomes if its numbers allow.
fn wanted(entry: &Entry<'_>, name: &str, how: &Conversion<'_>) -> Kind {
    let (rows, numbers) = (entry.shape.first().copied().unwrap_or(1), entry.shape.iter().product::<usize>());
    let own = entry.type_name();
    let float = matches!(entry.dtype(), Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) || own == "int8";
    // (what is in eight bits was worth it to whoever wrote it)
    let matrix = (entry.shape.len() >= 2 && numbers >= LEAST) || own == "int8";
    let for_products = name.ends_with("weight") && !how.table.contains(&name) && numbers >= SHORT * rows;
    let Some(to) = how.to.filter(|to| float && own != to.to_string()) else { return Kind::Kept };
    match to {
        Stored::F32 => Kind::Float(Stored::F32),
        _ if !matrix => Kind::Kept,
        Stored::Int8 if for_products => Kind::Bytes(Vec::new()),
        Stored::Int8 if own == "f16" => Kind::Kept,
        Stored::Int8 => Kind::Float(Stored::F16),
        to => Kind::Float(to),
    }
}

/// The largest number that a kind can hold; of bytes, that a device can when it has made halves of them.
fn most_of(kind: &Kind) -> f32 {
    match kind {
        Kind::Kept | Kind::Float(Stored::F32) => f32::MAX,
        Kind::Float(Stored::Bf16) => half::bf16::MAX.to_f32(),
        Kind::Float(Stored::F16 | Stored::Int8) => half::f16::MAX.to_f32(),
        // -128 may be among them
        Kind::Bytes(_) => half::f16::MAX.to_f32() * 127.0 / 128.0,
    }
}

/// Bytes of a number.
fn size(of: Stored) -> usize {
    match of {
        Stored::F32 => 4,
        Stored::F16 | Stored::Bf16 => 2,
        Stored::Int8 => 1,
    }
}

/// Numbers of a row.
pub(super) fn row(entry: &Entry<'_>) -> usize {
    entry.shape.iter().skip(1).product::<usize>().max(1)
}

/// The numbers of a tensor in order, some whole rows at a time.
pub(super) fn chunks(entry: &Entry<'_>) -> impl Iterator<Item = Range<usize>> {
    let (all, row) = (entry.shape.iter().product::<usize>(), row(entry));
    let step = (CHUNK / row).max(1) * row;
    (0..all).step_by(step).map(move |from| from..(from + step).min(all))
}

/// How large the numbers of a tensor are.
struct Extent {
    finite: bool,
    most: f32,
    scales: Vec<f32>,
}

impl Extent {
    fn of(entry: &Entry<'_>) -> Result<Self, String> {
        let (row, mut extent) = (row(entry), Self { finite: true, most: 0.0, scales: Vec::new() });
        for range in chunks(entry) {
            let numbers = entry.widen(range)?;
            extent.finite &= numbers.iter().all(|v| v.is_finite());
            extent.most = numbers.iter().fold(extent.most, |most, v| most.max(v.abs()));
            extent.scales.extend(numbers.chunks(row).map(int8::scale_of));
        }
        Ok(extent)
    }
}

/// The relative error of what is written: root mean square over root mean square.
fn error_of(entry: &Entry<'_>, kind: &Kind) -> Result<f64, String> {
    let (row, mut off, mut of) = (row(entry), 0.0, 0.0);
    for range in chunks(entry) {
        let first = range.start;
        for (i, v) in entry.widen(range)?.into_iter().enumerate() {
            let read = match kind {
                Kind::Kept | Kind::Float(Stored::F32) => v,
                Kind::Float(Stored::Bf16) => half::bf16::from_f32(v).to_f32(),
                Kind::Float(_) => half::f16::from_f32(v).to_f32(),
                Kind::Bytes(scales) => {
                    let scale = scales[(first + i) / row];
                    f32::from(int8::byte(v, scale)) * scale
                }
            };
            off += f64::from(read - v).powi(2);
            of += f64::from(v).powi(2);
        }
    }
    Ok(if of > 0.0 { (off / of).sqrt() } else { 0.0 })
}
