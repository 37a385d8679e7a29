//! `residua-model.toml`: what a model is made of and where its parts are.
//!
//! ```toml
//! kind = "open-sora-1.2"
//! licence = "Apache-2.0"
//!
//! [parts]                                   # paths relative to this file, absolute ones, or names on a hub
//! transformer = "my-transformer"
//! vae = "hub:hpcai-tech/OpenSora-VAE-v1.2"
//! text_encoder = "hub:org/name/folder@revision"
//!
//! [defaults]
//! frames = 51
//! ```

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer};

use super::{HubId, Part};
use crate::error::{Error, Result};
use crate::pipeline::Defaults;
use crate::tensor::bytes_of_file;
use crate::text::prompt::Scores;

/// Its name.
pub const FILE: &str = "residua-model.toml";
/// Most bytes of it.
const BYTES: u64 = 1 << 20;
/// Most characters of a licence that are told.
const LICENCE: usize = 80;
/// What `kind` may be.
const KINDS: [&str; 1] = ["open-sora-1.2"];

/// The file, understood.
pub(super) struct ModelFile {
    pub licence: Option<String>,
    /// In the order of [`Part::ALL`].
    pub parts: Vec<(Part, At)>,
    defaults: Stated,
}

/// Where a part is said to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum At {
    Folder(PathBuf),
    Hub(HubId),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: String,
    licence: Option<String>,
    parts: Places,
    #[serde(default)]
    defaults: Stated,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Places {
    transformer: String,
    vae: String,
    vae_2d: Option<String>,
    text_encoder: String,
    tokenizer: Option<String>,
    scheduler: Option<String>,
    cache: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stated {
    width: Option<usize>,
    height: Option<usize>,
    frames: Option<usize>,
    fps: Option<f64>,
    steps: Option<usize>,
    cfg: Option<f64>,
    timestep_transform: Option<bool>,
    clean_caption: Option<bool>,
    #[serde(default, deserialize_with = "score")]
    aes: Option<Option<f64>>,
}

/// A number, or `"none"`.
fn score<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Option<f64>>, D::Error> {
    match toml::Value::deserialize(from)? {
        toml::Value::Float(v) if v.is_finite() => Ok(Some(Some(v))),
        toml::Value::Integer(v) => Ok(Some(Some(v as f64))),
        toml::Value::String(word) if word == "none" => Ok(Some(None)),
        other => Err(serde::de::Error::custom(format!("aes is {other}, expected a number or \"none\""))),
    }
}

impl ModelFile {
    /// Reads the file of a folder. One that came from elsewhere may not name absolute paths.
    pub fn read(folder: &Path, from_elsewhere: bool) -> Result<Self> {
        let path = folder.join(FILE);
        let wrong = |problem: String| Error::checkpoint(&path, problem);
        let text = text(&path)?;
        let written: Written = toml::from_str(&text).map_err(|e| {
            let line = e.span().map(|at| text[..at.start.min(text.len())].matches('\n').count() + 1);
            let line = line.map_or_else(String::new, |n| format!("line {n}: "));
            let told: String = e.message().chars().take(400).map(|c| if c.is_control() { ' ' } else { c }).collect();
            wrong(format!("{line}{told}"))
        })?;
        if !KINDS.contains(&written.kind.as_str()) {
            let told: String = written.kind.chars().take(80).filter(|c| !c.is_control()).collect();
            return Err(wrong(format!("kind is `{told}`; supported is {}", KINDS.join(", "))));
        }
        let p = written.parts;
        let tokenizer = p.tokenizer.unwrap_or_else(|| p.text_encoder.clone());
        let named = [
            (Part::Transformer, Some(p.transformer)),
            (Part::Vae, Some(p.vae)),
            (Part::Vae2d, p.vae_2d),
            (Part::TextEncoder, Some(p.text_encoder)),
            (Part::Tokenizer, Some(tokenizer)),
            (Part::Scheduler, p.scheduler),
            (Part::Cache, p.cache),
        ];
        let at = |(part, text): (Part, String)| {
            let at = place(folder, &text, from_elsewhere).map_err(|problem| wrong(format!("{part} {problem}")))?;
            Ok((part, at))
        };
        let parts = named.into_iter().filter_map(|(part, text)| Some(at((part, text?)))).collect::<Result<_>>()?;
        let plain = |text: String| text.chars().filter(|c| !c.is_control()).take(LICENCE).collect();
        Ok(Self { licence: written.licence.map(plain), parts, defaults: written.defaults })
    }

    /// What the file states, over others.
    pub fn defaults(&self, over: Defaults) -> Defaults {
        let s = &self.defaults;
        Defaults {
            height: s.height.unwrap_or(over.height),
            width: s.width.unwrap_or(over.width),
            frames: s.frames.unwrap_or(over.frames),
            fps: s.fps.unwrap_or(over.fps),
            steps: s.steps.unwrap_or(over.steps),
            guidance: s.cfg.unwrap_or(over.guidance),
            timestep_transform: s.timestep_transform.unwrap_or(over.timestep_transform),
            clean_caption: s.clean_caption.unwrap_or(over.clean_caption),
            scores: s.aes.map_or(over.scores, |aesthetic| Scores { aesthetic, ..Scores::default() }),
        }
    }
}

fn text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    bytes_of_file(path)?;
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > BYTES {
        return Err(Error::checkpoint(path, format!("has more than {BYTES} bytes; is it the description of a model?")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::checkpoint(path, format!("is not UTF-8 from byte {at} on; save it as UTF-8"))
    })
}

fn place(folder: &Path, text: &str, from_elsewhere: bool) -> std::result::Result<At, String> {
    if let Some(id) = text.strip_prefix("hub:") {
        return id.parse().map(At::Hub).map_err(|e: Error| e.to_string());
    }
    let path = Path::new(text);
    if text.is_empty() || text.contains(char::is_control) {
        return Err("is no path; expected a folder, or hub:org/name".into());
    }
    if path.is_absolute() {
        let problem = "is an absolute path, which a model from elsewhere may not name";
        return if from_elsewhere { Err(format!("`{text}` {problem}")) } else { Ok(At::Folder(path.into())) };
    }
    if path.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("`{text}` leaves the model's folder; write an absolute path if that is meant"));
    }
    Ok(At::Folder(folder.join(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "kind = \"open-sora-1.2\"\n[parts]\ntransformer = \"t\"\nvae = \"/v\"\ntext_encoder = \"hub:a/b\"\n";

    fn read(text: impl AsRef<[u8]>, from_elsewhere: bool) -> Result<ModelFile> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), text).unwrap();
        ModelFile::read(dir.path(), from_elsewhere)
    }

    #[test]
    fn places_and_defaults() {
        let file = read(format!("{GOOD}[defaults]\nframes = 17\ncfg = 5\naes = \"none\"\n"), false).unwrap();
        let at = |part| file.parts.iter().find(|(p, _)| *p == part).map(|(_, at)| at.clone());
        assert!(matches!(at(Part::Transformer), Some(At::Folder(p)) if p.ends_with("t")));
        assert_eq!(at(Part::Vae), Some(At::Folder("/v".into())));
        assert_eq!(at(Part::Tokenizer), Some(At::Hub("a/b".parse().unwrap())));
        assert_eq!(at(Part::Vae2d), None);
        let d = file.defaults(Defaults::default());
        assert_eq!((d.frames, d.guidance, d.steps, d.scores.aesthetic), (17, 5.0, 30, None));
    }

    #[test]
    fn licences_are_told_without_what_speaks_to_terminals() {
        let licence = format!("licence = \"MIT\\u001b[2J\\n{}\"\n{GOOD}", "x".repeat(100));
        let told = read(licence, false).unwrap().licence.unwrap();
        assert!(told.starts_with("MIT[2Jxxx") && told.len() == LICENCE, "{told:?}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let told = || ModelFile::read(dir.path(), false).err().expect("refused").to_string();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(told().contains("is no file"), "{}", told());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("gone.toml", &path).unwrap();
        assert!(told().contains("is a link to `gone.toml`, which is not there"), "{}", told());
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        let mut large = GOOD.as_bytes().to_vec();
        large.resize((BYTES + 1) as usize, b'\n');
        let changed = |from: &str, to: &str| GOOD.replace(from, to).into_bytes();
        for (text, words) in [
            (large, vec!["more than 1048576 bytes"]),
            ([GOOD.as_bytes(), b"# \xff"].concat(), vec!["not UTF-8"]),
            (changed("kind", "king"), vec!["line 1", "king", "`kind`"]),
            (changed("vae", "vea"), vec!["line 4", "vea", "`vae`", "`vae_2d`"]),
            (changed("\"t\"", "3"), vec!["line 3", "string"]),
            (changed("open-sora-1.2", "latte"), vec!["kind is `latte`", "open-sora-1.2"]),
            (changed("\"t\"", "\"../t\""), vec!["transformer", "leaves the model's folder"]),
            (changed("\"t\"", "\"hub:../../x\""), vec!["transformer", "no name on a hub"]),
            (changed("\"t\"", "\"\""), vec!["transformer", "no path"]),
            (changed("text_encoder", "tokenizer"), vec!["missing", "text_encoder"]),
            (format!("{GOOD}[defaults]\naes = true\n").into(), vec!["aes"]),
            (format!("{GOOD}[defaults]\nstep = 3\n").into(), vec!["line 7", "`step`", "`steps`"]),
            (format!("{GOOD}[defaults]\nsteps = -3\n").into(), vec!["line 7"]),
        ] {
            let error = read(text, false).err().expect("refused").to_string();
            assert!(words.iter().all(|w| error.contains(w)) && error.contains(FILE), "{words:?}: {error}");
        }
        assert!(read(GOOD, true).err().expect("refused").to_string().contains("absolute"));
    }
}
