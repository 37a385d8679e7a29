//! Archives: what does not begin as one is made to.
#![no_main]

#[path = "look.rs"]
mod look;

use residua::tensor::Checkpoint;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if bytes.len() < 4 {
        return;
    }
    bytes[..4].copy_from_slice(b"PK\x03\x04");
    if let Ok(checkpoint) = Checkpoint::from_bytes("fuzz.bin", bytes) {
        look::look(&checkpoint);
    }
});
