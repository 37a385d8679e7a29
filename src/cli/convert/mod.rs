//! `residua convert`: weights written anew, of a file, a part, or a whole model.
//!
//! Everything is made in a hidden folder beside the output, which gets its name when all is done: nobody ever sees a
//! part of it. A folder carries what was done to it in [`REPORT`].

pub mod args;
mod places;

use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

use residua::Error;
use residua::models::t5;
use residua::tensor::{Checkpoint, Conversion, Converted, ConvertedTensor, Stored, fingerprint};
use serde_json::{Map, Value, json};

use super::exit::{Failure, Outcome};
use super::screen::{Bar, Screen, round, size};
use super::signals::Stop;
use super::{model, output};
use args::Convert;
use places::{Found, Target};

/// What was done, in a folder that was made.
const REPORT: &str = "conversion.json";
/// Files are called this, as those of the hubs are.
const STEM: &str = "model";
/// A bar counts these.
const MIB: u64 = 1 << 20;

/// Runs the verb.
///
/// # Errors
/// Whatever goes wrong; nothing is left half-written.
pub fn run(args: &Convert, screen: &Screen) -> Outcome {
    let stop = Stop::listen();
    work(args, screen, &stop).map_err(|failure| stop.explain(failure))
}

fn work(args: &Convert, screen: &Screen, stop: &Stop) -> Outcome {
    let began = Instant::now();
    let (from, found) = match args.from.exists() {
        true => (args.from.clone(), Found::look(&args.from)?),
        false => Found::of(&model::find(Some(&args.from))?)?,
    };
    if let Some((unknown, _)) = args.parts.iter().find(|(name, _)| !found.parts.contains(name)) {
        let known = found.parts.iter().filter(|p| !p.is_empty()).map(String::as_str).collect::<Vec<_>>().join(", ");
        let held = if known.is_empty() { "is one part; use --dtype".into() } else { format!("has {known}") };
        let problem = format!("there is no part `{unknown}` with weights: `{}` {held}", from.display());
        return Err(Failure::wrong("part", problem));
    }
    let to = |part: &str| args.parts.iter().rev().find(|(name, _)| name == part).map(|(_, to)| *to).or(args.dtype);
    let target = Target::choose(&args.output, &found, args.force)?;
    let told = |to: Option<Stored>| to.map(|to| to.to_string());
    let plan: Vec<Value> = found.parts.iter().map(|part| json!({"part": part, "dtype": told(to(part))})).collect();
    let (source, goal) = (from.display().to_string(), args.output.display().to_string());
    screen.event("plan", json!({"from": source, "output": goal, "parts": plan}));

    let making = target.begin()?;
    let mut done = Vec::with_capacity(found.parts.len());
    for part in &found.parts {
        let (into, stem, shard) = match &target.stem {
            Some(stem) => (making.path().to_path_buf(), stem.as_str(), None),
            None => (making.path().join(part), STEM, Some(args.shard_size)),
        };
        std::fs::create_dir_all(&into).map_err(|e| Failure::output(Error::io(&into, e)))?;
        let converted = convert(found.at(part), part, to(part), (&into, stem, shard), screen, stop)?;
        tell(part, to(part), &converted, screen);
        done.push((part.as_str(), to(part), converted));
    }
    if target.stem.is_none() {
        let changed = done.iter().any(|(part, to, _)| *part == "transformer" && to.is_some());
        found.copy_rest(making.path(), changed, screen)?;
        output::write_json(&making.path().join(REPORT), &report(&from, &found, &done)?, false)?;
    }
    stop.check()?;
    target.finish(making)?;

    let sum = |of: fn(&Converted) -> u64| done.iter().map(|(_, _, c)| of(c)).sum::<u64>();
    let (before, after) = (sum(Converted::before), sum(Converted::after));
    let worst = done.iter().filter_map(|(part, _, c)| Some((*part, c.worst()?)));
    let worst = worst.max_by(|a, b| a.1.error.total_cmp(&b.1.error));
    let seconds = began.elapsed().as_secs_f64();
    let off = worst.map_or(String::new(), |(part, t)| format!(", {}", off(part, t)));
    screen.say(format!("wrote   {goal}  {} from {}{off}  total {seconds:.1} s", size(after), size(before)));
    let worst = worst.map(|(part, t)| json!({"part": part, "tensor": t.name, "error": t.error}));
    let fields = json!({"bytes_before": before, "bytes_after": after, "worst": worst, "seconds": round(seconds)});
    screen.event("output", json!({"path": goal}));
    screen.event("done", fields);
    if !screen.json {
        screen.data(goal);
    }
    Ok(())
}

