//! Indexes of shards, beside two shards: nothing outside their folder is opened.
#![no_main]

#[path = "look.rs"]
mod look;
#[path = "../../tests/torch_file/mod.rs"]
mod torch_file;

use std::sync::OnceLock;

use residua::tensor::Checkpoint;
use torch_file::{Stored, state_dict};

libfuzzer_sys::fuzz_target!(|index: &[u8]| {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a", "b"] {
            let storage = [("0".to_string(), vec![0; 96])];
            let file = torch_file::file(&state_dict(2, &[Stored::dense(name, "Float", 0, &[24])]), &storage);
            std::fs::write(folder.path().join(format!("{name}.bin")), file).expect("written");
        }
        folder
    });
    let path = folder.path().join("pytorch_model.bin.index.json");
    std::fs::write(&path, index).expect("written");
    if let Ok(checkpoint) = Checkpoint::open(folder.path()) {
        for name in checkpoint.names() {
            let file = checkpoint.entry(name).expect("a name that is listed").file;
            assert_eq!(file.parent(), Some(folder.path()));
        }
        look::look(&checkpoint);
    }
});
