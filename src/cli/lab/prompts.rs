//! Lists of prompts.

use std::path::Path;

use residua::Error;
use serde::Deserialize;

use crate::cli::exit::{Failure, Outcome};
use crate::cli::prompts as lists;

/// One of a list.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    pub prompt: String,
    /// What kind of content it asks for.
    pub group: Option<String>,
    /// Of its start noise, if the list says.
    pub seed: Option<u64>,
}

/// Reads a list: a prompt a line, empty lines and those that begin with `#` left out; or `.jsonl`.
///
/// # Errors
/// A file that is not there or not what it should be, naming the line; an empty list.
pub fn read(path: &Path) -> Outcome<Vec<Prompt>> {
    let wrong = |problem: String| Failure::input(Error::checkpoint(path, problem));
    let text = lists::text(path)?;
    let json = path.extension().is_some_and(|e| e == "jsonl");
    let prompts = lists::lines(&text)
        .map(|(number, line)| match json {
            true => serde_json::from_str(line).map_err(|e| {
                wrong(format!("line {number} is no {{\"prompt\": …}} with perhaps `group` and `seed`: {e}"))
            }),
            false => Ok(Prompt { prompt: line.into(), group: None, seed: None }),
        })
        .collect::<Outcome<Vec<Prompt>>>()?;
    if prompts.is_empty() {
        return Err(lists::empty(path));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Outcome<Vec<Prompt>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn both_kinds() {
        let plain = of("a.txt", "# a list\n\na red circle \n{\"a\": 1}\n").unwrap();
        assert_eq!(plain.iter().map(|p| p.prompt.as_str()).collect::<Vec<_>>(), ["a red circle", "{\"a\": 1}"]);
        let lines =
            of("a.jsonl", "{\"prompt\": \"a\", \"group\": \"still\"}\n{\"prompt\": \"b\", \"seed\": 7}\n").unwrap();
        assert_eq!((lines[0].group.as_deref(), lines[1].seed), (Some("still"), Some(7)));
        for (name, text) in [("a.txt", "# nothing\n"), ("a.jsonl", "a red circle"), ("b.jsonl", "{\"promt\": \"a\"}")] {
            assert_eq!(of(name, text).unwrap_err().exit, 3);
        }
    }
}
