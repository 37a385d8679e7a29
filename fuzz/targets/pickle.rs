//! Pickles, in an archive that is as it should be.
#![no_main]

#[path = "look.rs"]
mod look;
#[path = "../../tests/torch_file/mod.rs"]
mod torch_file;

use residua::tensor::Checkpoint;

libfuzzer_sys::fuzz_target!(|code: &[u8]| {
    let storages = [("0", 96), ("1", 48), ("2", 0)].map(|(key, bytes)| (key.to_string(), vec![7; bytes]));
    let file = torch_file::file(code, &storages);
    if let Ok(checkpoint) = Checkpoint::from_bytes("fuzz.bin", file) {
        look::look(&checkpoint);
    }
});
