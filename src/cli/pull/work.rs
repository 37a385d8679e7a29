//! The order of things: what there is, whether it is wanted, getting it.

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal};
use std::time::Instant;

use residua::pipeline::parts::HubId;
use serde_json::{Value, json};

use super::choose;
use super::client::{Client, Remote};
use super::store::Store;
use crate::cli::args::Pull;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::model;
use crate::cli::screen::{Screen, above, round, size};

/// A repository, and what of it is needed.
struct Wanted {
    id: HubId,
    store: Store,
    licence: Option<String>,
    files: Vec<Remote>,
}

/// Downloads repositories, and those that they turn out to refer to.
///
/// # Errors
/// As the verb.
pub fn run(args: &Pull, mut ids: Vec<HubId>, screen: &Screen) -> Outcome {
    let client = Client::from_env()?;
    let mut done = BTreeSet::new();
    while !ids.is_empty() {
        pull(args, &client, &ids, screen)?;
        done.extend(ids.iter().map(|id| id.to_string()));
        // a model may be described by names of other repositories
        let located = model::search().find(args.model.as_ref());
        let missing = located.iter().flat_map(|model| model.missing()).filter_map(|(place, _)| place.hub.clone());
        ids = missing.filter(|id| !done.contains(&id.to_string())).collect();
        ids.sort();
        ids.dedup();
    }
    Ok(())
}

fn pull(args: &Pull, client: &Client, ids: &[HubId], screen: &Screen) -> Outcome {
    let began = Instant::now();
    let cache = model::search().hub;
    let repositories = ids.iter().map(|id| ask(client, id)).collect::<Outcome<Vec<_>>>()?;
    let repositories: Vec<Wanted> = repositories
        .into_iter()
        .map(|(id, commit, licence, files)| Wanted { store: Store::new(&cache, &id, &commit), id, licence, files })
        .collect();
    let missing: Vec<&Remote> = repositories.iter().flat_map(Wanted::missing).collect();
    let bytes = missing.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes));
    repositories.iter().for_each(|r| r.tell(screen));
    let root = cache.root.display().to_string();
    screen.say(format!("{} to download into {root}", size(bytes)));
    let told: Vec<Value> = repositories.iter().map(Wanted::json).collect();
    screen.event("pull", json!({"repositories": told, "bytes": bytes, "cache": root}));
    if !missing.is_empty() && !args.yes {
        agreed()?;
    }
    let bar = screen.bar("pull", mib(bytes));
    let mut before = 0;
    for wanted in &repositories {
        for file in &wanted.files {
            let there = wanted.store.has(file);
            let mut seen = |count: u64| {
                let done = if there { before } else { before + count };
                bar.runs(mib(done), &format!("MiB  {}", file.name));
            };
            wanted.store.fetch(client, &wanted.id, file, &mut seen)?;
            if !there {
                before += file.bytes;
                screen.event("file", json!({"repository": wanted.id.repo, "name": file.name, "bytes": file.bytes}));
            }
        }
        wanted.store.name(wanted.id.revision())?;
    }
    drop(bar);
    let seconds = round(began.elapsed().as_secs_f64());
    screen.say(format!("pulled  {}  {} in {seconds:.1} s", args.model, size(bytes)));
    screen.event("done", json!({"bytes": bytes, "seconds": seconds}));
    Ok(())
}

type Asked = (HubId, String, Option<String>, Vec<Remote>);

/// What a repository has that is needed.
fn ask(client: &Client, id: &HubId) -> Outcome<Asked> {
    let listing = client.list(id)?;
    let names = choose::wanted(&listing.names, id);
    if names.is_empty() {
        return Err(Failure::download(id, "holds nothing that Residua reads"));
    }
    let files = names.iter().map(|name| client.head(id, &listing.commit, name)).collect::<Outcome<Vec<_>>>()?;
    Ok((id.clone(), listing.commit, listing.licence, files))
}

impl Wanted {
    fn missing(&self) -> impl Iterator<Item = &Remote> {
        self.files.iter().filter(|file| !self.store.has(file))
    }

    fn tell(&self, screen: &Screen) {
        let licence = self.licence.as_deref().unwrap_or("licence not stated");
        screen.say(format!("{}  {licence}  at {}", self.id, &self.store.commit[..12]));
        for file in &self.files {
            let there = if self.store.has(file) { "  (there)" } else { "" };
            screen.say(format!("  {:>10}  {}{there}", size(file.bytes), file.name));
        }
    }

    fn json(&self) -> Value {
        let files = self.files.iter();
        let files = files.map(|f| json!({"name": f.name, "bytes": f.bytes, "there": self.store.has(f)}));
        json!({
            "repository": self.id.repo, "revision": self.id.revision(), "commit": self.store.commit,
            "licence": self.licence, "files": files.collect::<Vec<_>>(),
        })
    }
}

/// Asks on a terminal.
fn agreed() -> Outcome {
    let mut input = std::io::stdin().lock();
    if !std::io::stdin().is_terminal() {
        return Err(Failure::wrong("yes", "nothing is downloaded unasked, and nobody is here to ask; give --yes"));
    }
    above("download? [y/N]");
    let mut answer = String::new();
    match input.read_line(&mut answer) {
        Ok(_) if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) => Ok(()),
        _ => Err(residua::Error::Cancelled.into()),
    }
}

fn mib(bytes: u64) -> usize {
    bytes.div_ceil(1 << 20) as usize
}
