//! What tells the files of one checkpoint from those of another.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Checkpoint;
use crate::error::{Error, Result};

/// Of a large file, this much of each end is looked at.
const END: u64 = 1 << 20;

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// [`Error::Io`].
pub fn sha256(path: &Path) -> Result<String> {
    hash(path, |file, sink| std::io::copy(file, sink).map(drop))
}

/// SHA-256 of bytes, in hexadecimal.
pub fn sha256_of_bytes(bytes: &[u8]) -> String {
    Sink(Sha256::new_with_prefix(bytes)).hex()
}

/// SHA-256 of the first and last MiB of a file that has more.
///
/// # Errors
/// [`Error::Io`].
pub fn sha256_of_ends(path: &Path) -> Result<String> {
    hash(path, |file, sink| {
        std::io::copy(&mut file.take(END), sink)?;
        file.seek(SeekFrom::End(-(END as i64)))?;
        std::io::copy(file, sink).map(drop)
    })
}

/// What tells a file from others, as JSON: its size, and SHA-256 of all of it or, where that takes long, of its ends.
pub(super) fn told(path: &Path) -> Result<serde_json::Value> {
    let bytes = path.metadata().map_err(|e| Error::io(path, e))?.len();
    Ok(match bytes > 2 * END {
        true => serde_json::json!({"bytes": bytes, "sha256_of_ends": sha256_of_ends(path)?}),
        false => serde_json::json!({"bytes": bytes, "sha256": sha256(path)?}),
    })
}

/// Of a folder's weights: SHA-256 over names, sizes and ends of all its safetensors and torch files, by name.
///
/// # Errors
/// [`Error::Io`]; [`Error::Checkpoint`] if there are no weights.
pub fn fingerprint(folder: &Path) -> Result<String> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut files: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| Checkpoint::is_name(path)).collect();
    files.sort();
    if files.is_empty() {
        return Err(Error::checkpoint(folder, "holds no weights"));
    }
    let mut sink = Sink(Sha256::new());
    for path in &files {
        let bytes = path.metadata().map_err(|e| Error::io(path, e))?.len();
        let own = if bytes > 2 * END { sha256_of_ends(path)? } else { sha256(path)? };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        sink.0.update(format!("{name} {bytes} {own}\n"));
    }
    Ok(sink.hex())
}

fn hash(path: &Path, feed: impl Fn(&mut File, &mut Sink) -> std::io::Result<()>) -> Result<String> {
    let mut sink = Sink(Sha256::new());
    let fed = File::open(path).and_then(|mut file| feed(&mut file, &mut sink));
    fed.map_err(|e| Error::io(path, e))?;
    Ok(sink.hex())
}

struct Sink(Sha256);

impl Sink {
    fn hex(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_hash() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(sha256(file.path()).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        std::fs::write(file.path(), vec![7; (1 << 20) + 1]).unwrap();
        assert_ne!(sha256_of_ends(file.path()).unwrap(), sha256(file.path()).unwrap(), "the middle counts twice");
    }

    #[test]
    fn names_sizes_and_ends_count() {
        let folder = tempfile::tempdir().unwrap();
        assert!(fingerprint(folder.path()).is_err());
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        let mut seen = vec![];
        for (name, bytes) in
            [("a.safetensors", &b"1"[..]), ("a.safetensors", b"2"), ("b.bin", b"2"), ("b.bin", &[0; 3 << 20])]
        {
            write(name, bytes);
            write("config.json", bytes);
            seen.push(fingerprint(folder.path()).unwrap());
        }
        let distinct: std::collections::HashSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), 4, "{seen:?}");
        write("config.json", b"other");
        assert_eq!(fingerprint(folder.path()).unwrap(), seen[3]);
    }
}
