//! Parts of a result that were made one after the other.

use super::{Lanes, contract, groups_of_64};
use crate::gpu::{Dispatch, Program, shader};
use crate::tensor::Tensor;

/// Parts end to end along the outermost axis. parts: `[nᵢ, ..]`, the same behind it → `[Σ nᵢ, ..]`, f32.
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
    let out = super::empty_f32(parts[0].gpu(), shape);
    let mut at = 0;
    for part in parts {
        let lanes = Lanes::of(&[at, part.count()]);
        let count = lanes.steps(part.count());
        Dispatch::new(part.gpu(), program(lanes))
            .bind("x", part)
            .bind("out", &out)
            .params(&[count, lanes.steps(at), 0, 0])
            .over(groups_of_64(count as usize))
            .record();
        at += part.count();
    }
    out
}

fn program(lanes: Lanes) -> Program {
    Program::of(shader::LAYOUT_PLACE).link(lanes.file())
}

pub(super) fn programs() -> Vec<Program> {
    Lanes::ALL.map(program).to_vec()
}
