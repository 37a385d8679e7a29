//! Files as they come, of either format.
#![no_main]

#[path = "look.rs"]
mod look;

use residua::tensor::Checkpoint;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(checkpoint) = Checkpoint::from_bytes("fuzz.safetensors", bytes.to_vec()) {
        look::look(&checkpoint);
    }
});
