//! Folders that take a while to make: made by the first test that asks, and left for the next.

use std::path::{Path, PathBuf};

/// A folder that `write` fills. It stays as long as `source`, the text of the code that makes it, stays as it is.
pub fn made_once(name: &str, source: &str, write: impl FnOnce(&Path)) -> PathBuf {
    let version = source.bytes().fold(5381u32, |h, b| h.wrapping_mul(33) ^ u32::from(b));
    let shelf = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = shelf.join(format!("{name}-{version:08x}"));
    if !folder.is_dir() {
        let making = tempfile::tempdir_in(shelf).unwrap();
        write(making.path());
        // another process may have been faster, with the same
        let _ = std::fs::rename(making.path(), &folder);
    }
    folder
}
