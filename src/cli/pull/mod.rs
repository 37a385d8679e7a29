//! `residua pull`: the files of a model, from a hub into its cache on this machine.

#[cfg(feature = "download")]
mod choose;
#[cfg(feature = "download")]
mod client;
#[cfg(feature = "download")]
mod store;
#[cfg(feature = "download")]
mod work;
#[cfg(not(feature = "download"))]
#[path = "without.rs"]
mod work;

use residua::pipeline::parts::{HubId, Place, by_name};
use serde_json::json;

use super::args::Pull;
use super::exit::Outcome;
use super::model;
use super::screen::Screen;

/// Runs the verb.
///
/// # Errors
/// A name that is none; whatever keeps a file from being downloaded. What was downloaded of it stays and is gone on from.
pub fn run(args: &Pull, screen: &Screen) -> Outcome {
    let ids = repositories(&args.model)?;
    if ids.is_empty() {
        screen.say(format!("{}: all of it is there, in folders of its own", args.model));
        screen.event("done", json!({"bytes": 0, "seconds": 0.0}));
        return Ok(());
    }
    work::run(args, ids, screen)
}

/// The repositories of a model: the one that is named, or those that the parts of a known one are in or come from. What
/// lies in a plain folder needs none.
fn repositories(name: &str) -> Outcome<Vec<HubId>> {
    let Some(known) = by_name(name) else { return Ok(vec![name.strip_prefix("hub:").unwrap_or(name).parse()?]) };
    let search = model::search();
    let elsewhere = |place: &Place| place.folder.as_ref().is_ok_and(|folder| !folder.starts_with(&search.hub.root));
    let places = search.known(known)?.places.into_iter().filter(|place| !elsewhere(place));
    let mut ids: Vec<HubId> = places.filter_map(|place| place.hub).collect();
    ids.dedup();
    Ok(ids)
}
