//! Finding a model, looking at its files, opening it on an adapter.

use std::path::{Path, PathBuf};

use residua::Error;
use residua::gpu::Gpu;
use residua::pipeline::OpenSora;
use residua::pipeline::parts::{Located, Part, Parts, Search};
use residua::tensor::{Checkpoint, sha256, sha256_of_ends};
use residua::text::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use super::args;
use super::exit::{Failure, Outcome};

/// The model that comes with the project.
const SHIPPED: &str = "toybox";
/// Larger files are known by their ends alone: hashing all of a large model takes longer than opening it.
const HASHED: u64 = 64 << 20;

/// The model asked for, by folder or name; the shipped one if nothing was asked.
///
/// # Errors
/// If there is none, or parts of it are missing.
pub fn find(asked: Option<&Path>) -> Outcome<Parts> {
    let found = match (search().find(asked.unwrap_or(Path::new(SHIPPED))), asked) {
        (Err(Error::Checkpoint { file, .. }), None) if file == Path::new(SHIPPED) => {
            let problem = "the shipped model was not found here or beside the program; give a model folder with -m";
            Err(Error::checkpoint(Path::new("weights").join(SHIPPED), problem))
        }
        (found, _) => found,
    };
    found.and_then(Located::parts).map_err(Failure::input)
}

/// Where models are looked for by name: `RESIDUA_MODELS`, `weights` here, beside the program and where it was built, and
/// the hub's cache.
pub fn search() -> Search {
    let mut search = Search::from_env();
    let program = std::env::current_exe().and_then(|p| p.canonicalize()).unwrap_or_default();
    let beside: Vec<PathBuf> = program.ancestors().skip(1).map(Path::to_path_buf).collect();
    let roots = std::iter::once(PathBuf::new()).chain(beside).chain([PathBuf::from(env!("CARGO_MANIFEST_DIR"))]);
    for shelf in roots.map(|root| root.join("weights")) {
        let known = |s: &PathBuf| s.canonicalize().ok() == shelf.canonicalize().ok();
        if shelf.is_dir() && !search.shelves.iter().any(known) {
            search.shelves.push(shelf);
        }
    }
    search
}

/// The name of a model as a part of a file's name.
pub fn label(name: &str) -> String {
    name.replace('/', "-")
}

/// Opens the headers of all weights, so that a damaged file is found before any work is done. A text encoder may be
/// without: captions may be known, and whoever needs it is told.
///
/// # Errors
/// Naming the file.
pub fn check(parts: &Parts) -> Outcome {
    let weights = |folder: &Path| {
        let mut files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files.any(|file| Checkpoint::is_name(&file.path()))
    };
    let needed = |(part, folder): &(Part, &Path)| *part != Part::TextEncoder || weights(folder);
    for (_, folder) in parts.weights().into_iter().filter(needed) {
        Checkpoint::open(folder).map_err(Failure::input)?;
    }
    Ok(())
}

/// Opens the model on the adapter asked for.
///
/// # Errors
/// No adapter, or parts that do not fit each other.
pub async fn open(parts: &Parts, device: &args::Device) -> Outcome<OpenSora> {
    let gpu = Gpu::open(&device.prefs()).await?;
    Ok(OpenSora::from_parts(&gpu, parts.clone())?)
}

/// The files of the weights and of the tokenizer with what tells them from others, for a recipe.
pub fn fingerprint(parts: &Parts) -> Outcome<Value> {
    let mut files = Map::new();
    for (part, folder) in parts.weights().into_iter().chain([(Part::Tokenizer, parts.tokenizer.as_path())]) {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // what is read, and none of its twins in another form
        let read = match part {
            Part::Tokenizer => Tokenizer::FILES.into_iter().find(|n| names.contains(n)).into_iter().collect(),
            _ => Checkpoint::files_of(&names),
        };
        for name in read.into_iter().filter(|n| part == Part::Tokenizer || Checkpoint::is_name(Path::new(n))) {
            let path = folder.join(name);
            let bytes = path.metadata().map_err(|e| Error::io(&path, e))?.len();
            let told = match bytes {
                0..=HASHED => json!({"bytes": bytes, "sha256": sha256(&path)?}),
                _ => json!({"bytes": bytes, "sha256_of_ends": sha256_of_ends(&path)?}),
            };
            files.insert(format!("{part}/{name}"), told);
        }
    }
    Ok(Value::Object(files))
}

/// The adapter as recipes and events name it.
pub fn adapter(gpu: &Gpu) -> Value {
    json!(gpu.facts())
}
