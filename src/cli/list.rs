//! `residua list`: the models that are found by name, whole or not.

use residua::pipeline::parts::{KNOWN, Located, Search};
use serde_json::{Value, json};

use super::args::List;
use super::exit::Outcome;
use super::info::weight_bytes;
use super::model;
use super::screen::{Screen, size};

/// Runs the verb.
///
/// # Errors
/// None so far: what cannot be opened as a model is not listed.
pub fn run(_: &List, screen: &Screen) -> Outcome {
    let found = models(&model::search(), screen);
    if screen.json {
        screen.data(json!({"models": found.iter().map(row).collect::<Vec<_>>()}));
        return Ok(());
    }
    let wide = found.iter().map(|m| m.name.chars().count()).max().unwrap_or(0);
    for model in &found {
        let missing: Vec<&str> = model.missing().map(|(place, _)| place.part.name()).collect();
        let missing = if missing.is_empty() { String::new() } else { format!("  lacks {}", missing.join(", ")) };
        let licence = model.licence.as_ref().map_or_else(String::new, |licence| format!("  {licence}"));
        screen.data(format!("{:wide$}  {:>9}{licence}{missing}", model.name, size(bytes(model))));
    }
    Ok(())
}

/// Folders on shelves, models known by name, repositories of the hub's cache that are whole models of ours; of a name the
/// first, as everywhere.
fn models(search: &Search, screen: &Screen) -> Vec<Located> {
    let mut found: Vec<Located> = Vec::new();
    let mut add = |model: Located| {
        if !found.iter().any(|m| m.name == model.name) {
            found.push(model);
        }
    };
    for shelf in &search.shelves {
        let entries = std::fs::read_dir(shelf).into_iter().flatten().flatten();
        let mut folders: Vec<_> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
        folders.sort();
        folders.iter().filter_map(|folder| search.open(folder).ok()).for_each(&mut add);
    }
    for known in &KNOWN {
        match search.known(known) {
            Ok(model) => add(model),
            Err(damaged) => screen.say(format!("note: {} is not listed: {damaged}", known.name)),
        }
    }
    // (other programs' models lie there too)
    let repos = search.hub.repos().into_iter().filter_map(|id| search.find(id.to_string().as_ref()).ok());
    repos.filter(Located::is_ours).for_each(&mut add);
    found
}

fn bytes(model: &Located) -> u64 {
    let parts = model.places.iter().filter(|p| p.part.has_weights());
    parts.filter_map(|p| p.folder.as_ref().ok()).map(|folder| weight_bytes(folder)).sum()
}

fn row(model: &Located) -> Value {
    let missing: Vec<&str> = model.missing().map(|(place, _)| place.part.name()).collect();
    json!({
        "name": model.name, "bytes": bytes(model), "licence": model.licence, "missing": missing,
        "folder": model.root.as_ref().map(|root| root.display().to_string()),
    })
}
