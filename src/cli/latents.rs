//! Latents at rest: one safetensors file with the tensor `latents`, f32 `[1, 4, T, H, W]`, and its recipe.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use residua::Error;
use residua::media::RECIPE_KEY;
use residua::tensor::Checkpoint;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

use super::exit::{Failure, Outcome};
use super::output;

/// The tensor's name.
pub const TENSOR: &str = "latents";
/// No header of ours comes near.
const MOST_HEADER: u64 = 16 << 20;

/// A latents file, read.
pub struct Latents {
    /// `[1, channels, T, H, W]`
    pub shape: [usize; 5],
    pub numbers: Vec<f32>,
    /// How they were made, if the file says.
    pub recipe: Option<Value>,
}

/// # Errors
/// If the file is not there, damaged, or holds something else.
pub fn read(path: &Path) -> Outcome<Latents> {
    if !path.is_file() {
        return Err(Failure::input(Error::checkpoint(path, "there is no such latents file")));
    }
    let file = Checkpoint::open(path).map_err(Failure::input)?;
    let wrong =
        |problem: String| Failure::input(Error::Checkpoint { file: path.into(), tensor: Some(TENSOR.into()), problem });
    let Some(entry) = file.entry(TENSOR) else {
        let names: Vec<&str> = file.names().take(3).collect();
        let held = if names.is_empty() { "nothing".into() } else { names.join(", ") };
        return Err(wrong(format!("is missing, the file holds {held}; --latents-out writes such files")));
    };
    let shape = match <[usize; 5]>::try_from(entry.shape) {
        Ok(shape @ [1, 4, _, _, _]) if !shape.contains(&0) => shape,
        _ => return Err(wrong(format!("is {:?}, expected [1, 4, T, H, W]", entry.shape))),
    };
    let numbers = entry.widen(0..shape.iter().product()).map_err(wrong)?;
    if let Some(at) = numbers.iter().position(|v| !v.is_finite()) {
        return Err(wrong(format!("holds {} (number {at})", numbers[at])));
    }
    Ok(Latents { shape, numbers, recipe: recipe(path) })
}

/// What the file says about how it was made.
pub fn recipe(path: &Path) -> Option<Value> {
    metadata(path, RECIPE_KEY)
}

/// JSON among the metadata of a file of safetensors.
pub fn metadata(path: &Path, key: &str) -> Option<Value> {
    let mut file = File::open(path).ok()?;
    let mut size = [0; 8];
    file.read_exact(&mut size).ok()?;
    let size = Some(u64::from_le_bytes(size)).filter(|&n| n <= MOST_HEADER)?;
    let mut header = Vec::new();
    file.take(size).read_to_end(&mut header).ok()?;
    let header: Value = serde_json::from_slice(&header).ok()?;
    serde_json::from_str(header.get("__metadata__")?.get(key)?.as_str()?).ok()
}

/// Writes latents, whole or not at all.
///
/// # Errors
/// If the system refuses.
pub fn write(path: &Path, shape: [usize; 5], numbers: &[f32], recipe: &Value, overwrite: bool) -> Outcome {
    let encode = |e: safetensors::SafeTensorError| {
        Failure::output(Error::Encode { what: path.display().to_string(), problem: e.to_string() })
    };
    let view = TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(numbers)).map_err(encode)?;
    // one entry: a map of several would be written in another order each time
    let metadata = HashMap::from([(RECIPE_KEY.to_string(), recipe.to_string())]);
    let bytes = safetensors::serialize([(TENSOR, view)], Some(metadata)).map_err(encode)?;
    output::write_file(path, &bytes, overwrite)
}
