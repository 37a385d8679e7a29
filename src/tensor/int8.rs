//! Weights in eight bits: a matrix `[N, ..]` kept as signed bytes, and one number for each of its N outputs.
//!
//! The tensor `NAME` is I8 of the shape it always has; beside it `NAME_scale` is F32 `[N]`, finite and not negative, in
//! the same file or another shard. Row n of the matrix is `q[n, ..] · scale[n]`. There is no zero point, and no row
//! depends on another. What `residua convert` writes has q from −127 to 127 and `scale = max|row| / 127` (0 for a row of
//! zeros); −128 is read as well. Files say so under the key `residua.int8` of their metadata, as JSON: `version` (1), and
//! `source`, the files they were made from with what tells them from others. Vectors, tables and small matrices of such a
//! file are floats.

use super::{DType, Shape, Tensor};
use crate::gpu::{Dispatch, Gpu, Program, shader};

/// Behind the name of a matrix, the name of its scales.
pub const SUFFIX: &str = "_scale";
/// In the metadata of a file.
pub(super) const KEY: &str = "residua.int8";
/// The format described above.
pub(super) const VERSION: u64 = 1;
/// The largest byte that is written.
const MOST: f32 = 127.0;

/// The name of the scales of a tensor.
pub(super) fn scale_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// Whether a file is in the format we read, by what its metadata says.
pub(super) fn check(note: &str) -> Result<(), String> {
    let version = serde_json::from_str::<serde_json::Value>(note).ok().and_then(|note| note["version"].as_u64());
    match version {
        Some(VERSION) => Ok(()),
        Some(other) => Err(format!(
            "holds weights of eight bits in version {other} of their format, expected {VERSION}; convert it again, or use \
             the program that wrote it"
        )),
        None => Err(format!("has metadata `{KEY}` without a version, expected {VERSION}; convert it again?")),
    }
}

/// The scale of a row.
pub(super) fn scale_of(row: &[f32]) -> f32 {
    row.iter().fold(0.0f32, |most, v| most.max(v.abs())) / MOST
}

/// The byte of a number under the scale of its row: the nearest.
pub(super) fn byte(v: f32, scale: f32) -> i8 {
    // a scale so small that nothing is left of it makes the row zero
    if scale > 0.0 { (v / scale).round_ties_even().clamp(-MOST, MOST) as i8 } else { 0 }
}

/// The largest number that bytes under these scales can mean.
pub(super) fn reach(scales: &[f32]) -> f32 {
    128.0 * scales.iter().fold(0.0f32, |most, s| most.max(*s))
}

impl Gpu {
    /// Copies bytes to the device and multiplies each row by its scale there, into numbers kept as `dtype` says: a
    /// quarter to a half of what uploading those would move.
    ///
    /// # Panics
    /// If `bytes` (signed, row by row) do not fill `shape`, or there is not one scale for each of its rows.
    pub fn upload_int8(&self, bytes: &[u8], scales: &[f32], shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let shape = shape.into();
        let (numbers, rows) = (shape.count(), scales.len());
        assert_eq!(bytes.len(), numbers, "upload of {} bytes as {shape}", bytes.len());
        assert_eq!(shape.dims().first(), Some(&rows), "upload of {rows} scales for {shape}");
        let words = numbers.div_ceil(4);
        let q = self.filled([words], DType::F32, |view| view.slice(..bytes.len()).copy_from_slice(bytes));
        let scale = self.upload(scales, [rows]);
        let out = self.empty(shape, dtype);
        Dispatch::new(self, program(dtype))
            .bind("q", &q)
            .bind("scale", &scale)
            .bind("out", &out)
            .params(&[words as u32, numbers as u32, (numbers / rows.max(1)) as u32, 0])
            .over([words.div_ceil(64), 1, 1])
            .record();
        out
    }
}

fn program(dtype: DType) -> Program {
    Program::of(shader::ELEMENTWISE_EXPAND_INT8).define("HALVES", u32::from(dtype == DType::F16))
}

pub(crate) fn programs() -> Vec<Program> {
    vec![program(DType::F32), program(DType::F16)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_nearest_and_reach_the_largest_number() {
        let row = [0.0, 1.0, -2.54, 0.011, 0.029, -0.01];
        let scale = scale_of(&row);
        assert_eq!(row.map(|v| byte(v, scale)), [0, 50, -127, 1, 1, 0]);
        assert!(row.iter().all(|&v| (f32::from(byte(v, scale)) * scale - v).abs() <= 0.5001 * scale));
        assert_eq!((scale_of(&[0.0, -0.0]), byte(0.0, 0.0)), (0.0, 0));
        // the smallest numbers of all, whose scale is no more
        assert_eq!(byte(f32::from_bits(1), scale_of(&[f32::from_bits(1)])), 0);
        assert_eq!(scale_of(&[]), 0.0);
    }

    #[test]
    fn formats_we_do_not_know_are_refused() {
        assert!(check(r#"{"version": 1, "source": {}}"#).is_ok());
        assert!(check(r#"{"version": 2}"#).is_err_and(|e| e.contains("version 2")));
        assert!(check("").is_err() && check("[]").is_err());
    }
}
