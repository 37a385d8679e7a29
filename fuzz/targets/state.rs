//! States of runs: files as they come, and heads, which begin with a brace, over tensors that are as they should be.
#![no_main]

use std::collections::HashMap;

use residua::pipeline::State;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let file = match std::str::from_utf8(bytes) {
        Ok(head) if head.starts_with('{') => with_head(head),
        _ => bytes.to_vec(),
    };
    let Ok(state) = State::from_bytes("fuzz.state", &file) else { return };
    let clips = state.captions().len();
    let _ = (state.steps(), state.clip(), state.seconds(), state.start().map(<[f32]>::len), state.given(), clips);
    let again = state.to_bytes().expect("what was read can be written");
    let twice = State::from_bytes("again.state", &again).expect("and read again");
    assert_eq!(twice.to_bytes().expect("written"), again);
});

/// A file of this head, with the tensors of a small run.
fn with_head(head: &str) -> Vec<u8> {
    let zeros = vec![0; 4 * 2 * 12 * 8];
    let view = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        TensorView::new(Dtype::F32, shape.to_vec(), &zeros[..4 * count]).expect("a tensor")
    };
    let tensors = [
        ("latent", view(&[16])),
        ("caption.0", view(&[2, 4])),
        ("cache.0", view(&[2, 12, 8])),
        ("cache.1", view(&[2, 12, 8])),
    ];
    safetensors::serialize(tensors, Some(HashMap::from([(State::KEY.into(), head.into())]))).expect("a file")
}
