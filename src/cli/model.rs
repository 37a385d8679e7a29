//! Finding a model folder, looking at its files, opening it on an adapter.

use std::path::{Path, PathBuf};

use residua::Error;
use residua::gpu::Gpu;
use residua::pipeline::OpenSora;
use residua::tensor::{Checkpoint, sha256, sha256_of_ends};
use serde_json::{Map, Value, json};

use super::args;
use super::exit::{Failure, Outcome};

/// The model that comes with the project.
const SHIPPED: &str = "toybox";
/// Folders of a model that hold weights.
const WEIGHTS: [&str; 3] = ["transformer", "vae", "text_encoder"];
/// Larger files are known by their ends alone: hashing all of a large model takes longer than opening it.
const HASHED: u64 = 64 << 20;

/// The folder asked for: a path, or a name in one of the `weights` folders; the shipped model if nothing was asked.
///
/// # Errors
/// If there is no such folder.
pub fn find(asked: Option<&Path>) -> Outcome<PathBuf> {
    if let Some(path) = asked
        && path.is_dir()
    {
        return Ok(path.to_path_buf());
    }
    let name = asked.unwrap_or(Path::new(SHIPPED));
    let plain = name.components().count() == 1;
    if let Some(found) = shelves().map(|s| s.join(name)).find(|p| plain && p.is_dir()) {
        return Ok(found);
    }
    let failure = match asked {
        Some(path) => {
            let problem =
                "there is no such model folder, and no model of this name in `weights`; give a folder with -m";
            Failure::input(Error::checkpoint(path, problem))
        }
        None => {
            let problem = "the shipped model was not found here or beside the program; give a model folder with -m";
            Failure::input(Error::checkpoint(Path::new("weights").join(SHIPPED), problem))
        }
    };
    Err(failure)
}

/// Where models are looked for by name: here, beside the program, where it was built.
fn shelves() -> impl Iterator<Item = PathBuf> {
    let program = std::env::current_exe().and_then(|p| p.canonicalize()).unwrap_or_default();
    let beside: Vec<PathBuf> = program.ancestors().skip(1).map(Path::to_path_buf).collect();
    std::iter::once(PathBuf::new())
        .chain(beside)
        .chain([PathBuf::from(env!("CARGO_MANIFEST_DIR"))])
        .map(|root| root.join("weights"))
}

/// The name of a model folder.
pub fn name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    whole.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned())
}

/// Opens the headers of all weights, so that a damaged file is found before any work is done. A text encoder may be
/// without: captions may be known, and whoever needs it is told.
///
/// # Errors
/// Naming the file.
pub fn check(folder: &Path) -> Outcome {
    let weights = |part: &Path| {
        let mut files = std::fs::read_dir(part).into_iter().flatten().flatten();
        files.any(|file| Checkpoint::is_name(&file.path()))
    };
    let needed = |part: &Path| part.is_dir() && (weights(part) || !part.ends_with("text_encoder"));
    for part in WEIGHTS.map(|p| folder.join(p)).iter().filter(|part| needed(part)) {
        Checkpoint::open(part).map_err(Failure::input)?;
    }
    Ok(())
}

/// Opens the folder on the adapter asked for.
///
/// # Errors
/// No adapter, or a folder that is not a model.
pub async fn open(folder: &Path, device: &args::Device) -> Outcome<OpenSora> {
    let gpu = Gpu::open(&device.prefs()).await?;
    Ok(OpenSora::open(&gpu, folder)?)
}

/// The files of the weights and of the tokenizer with what tells them from others, for a recipe.
pub fn fingerprint(folder: &Path) -> Outcome<Value> {
    let mut files = Map::new();
    for part in WEIGHTS.iter().chain(&["tokenizer"]) {
        let Ok(entries) = std::fs::read_dir(folder.join(part)) else { continue };
        for path in entries.flatten().map(|e| e.path()) {
            let weights = Checkpoint::is_name(&path) || path.extension().is_some_and(|e| e == "model");
            let Some(name) = path.file_name().filter(|_| weights) else { continue };
            let bytes = path.metadata().map_err(|e| Error::io(&path, e))?.len();
            let told = match bytes {
                0..=HASHED => json!({"bytes": bytes, "sha256": sha256(&path)?}),
                _ => json!({"bytes": bytes, "sha256_of_ends": sha256_of_ends(&path)?}),
            };
            files.insert(format!("{part}/{}", name.to_string_lossy()), told);
        }
    }
    Ok(Value::Object(files))
}

/// The adapter as recipes and events name it.
pub fn adapter(gpu: &Gpu) -> Value {
    json!(gpu.facts())
}
