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

use residua::pipeline::parts::{HubId, by_name};

use super::args::Pull;
use super::exit::Outcome;
use super::screen::Screen;

/// Runs the verb.
///
/// # Errors
/// A name that is none; whatever keeps a file from being downloaded. What was downloaded of it stays and is gone on from.
pub fn run(args: &Pull, screen: &Screen) -> Outcome {
    let ids = repositories(&args.model)?;
    work::run(args, ids, screen)
}

/// The repositories of a model: the first that each part is published in, or the one that is named.
fn repositories(name: &str) -> Outcome<Vec<HubId>> {
    let Some(known) = by_name(name) else { return Ok(vec![name.strip_prefix("hub:").unwrap_or(name).parse()?]) };
    let mut ids = known.parts.iter().map(|(_, sources)| sources[0].parse()).collect::<Result<Vec<HubId>, _>>()?;
    ids.dedup();
    Ok(ids)
}
