//! Prompts from the command line, from a file, from standard input.

use std::io::Read;
use std::path::Path;

use residua::Error;

use super::args::Input;
use super::exit::{Failure, Outcome};

/// What is read of a prompt on standard input; the pipeline takes far less.
const MOST_INPUT: u64 = 1 << 20;
/// What is read of a file of prompts.
const MOST_FILE: u64 = 64 << 20;

/// All prompts asked for: those of `-p` in their order, then those of the file.
///
/// # Errors
/// If one is no text, or the file cannot be read.
pub fn read(input: &Input) -> Outcome<Vec<String>> {
    if input.prompt.iter().filter(|p| *p == "-").count() > 1 {
        return Err(Failure::wrong("prompt", "`-` is there twice, but standard input can be read once"));
    }
    let mut prompts = Vec::new();
    for prompt in &input.prompt {
        prompts.push(if prompt == "-" {
            standard_input()?
        } else {
            prompt.to_str().ok_or_else(|| Failure::wrong("prompt", "is not valid UTF-8"))?.to_string()
        });
    }
    if let Some(path) = &input.prompts {
        prompts.extend(file(path)?);
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

/// A prompt a line; empty lines and those that begin with `#` are none.
fn file(path: &Path) -> Outcome<Vec<String>> {
    let text = text(path)?;
    let prompts: Vec<String> = lines(&text).map(|(_, line)| line.to_string()).collect();
    if prompts.is_empty() {
        return Err(empty(path));
    }
    Ok(prompts)
}

/// The lines of a list that count, with their numbers.
pub fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// What a list without prompts is.
pub fn empty(path: &Path) -> Failure {
    invalid(path, "holds no prompt; it has one a line".into())
}

fn invalid(path: &Path, problem: String) -> Failure {
    Failure::input(Error::io(path, std::io::Error::new(std::io::ErrorKind::InvalidData, problem)))
}

/// What is in a list, without the mark that some editors put first.
///
/// # Errors
/// If it cannot be read, is too long or no text.
pub fn text(path: &Path) -> Outcome<String> {
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
