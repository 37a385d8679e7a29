//! Text to token ids, as the T5 encoder of the reference pipelines reads them.
//!
//! Two forms of the same unigram model are read: `spiece.model`, which the checkpoints ship, and `tokenizer.json`, the
//! form `transformers` converts it to. They agree except on special tokens written out in the text, which only the
//! second knows, and on letters with several combining marks; cleaned prompts hold neither.

use std::path::{Path, PathBuf};

use sentencepiece_rust::{ModelType, PieceType, SentencePieceProcessor};
use serde_json::Value;

use crate::error::{Error, Result};

/// The end of every sequence.
const END: &str = "</s>";
/// Largest accepted `spiece.model`: T5's has 0.8 MB, and one in memory takes some fifty times its file.
const MAX_MODEL: usize = 16 << 20;
/// Largest accepted `tokenizer.json`: T5's has 2.4 MB.
const MAX_JSON: usize = 64 << 20;

/// A T5 tokenizer.
pub struct Tokenizer {
    model: Model,
    end: u32,
    vocab_size: usize,
    file: PathBuf,
}

enum Model {
    SentencePiece(Box<SentencePieceProcessor>),
    Json(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// The files of a folder that are read: the first that is there.
    pub const FILES: [&str; 2] = ["spiece.model", "tokenizer.json"];

    /// Opens the tokenizer of a checkpoint folder: `spiece.model`, or `tokenizer.json` where there is none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is neither or what there is is damaged, [`Error::Io`] if it cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        for name in Self::FILES {
            let file = folder.join(name);
            if file.exists() {
                return Self::from_file(&file);
            }
        }
        let problem = "no tokenizer here: neither `spiece.model` nor `tokenizer.json`; is this a T5 tokenizer folder?";
        Err(Error::checkpoint(folder, problem))
    }

    /// Opens one file: JSON if it is named `.json`, a SentencePiece model otherwise.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn from_file(file: &Path) -> Result<Self> {
        let json = file.extension().is_some_and(|e| e == "json");
        let limit = if json { MAX_JSON } else { MAX_MODEL };
        let size = std::fs::metadata(file).map_err(|e| Error::io(file, e))?.len();
        if size > limit as u64 {
            return Err(Error::checkpoint(
                file,
                format!("{size} bytes are too many for a tokenizer, {limit} the limit"),
            ));
        }
        let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
        let opened = if json { from_json(&bytes) } else { from_sentencepiece(&bytes) };
        let (model, end, vocab_size) = opened.map_err(|problem| Error::checkpoint(file, problem))?;
        Ok(Self { model, end, vocab_size, file: file.to_path_buf() })
    }

    /// Ids of `text`, ending in `</s>`: at most `max_length` of them, the text cut where needed. No padding; the empty
    /// text is one id, and `max_length` counts as at least 1.
    pub fn encode(&self, text: &str, max_length: usize) -> Vec<u32> {
        let mut ids = match &self.model {
            Model::SentencePiece(model) => {
                model.encode(text).map(|ids| ids.into_iter().map(|id| id as u32).collect()).map_err(|e| e.to_string())
            }
            Model::Json(model) => {
                model.encode_fast(text, false).map(|e| e.get_ids().to_vec()).map_err(|e| e.to_string())
            }
        }
        .unwrap_or_else(|e: String| {
            // what a model file can cause was refused when it was opened
            log::error!("{}: a text could not be tokenized, taken as empty: {e}", self.file.display());
            Vec::new()
        });
        ids.truncate(max_length.saturating_sub(1));
        ids.push(self.end);
        ids
    }

    /// One more than the largest id [`Tokenizer::encode`] can give. The embedding table of T5 has more rows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }
}

type Opened = std::result::Result<(Model, u32, usize), String>;

fn from_sentencepiece(bytes: &[u8]) -> Opened {
    // the crate checks every bound while it parses and while it encodes; what it does not check is refused here
    let model = SentencePieceProcessor::from_bytes(bytes).map_err(|e| format!("not a SentencePiece model: {e}"))?;
    if model.model_type() != ModelType::Unigram {
        return Err(format!("a {:?} model, T5 has a Unigram model", model.model_type()));
    }
    let vocab = model.vocab();
    if vocab.kind(vocab.unk_id) != Some(PieceType::Unknown) {
        return Err(format!("its unknown piece is number {}, which is no unknown piece; cut short?", vocab.unk_id));
    }
    let end = vocab.piece_to_id(END.as_bytes()).ok_or(format!("it has no piece `{END}`; cut short?"))?;
    let (end, size) = (end as u32, vocab.len());
    model.encode("a").map_err(|e| e.to_string())?;
    Ok((Model::SentencePiece(Box::new(model)), end, size))
}

fn from_json(bytes: &[u8]) -> Opened {
    let json: Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON: {e}"))?;
    check_charsmaps(&json)?;
    let mut model = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| format!("not a tokenizer: {e}"))?;
    model.with_padding(None);
    model.with_truncation(None).map_err(|e| e.to_string())?;
    let end = model.token_to_id(END).ok_or(format!("it has no token `{END}`"))?;
    let largest = model.get_vocab(true).into_values().max().unwrap_or(0).max(end);
    // a text of known letters, and one no vocabulary knows
    for text in ["a", "\u{10fffd}"] {
        model.encode_fast(text, false).map_err(|e| format!("it cannot tokenize: {e}"))?;
    }
    Ok((Model::Json(Box::new(model)), end, largest as usize + 1))
}

