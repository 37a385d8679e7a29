//! Parts of a result that were made one after the other.

use super::contract;
use crate::tensor::Tensor;

/// Parts end to end along the outermost axis. parts: `[nᵢ, ..]`, the same behind it → `[Σ nᵢ, ..]`, as they are stored.
/// Recorded as copies: no kernel has to bind the whole.
///
/// # Panics
/// If there is no part, or they differ behind the first axis.
#[track_caller]
pub fn join(parts: &[Tensor]) -> Tensor {
    contract!(!parts.is_empty(), "join: no parts");
    if let [only] = parts {
        return only.clone();
    }
    let mut shape = parts[0].dims().to_vec();
    let alike = |p: &Tensor| p.dtype() == parts[0].dtype() && p.bytes().is_multiple_of(4);
    let fits = parts.iter().all(|p| p.dims().len() == shape.len() && p.dims()[1..] == shape[1..] && alike(p));
    contract!(fits, "join: {:?}", parts.iter().map(Tensor::shape).collect::<Vec<_>>());
    shape[0] = parts.iter().map(|p| p.dims()[0]).sum();
    let out = parts[0].gpu().empty(shape, parts[0].dtype());
    let mut at = 0;
    for part in parts {
        part.gpu().copy_into(part, &out, at);
        at += part.bytes();
    }
    out
}

/// Copies some rows of x to rows of `to` from `at` on; both are rows of the same length and type.
#[track_caller]
pub(crate) fn copy_rows(x: &Tensor, rows: std::ops::Range<usize>, to: &Tensor, at: usize) {
    let ([have, c], [room, width]) = (x.as_rows(), to.as_rows());
    let row = c * x.dtype().size();
    let fits = c == width && x.dtype() == to.dtype() && row.is_multiple_of(4) && at + rows.len() <= room;
    contract!(fits, "copy_rows: {rows:?} of {x:?} to {at} of {to:?}");
    x.gpu().copy_into(&x.part(have, &rows), to, (at * row) as u64);
}
