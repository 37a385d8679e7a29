//! The recipe of a file: how it was made, kept inside it as JSON.

use std::fs::File;
use std::io::{Error as IoError, ErrorKind, Read, Seek};
use std::path::Path;

use serde_json::Value;

use super::{gif, mp4_read, png};
use crate::error::{Error, Result};

/// The name recipes are kept under: key of an MP4's `udta/meta`, keyword of a PNG's `tEXt`, start of a GIF's comment.
pub const RECIPE_KEY: &str = "com.residua.recipe";

/// The recipe kept in an MP4, PNG, APNG or GIF file, or in a folder of PNGs; `None` if there is none, or if the format
/// has no place for it. The contents decide what a file is, not its name.
///
/// # Errors
/// If the file cannot be read, is damaged before the recipe is reached, or the recipe is not JSON.
pub fn read_recipe(path: &Path) -> Result<Option<Value>> {
    let first = path.join(png::frame_name(0));
    let path = if path.is_dir() { first.as_path() } else { path };
    let text = text(path).map_err(|e| Error::io(path, e))?;
    let parse = |text: String| serde_json::from_str(&text);
    text.map(parse)
        .transpose()
        .map_err(|e| Error::io(path, IoError::new(ErrorKind::InvalidData, format!("its recipe is not JSON: {e}"))))
}

fn text(path: &Path) -> std::io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let mut magic = Vec::new();
    (&file).take(12).read_to_end(&mut magic)?;
    file.rewind()?;
    match magic.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => png::text(file),
        [b'G', b'I', b'F', b'8', ..] => gif::comment(std::io::BufReader::new(file)),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => mp4_read::text(&mut file),
        _ => Ok(None),
    }
}

/// JSON in ASCII alone: PNG's `tEXt` is Latin-1 and GIF's comments are 7 bits.
pub(super) fn ascii(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            // only strings can hold such a character, and there the escape means the same
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_means_the_same() {
        let value = serde_json::json!({"prompt": "a snail 蝸牛 🐌 \"quoted\"", "ключ": [1, 2.5, null]});
        let text = ascii(&value);
        assert!(text.is_ascii());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
