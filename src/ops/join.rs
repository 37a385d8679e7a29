//! Parts of a result that were made one after the other.

use super::{contract, empty_f32, groups_of_64};
use crate::gpu::{Dispatch, Program, shader};
use crate::tensor::Tensor;

/// Parts end to end along the outermost axis. parts: `[nᵢ, ..]`, the same behind it → `[Σ nᵢ, ..]`.
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
    let fits = parts.iter().all(|p| p.dims().len() == shape.len() && p.dims()[1..] == shape[1..]);
    contract!(fits, "join: {:?}", parts.iter().map(Tensor::shape).collect::<Vec<_>>());
    shape[0] = parts.iter().map(|p| p.dims()[0]).sum();
    let out = empty_f32(parts[0].gpu(), shape);
    let mut at = 0;
    for part in parts {
        Dispatch::new(part.gpu(), Program::of(shader::LAYOUT_PLACE))
            .bind("x", part)
            .bind("out", &out)
            .params(&[part.count() as u32, at as u32, 0, 0])
            .over(groups_of_64(part.count()))
            .record();
        at += part.count();
    }
    out
}

pub(super) fn programs() -> Vec<Program> {
    vec![Program::of(shader::LAYOUT_PLACE)]
}
