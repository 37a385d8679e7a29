//! `residua info`: what a file is, on standard output.

use std::collections::BTreeMap;
use std::path::Path;

use residua::Error;
use residua::media::{Format, read_recipe};
use residua::models::stdit3;
use residua::pipeline::State;
use residua::pipeline::parts::{Located, Part};
use residua::tensor::Checkpoint;
use residua::text::tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::args::Info;
use super::exit::{Failure, Outcome};
use super::screen::{Screen, size};
use super::{latents, model, recipe};

/// Tensors named of a file that is none of ours.
const NAMED: usize = 20;

/// Runs the verb.
///
/// # Errors
/// If the file is not there, damaged, or nothing known.
pub fn run(args: &Info, screen: &Screen) -> Outcome {
    let path = args.path.as_path();
    if args.rerun {
        let recipe = recipe_of(path)?;
        screen.data(recipe::command(&recipe)?);
        if recipe.get("latents_in").is_some_and(|v| !v.is_null()) {
            screen.say("note: the run started from a latents file; put its name in place of LATENTS");
        }
        return Ok(());
    }
    let there = path.symlink_metadata().is_ok();
    let (value, lines) = if !there && !names_a_file(path) || path.is_dir() && !path.join("0000.png").is_file() {
        // (a path that is none of a model may still be the name of one)
        located(&model::search().find(path).map_err(Failure::input)?)?
    } else if Checkpoint::is_name(path) {
        weights(path)?
    } else {
        let recipe = recipe_of(path)?;
        (json!({"kind": "recipe", "recipe": recipe}), format!("{recipe:#}"))
    };
    if screen.json {
        screen.data(value)
    } else {
        screen.data(lines)
    }
    Ok(())
}

/// Whether a path ends as a file that is looked into here, which no model is called.
fn names_a_file(path: &Path) -> bool {
    let Some(ending) = path.extension() else { return false };
    ending == "json" || Checkpoint::is_name(path) || Format::from_path(path).is_ok()
}

fn wrong(path: &Path, problem: impl Into<String>) -> Failure {
    Failure::input(Error::checkpoint(path, problem))
}

/// The recipe inside a video, a picture, a latents file, a state, or a sidecar.
fn recipe_of(path: &Path) -> Outcome<Value> {
    let found = match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => latents::recipe(path).or_else(|| Some(state(path)?.0["recipe"].take())),
        Some("json") => {
            let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
            Some(serde_json::from_str(&text).map_err(|e| wrong(path, format!("is not JSON: {e}")))?)
        }
        _ if path.is_dir() && !path.join("0000.png").is_file() => {
            return Err(wrong(path, "is neither a file with a recipe nor a folder of frames"));
        }
        _ if path.symlink_metadata().is_err() => return Err(wrong(path, "there is no such file or folder")),
        _ => read_recipe(path).map_err(Failure::input)?,
    };
    found.filter(Value::is_object).ok_or_else(|| wrong(path, "holds no recipe"))
}

/// What there is in a checkpoint.
struct Counted {
    tensors: usize,
    parameters: usize,
    /// Parameters by the type they are stored in.
    types: BTreeMap<String, usize>,
}

impl Counted {
    /// (the scales of weights in eight bits are no parameters)
    fn of(file: &Checkpoint) -> Self {
        let mut counted = Self { tensors: 0, parameters: 0, types: BTreeMap::new() };
        for entry in file.names().filter(|n| !file.is_scale(n)).filter_map(|n| file.entry(n)) {
            let parameters = entry.shape.iter().product::<usize>();
            counted.tensors += 1;
            counted.parameters += parameters;
            *counted.types.entry(entry.type_name()).or_default() += parameters;
        }
        counted
    }

