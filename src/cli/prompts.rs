//! Prompts from the command line, from a file, from standard input.

use std::io::Read;
use std::path::Path;

use residua::Error;
use serde::Deserialize;

use super::args::Input;
use super::exit::{Failure, Outcome};

/// What is read of a prompt on standard input; the pipeline takes far less.
const MOST_INPUT: u64 = 1 << 20;
/// What is read of a file of prompts.
const MOST_FILE: u64 = 64 << 20;

/// A prompt, and what a list says beside it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    pub prompt: String,
    /// What kind of content it asks for.
    pub group: Option<String>,
    /// Of its start noise, if the list says.
    pub seed: Option<u64>,
}

impl Prompt {
    fn plain(prompt: String) -> Self {
        Self { prompt, group: None, seed: None }
    }
}

/// All prompts asked for: those of `-p` in their order, then those of the file.
///
/// # Errors
/// If one is no text, or the file cannot be read.
pub fn read(input: &Input) -> Outcome<Vec<Prompt>> {
    if input.prompt.iter().filter(|p| *p == "-").count() > 1 {
        return Err(Failure::wrong("prompt", "`-` is there twice, but standard input can be read once"));
    }
    let mut prompts = Vec::new();
    for prompt in &input.prompt {
        prompts.push(Prompt::plain(if prompt == "-" {
            standard_input()?
        } else {
            prompt.to_str().ok_or_else(|| Failure::wrong("prompt", "is not valid UTF-8"))?.to_string()
        }));
    }
    if let Some(path) = &input.prompts {
        prompts.extend(list(path)?);
    }
    Ok(prompts)
}

fn standard_input() -> Outcome<String> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MOST_INPUT).read_to_end(&mut bytes);
    read.map_err(|e| Failure::wrong("prompt", format!("standard input cannot be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::wrong("prompt", format!("standard input is not valid UTF-8 (from byte {at} on)"))
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_string())
}

/// Reads a list: a prompt a line, empty lines and those that begin with `#` left out; or `.jsonl`.
///
/// # Errors
/// A file that is not there or not what it should be, naming the line; an empty list.
pub fn list(path: &Path) -> Outcome<Vec<Prompt>> {
    let text = text(path)?;
    let json = path.extension().is_some_and(|e| e == "jsonl");
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let prompts = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| match json {
            true => serde_json::from_str(line).map_err(|e| {
                let form = "{\"prompt\": …} with perhaps `group` and `seed`";
                Failure::input(Error::checkpoint(path, format!("line {number} is no {form}: {e}")))
            }),
            false => Ok(Prompt::plain(line.into())),
        })
        .collect::<Outcome<Vec<Prompt>>>()?;
    if prompts.is_empty() {
        return Err(invalid(path, "holds no prompt; it has one a line".into()));
    }
    Ok(prompts)
}

fn invalid(path: &Path, problem: String) -> Failure {
    Failure::input(Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidData, problem)))
}

/// What is in a list, without the mark that some editors put first.
fn text(path: &Path) -> Outcome<String> {
    let failed = |e: std::io::Error| Failure::input(Error::io(path, e));
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|f| f.take(MOST_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MOST_FILE {
        return Err(invalid(path, format!("is more than the {MOST_FILE} bytes that are read of prompts")));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
        invalid(path, format!("is not valid UTF-8 (line {line})"))
    })?;
    Ok(text.trim_start_matches('\u{feff}').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Outcome<Vec<Prompt>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        list(&path)
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