/// Checks every charsmap in `json`: the crate that reads them trusts their offsets and would panic later on.
fn check_charsmaps(json: &Value) -> std::result::Result<(), String> {
    match json {
        Value::Object(object) => object.iter().try_for_each(|(key, value)| match (key.as_str(), value) {
            ("precompiled_charsmap", Value::String(text)) => {
                let blob = base64(text).ok_or("its charsmap is not base64")?;
                charsmap_holds(&blob).then_some(()).ok_or("its charsmap is damaged: an offset leads outside it".into())
            }
            _ => check_charsmaps(value),
        }),
        Value::Array(array) => array.iter().try_for_each(check_charsmaps),
        _ => Ok(()),
    }
}

/// Whether every walk through a charsmap stays inside it: u32 size in bytes, a darts-clone double array of u32 units,
/// then the replacements, each up to a NUL.
fn charsmap_holds(blob: &[u8]) -> bool {
    let Some((size, rest)) = blob.split_first_chunk::<4>() else { return false };
    let size = u32::from_le_bytes(*size) as usize / 4 * 4;
    let Some((trie, replacements)) = rest.split_at_checked(size) else { return false };
    let Ok(replacements) = std::str::from_utf8(replacements) else { return false };
    let units: Vec<u32> = trie.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    let offset = |unit: u32| ((unit >> 10) as usize) << ((unit & 0x200) >> 6);
    let Some(&root) = units.first() else { return false };
    // a node is the place its children are counted from; any byte may be looked up there
    let mut open = vec![offset(root)];
    let mut seen = vec![false; units.len()];
    while let Some(node) = open.pop() {
        if node | 0xff >= units.len() {
            return false;
        }
        if std::mem::replace(&mut seen[node], true) {
            continue;
        }
        for byte in 1..=0xff_usize {
            let unit = units[node ^ byte];
            if unit & 0x8000_00ff != byte as u32 {
                continue;
            }
            let child = node ^ byte ^ offset(unit);
            if child | 0xff >= units.len() {
                return false;
            }
            let leaf = (units[child] & 0x7fff_ffff) as usize;
            if unit >> 8 & 1 == 1 && !replacements.is_char_boundary(leaf) {
                return false;
            }
            open.push(child);
        }
    }
    true
}

/// Standard base64 with padding; `None` for anything else.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').bytes().map(|b| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    });
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for digit in digits {
        bits = bits << 6 | u32::from(digit?);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> Vec<u8> {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/t5/tokenizer").join(name)).unwrap()
    }

    fn tokenizer(name: &str) -> Tokenizer {
        let read = if name.ends_with("json") { from_json } else { from_sentencepiece };
        let (model, end, vocab_size) = read(&golden(name)).unwrap();
        Tokenizer { model, end, vocab_size, file: name.into() }
    }

    #[test]
    fn lengths() {
        for name in Tokenizer::FILES {
            let t = tokenizer(name);
            assert_eq!(t.encode("", 300), [1]);
            assert_eq!(t.encode("fox", 0), [1]);
            assert_eq!(t.encode("fox", 1), [1]);
            assert_eq!(t.encode("the fox", 3), [3, 5, 1]);
            let long = t.encode(&"the fox \u{0}\u{301}汉 ".repeat(10_000), 300);
            assert_eq!((long.len(), long[299]), (300, 1));
            assert!(long.iter().all(|&id| (id as usize) < t.vocab_size()));
        }
    }

    #[test]
    fn damaged_models_are_refused_or_harmless() {
        let model = golden("spiece.model");
        for cut in [0, 1, 7, 100, model.len() / 2, model.len() - 1] {
            assert!(from_sentencepiece(&model[..cut]).is_err(), "cut to {cut}");
        }
        // every kind of damage: parsing may succeed, encoding must not panic
        let mut state = 1u32;
        for _ in 0..60 {
            let mut model = model.clone();
            for _ in 0..50 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = state as usize % model.len();
                model[at] = (state >> 24) as u8;
            }
            if let Ok((Model::SentencePiece(model), ..)) = from_sentencepiece(&model) {
                let _ = model.encode("The small ＦＯＸ é ½ 汉字 \u{1f98a}");
            }
        }
    }

    #[test]
    fn damaged_json_is_refused() {
        let json = String::from_utf8(golden("tokenizer.json")).unwrap();
        for bad in
            ["", "{}", "[]", "null", &json[..json.len() / 2], &"[".repeat(100_000), &json.replace("</s>", "<end>")]
        {
            assert!(from_json(bad.as_bytes()).is_err(), "{bad:.20}");
        }
        // the first characters of the charsmap are the size of its trie
        for head in ["/////", "AAAAA", "****"] {
            let at = json.find("\"precompiled_charsmap\"").unwrap();
            let at = at + json[at..].find(": \"").map_or_else(|| json[at..].find(":\"").unwrap() + 2, |i| i + 3);
            let bad = format!("{}{head}{}", &json[..at], &json[at + head.len()..]);
            assert!(from_json(bad.as_bytes()).is_err(), "{head}");
        }
    }

    #[test]
    fn no_tokenizer_names_both_files() {
        let problem = Tokenizer::open(Path::new("/nowhere")).err().unwrap().to_string();
        assert!(problem.contains("spiece.model") && problem.contains("tokenizer.json"), "{problem}");
    }
}
