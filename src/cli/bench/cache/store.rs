//! The folder of a comparison: runs are added as they end, and found again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use residua::Error;
use residua::cache::CacheSpec;

use super::record::{Head, Record};
use crate::cli::exit::{Failure, Outcome};
use crate::cli::lab::Job;

/// A line for the head, then one for each run.
const RUNS: &str = "runs.jsonl";

/// An open folder.
pub struct Store {
    path: PathBuf,
    file: File,
    records: Vec<Record>,
}

impl Store {
    /// Opens or makes the folder. A last line that is not whole, as an interrupted run leaves it, is taken away.
    ///
    /// # Errors
    /// A folder that cannot be written to, or holds runs of something else.
    pub fn open(folder: &Path, head: &Head, force: bool) -> Outcome<Self> {
        let path = folder.join(RUNS);
        let failed = |e| Failure::output(Error::io(&path, e));
        std::fs::create_dir_all(folder).map_err(|e| Failure::output(Error::io(folder, e)))?;
        let text = match path.is_file() && !force {
            true => std::fs::read_to_string(&path).map_err(failed)?,
            false => String::new(),
        };
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let mut lines = whole.lines();
        let wrong = |problem: String| {
            Failure::input(Error::checkpoint(&path, problem))
                .hint("name another folder with --out, or --force starts afresh")
        };
        if let Some(first) = lines.next() {
            let there: Head = serde_json::from_str(first)
                .map_err(|e| wrong(format!("does not begin with the head of a comparison: {e}")))?;
            if let Some((field, there, now)) = difference(&there, head) {
                return Err(wrong(format!("holds runs of another kind: `{field}` is {there} there and {now} now")));
            }
        }
        let read = |(i, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|e| wrong(format!("line {} is not a run: {e}", i + 2)))
        };
        let records = lines.enumerate().map(read).collect::<Outcome<Vec<Record>>>()?;
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        file.set_len(whole.len() as u64).map_err(failed)?;
        if whole.is_empty() {
            line(&mut file, head).map_err(failed)?;
        }
        Ok(Self { path, file, records })
    }

    /// All runs that are there.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    pub fn has(&self, key: (&str, u64, &str)) -> bool {
        self.records.iter().any(|r| r.key() == key)
    }

    /// Adds a run.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, record: Record) -> Outcome {
        line(&mut self.file, &record).map_err(|e| Failure::output(Error::io(&self.path, e)))?;
        self.records.push(record);
        Ok(())
    }

    /// The runs asked for, by policy, then job.
    pub fn of(&self, jobs: &[Job], policies: &[(String, CacheSpec)]) -> Vec<Record> {
        let keys = policies.iter().flat_map(|(name, _)| jobs.iter().map(move |job| (&*job.prompt, job.seed, &**name)));
        keys.filter_map(|key| self.records.iter().find(|r| r.key() == key).cloned()).collect()
    }
}

fn line(file: &mut File, value: &impl serde::Serialize) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    file.write_all(&bytes)?;
    file.flush()
}

/// The first field that differs, there and now. Which commit ran is told, and no reason to start afresh.
fn difference(there: &Head, now: &Head) -> Option<(String, String, String)> {
    let fields = |head: &Head| serde_json::to_value(Head { commit: None, ..head.clone() }).unwrap_or_default();
    let (there, now) = (fields(there), fields(now));
    let differs = |(key, value): (&String, &serde_json::Value)| {
        (now.get(key) != Some(value)).then(|| (key.clone(), value.to_string(), now[key].to_string()))
    };
    there.as_object()?.iter().find_map(differs)
}