/// Converts one part, with a bar.
fn convert(
    from: &Path,
    part: &str,
    to: Option<Stored>,
    (into, stem, shard): (&Path, &str, Option<u64>),
    screen: &Screen,
    stop: &Stop,
) -> Outcome<Converted> {
    let checkpoint = Checkpoint::open(from).map_err(Failure::input)?;
    let bar: RefCell<Option<Bar<'_>>> = RefCell::new(None);
    let mut seen = |done: u64, all: u64| {
        let mut bar = bar.borrow_mut();
        let bar = bar.get_or_insert_with(|| screen.bar("convert", all.div_ceil(MIB) as usize));
        bar.runs((done / MIB) as usize, &format!("MiB  {part}"));
        !stop.asked()
    };
    let how = Conversion { to, table: &t5::EMBEDDING, shard };
    checkpoint.convert(into, stem, &how, &mut seen).map_err(|e| match e {
        Error::Io { .. } => Failure::output(e),
        other => other.into(),
    })
}

/// What became of a part.
fn tell(part: &str, to: Option<Stored>, converted: &Converted, screen: &Screen) {
    for t in &converted.tensors {
        let why = t.note.as_ref().map_or(String::new(), |note| format!(": it {note}"));
        if t.note.is_some() {
            log::warn!("`{}` is kept as {}{why}", t.name, t.to);
        }
        log::info!("{} {:?}: {} to {}, off by {:.2e}", t.name, t.shape, t.from, t.to, t.error);
        let mut fields = json!({"name": t.name, "shape": t.shape, "from": t.from, "to": t.to, "error": t.error});
        fields["bytes_before"] = t.before.into();
        fields["bytes_after"] = t.after.into();
        if !part.is_empty() {
            fields["part"] = part.into();
        }
        if let Some(note) = &t.note {
            fields["note"] = note.as_str().into();
        }
        screen.event("tensor", fields);
    }
    if part.is_empty() {
        return; // the last line says it
    }
    let to = to.map_or("as it was".into(), |to| to.to_string());
    let (before, after) = (size(converted.before()), size(converted.after()));
    let worst = converted.worst().map_or(String::new(), |t| format!(", {}", off("", t)));
    screen.say(format!("{part:13} {to}, {after} from {before}{worst}"));
}

fn off(part: &str, t: &ConvertedTensor) -> String {
    let at = if part.is_empty() { String::new() } else { format!("{part}: ") };
    format!("at most {:.2} % off ({at}{})", 100.0 * t.error, t.name)
}

/// What was done, for whoever finds the folder.
fn report(from: &Path, found: &Found, done: &[(&str, Option<Stored>, Converted)]) -> Outcome<Value> {
    let mut parts = Map::new();
    for (part, to, converted) in done {
        let tensors = converted.tensors.iter().map(|t| {
            let mut told = json!({"from": t.from, "to": t.to, "error": t.error});
            if let Some(note) = &t.note {
                told["note"] = note.as_str().into();
            }
            (t.name.clone(), told)
        });
        let source = found.at(part);
        let weights = if source.is_dir() { Some(fingerprint(source)?) } else { None };
        let told = json!({
            "dtype": to.map(|to| to.to_string()), "source_weights": weights,
            "bytes_before": converted.before(), "bytes_after": converted.after(),
            "tensors": tensors.collect::<Map<_, _>>(),
        });
        parts.insert(if part.is_empty() { ".".into() } else { (*part).into() }, told);
    }
    let whole = from.canonicalize().unwrap_or_else(|_| from.to_path_buf());
    let name = whole.file_name().map(|name| name.to_string_lossy());
    Ok(json!({"v": 1, "program": concat!("residua ", env!("CARGO_PKG_VERSION")), "from": name, "parts": parts}))
}
