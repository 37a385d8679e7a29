//! Safetensors files: a JSON header with every tensor's type, shape and place, then the numbers.

use safetensors::SafeTensors;

use super::{Fault, Found, Layout, int8, told};

/// Most bytes of a header: room for some 300 thousand tensors.
const HEADER: u64 = 32 << 20;

/// The tensors of a file.
pub(super) fn read(file: &[u8]) -> Result<Vec<Found>, Fault> {
    let size = file.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    let parsed = if size > HEADER {
        Err(format!("has a header of {size} bytes, expected {HEADER} at most; is it a safetensors file?"))
    } else {
        // (this checks that tensors neither overlap nor leave gaps, and that shapes agree with their bytes)
        SafeTensors::read_metadata(file)
            .map_err(|e| format!("is no complete safetensors file ({}); download it again?", told(e)))
    };
    let (header, metadata) = parsed.map_err(|e| Fault::of_file(what_else(file).map_or(e, String::from)))?;
    let notes = metadata.metadata().as_ref();
    notes.and_then(|notes| notes.get(int8::KEY)).map_or(Ok(()), |note| int8::check(note)).map_err(Fault::of_file)?;
    let start = header + 8;
    let place = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let (from, to) = info.data_offsets;
        let bytes = start + from..start + to;
        if bytes.end > file.len() {
            return Err(Fault { tensor: Some(name), problem: "ends after the file does; download it again?".into() });
        }
        Ok((name, Layout { dtype: info.dtype, shape: info.shape.clone(), strides: None, bytes }))
    };
    metadata.tensors().into_iter().map(place).collect()
}

/// What a file is that is often found in the place of weights.
fn what_else(file: &[u8]) -> Option<&'static str> {
    let start = file[..file.len().min(256)].trim_ascii_start();
    if start.starts_with(b"version https://git-lfs") {
        return Some("is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`");
    }
    if start.starts_with(b"<") {
        return Some("is a page of the web, not weights; download it again?");
    }
    if start.starts_with(b"\x80") && start.len() > 1 && (2..=5).contains(&start[1]) {
        return Some("is a bare pickle, expected safetensors or the zip format of torch; load and save it in torch");
    }
    None
}