    /// The types, the most common first.
    fn types(&self) -> String {
        let mut types: Vec<_> = self.types.iter().collect();
        types.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        types.into_iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// A state: how far its run has come, and its recipe.
fn state(path: &Path) -> Option<(Value, String)> {
    let whole = latents::metadata(path, State::KEY)?;
    let at = |pointer: &str| whole.pointer(pointer).cloned().unwrap_or_default();
    let (steps, device, recipe) =
        (at("/head/steps").as_array().map_or(0, Vec::len), at("/head/device"), at("/note/recipe"));
    let name = device["name"].as_str().unwrap_or("an adapter without a name");
    let lines = format!("state behind {steps} steps, saved on {name}\n{recipe:#}");
    Some((json!({"kind": "state", "steps": steps, "device": device, "recipe": recipe}), lines))
}

fn weights(path: &Path) -> Outcome<(Value, String)> {
    if let Some(found) = state(path) {
        return Ok(found);
    }
    let file = Checkpoint::open(path).map_err(Failure::input)?;
    if file.entry(latents::TENSOR).is_some() {
        let found = latents::read(path)?;
        let lines = match &found.recipe {
            Some(recipe) => format!("latents {:?}\n{recipe:#}", found.shape),
            None => format!("latents {:?}, without recipe", found.shape),
        };
        return Ok((json!({"kind": "latents", "shape": found.shape, "recipe": found.recipe}), lines));
    }
    let counted = Counted::of(&file);
    let Counted { tensors, parameters, types } = &counted;
    let mut lines = vec![format!("weights: {tensors} tensors, {parameters} parameters, {}", counted.types())];
    for name in file.names().filter(|n| !file.is_scale(n)).take(NAMED) {
        let Some(entry) = file.entry(name) else { continue };
        lines.push(format!("  {name} {:?} {}", entry.shape, entry.type_name()));
    }
    if *tensors > NAMED {
        lines.push(format!("  and {} more", tensors - NAMED));
    }
    let value = json!({"kind": "weights", "tensors": tensors, "parameters": parameters, "types": types});
    Ok((value, lines.join("\n")))
}

/// A model: its parts, where they were found, how large they are; and what is missing.
fn located(found: &Located) -> Outcome<(Value, String)> {
    let transformer = found.folder(Part::Transformer).map(stdit3::Config::read).transpose()?;
    let (name, d) = (&found.name, &found.defaults);
    let network = transformer.as_ref().map_or_else(
        || "incomplete".into(),
        |c| format!("STDiT3, {} wide, {} deep, {} heads", c.hidden_size, c.depth, c.num_heads),
    );
    let mut lines = vec![format!("{name:13} {network}")];
    lines.extend(found.licence.as_ref().map(|licence| format!("licence       {licence}")));
    let mut parts = serde_json::Map::new();
    for place in &found.places {
        let hub = place.hub.as_ref().map(ToString::to_string);
        let part = place.part.name();
        let (line, value) = match &place.folder {
            Err(looked) => (format!("missing: {}", looked.join("; ")), json!({"missing": looked, "hub": hub})),
            Ok(folder) => {
                let (what, mut value) = held(place.part, folder)?;
                value["folder"] = folder.display().to_string().into();
                value["hub"] = hub.clone().into();
                let hub = hub.map_or_else(String::new, |hub| format!(" ({hub})"));
                (format!("{what} in {}{hub}", folder.display()), value)
            }
        };
        lines.push(format!("{part:13} {line}"));
        parts.insert(part.into(), value);
    }
    lines.push(format!(
        "defaults      {}x{} x {} frames, {} fps, {} steps, cfg {}",
        d.width, d.height, d.frames, d.fps, d.steps, d.guidance
    ));
    let value = json!({
        "kind": "model", "name": name, "licence": found.licence, "parts": parts,
        "transformer": transformer.map(|c| {
            json!({"hidden_size": c.hidden_size, "depth": c.depth, "num_heads": c.num_heads})
        }),
        "defaults": {
            "width": d.width, "height": d.height, "frames": d.frames, "fps": d.fps, "steps": d.steps, "cfg": d.guidance
        },
    });
    Ok((value, lines.join("\n")))
}

/// What a part's folder holds.
fn held(part: Part, folder: &Path) -> Outcome<(String, Value)> {
    if part.has_weights() {
        let counted = Counted::of(&Checkpoint::open(folder).map_err(Failure::input)?);
        let bytes = weight_bytes(folder);
        let Counted { tensors, parameters, types } = &counted;
        let what = format!("{tensors} tensors, {parameters} parameters, {}, {}", size(bytes), counted.types());
        return Ok((what, json!({"tensors": tensors, "parameters": parameters, "bytes": bytes, "types": types})));
    }
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if part == Part::Tokenizer {
        names.retain(|n| Tokenizer::FILES.contains(&n.as_str()));
        names.truncate(1);
    }
    Ok((names.join(", "), json!({"files": names})))
}

/// Bytes of the weights that are read of a folder.
pub fn weight_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let read = Checkpoint::files_of(&names);
    read.iter().filter_map(|n| folder.join(n).metadata().ok()).map(|m| m.len()).sum()
}
