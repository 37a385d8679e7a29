//! What there is to convert, and where it goes.

use std::path::{Path, PathBuf};

use residua::Error;
use residua::pipeline::parts::{Part, Parts};
use residua::tensor::Checkpoint;
use residua::text::tokenizer::Tokenizer;
use tempfile::TempDir;

use super::REPORT;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::screen::{Screen, size};

/// Folders inside of folders that are looked into.
const DEEP: usize = 4;
/// Larger files beside weights are not copied.
const COPIED: u64 = 64 << 20;
/// The index of shards, which are written anew.
const INDEX: [&str; 2] = [".safetensors.index.json", ".bin.index.json"];
/// What `calibrate` makes is good for the weights it was made with.
const CALIBRATION: &str = ".cache.json";

/// A file, a folder, or folders with weights.
#[derive(Default)]
pub struct Found {
    /// Where it was looked.
    roots: Vec<PathBuf>,
    /// Parts with weights, by what they are called below the whole; the empty name is itself.
    pub parts: Vec<String>,
    /// Where they are.
    places: Vec<PathBuf>,
    /// Files beside weights: where, and by their path below the whole.
    rest: Vec<(PathBuf, PathBuf)>,
}

impl Found {
    /// Looks at a file or folder.
    ///
    /// # Errors
    /// If it cannot be read or there are no weights.
    pub fn look(root: &Path) -> Outcome<Self> {
        let mut found = Self::default();
        found.add(Path::new(""), root)?;
        if found.parts.is_empty() {
            let ends = Checkpoint::ENDINGS.join(", ");
            return Err(Failure::input(Error::checkpoint(root, format!("holds no weights (files ending in {ends})"))));
        }
        Ok(found)
    }

    /// Looks at a model, and says where it is or what it is called. One whose parts lie apart gets a folder for each.
    ///
    /// # Errors
    /// As [`Found::look`].
    pub fn of(model: &Parts) -> Outcome<(PathBuf, Self)> {
        if let Some(root) = &model.root {
            return Ok((root.clone(), Self::look(root)?));
        }
        let mut found = Self::default();
        let inside = |part: Part| match part {
            Part::Vae2d => Path::new(Part::Vae.name()).join(part.name()),
            _ => part.name().into(),
        };
        for (part, folder) in model.weights() {
            found.add(&inside(part), folder)?;
        }
        // a tokenizer that lies beside its encoder is wanted in a folder of its own all the same
        for name in Tokenizer::FILES {
            let file = model.tokenizer.join(name);
            if file.is_file() {
                found.rest.push((file, Path::new(Part::Tokenizer.name()).join(name)));
            }
        }
        Ok((PathBuf::from(&model.name), found))
    }

    fn add(&mut self, own: &Path, root: &Path) -> Outcome {
        self.roots.push(root.to_path_buf());
        if root.is_file() {
            self.parts.push(String::new());
            self.places.push(root.to_path_buf());
            return Ok(());
        }
        self.walk(own, root, DEEP).map_err(Failure::input)
    }

    fn walk(&mut self, below: &Path, here: &Path, deep: usize) -> Result<(), Error> {
        let mut entries: Vec<_> = std::fs::read_dir(here).map_err(|e| Error::io(here, e))?.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let own = below.join(entry.file_name());
            if name.starts_with('.') {
                continue; // what tools keep for themselves
            } else if path.is_dir() {
                if deep > 0 {
                    self.walk(&own, &path, deep - 1)?;
                }
            } else if Checkpoint::is_name(&path) {
                let part = below.to_string_lossy().replace('\\', "/");
                if !self.parts.contains(&part) {
                    self.parts.push(part);
                    self.places.push(here.to_path_buf());
                }
            } else if path.is_file() && name != REPORT && !INDEX.iter().any(|end| name.ends_with(end)) {
                self.rest.push((path, own));
            }
        }
        Ok(())
    }

    /// Where the weights of a part are.
    pub fn at(&self, part: &str) -> &Path {
        let known = self.parts.iter().position(|name| name == part);
        known.map_or(Path::new(""), |i| &self.places[i])
    }

    /// Copies the files beside weights; calibrations only if the transformer stays what it was.
    ///
    /// # Errors
    /// If one cannot be read or written.
    pub fn copy_rest(&self, into: &Path, changed: bool, screen: &Screen) -> Outcome {
        for (from, own) in &self.rest {
            let to = into.join(own);
            let name = own.display();
            if changed && name.to_string().ends_with(CALIBRATION) {
                screen.say(format!(
                    "note: {name} was made for other weights and is not copied; `residua calibrate` makes one"
                ));
                continue;
            }
            let bytes = from.metadata().map_err(|e| Failure::input(Error::io(from, e)))?.len();
            if bytes > COPIED {
                screen
                    .say(format!("note: {name} ({}) is not copied: only small files beside weights are", size(bytes)));
                continue;
            }
            let held = std::fs::read(from).map_err(|e| Failure::input(Error::io(from, e)))?;
            let copy = || {
                std::fs::create_dir_all(to.parent().unwrap_or(into))?;
                std::fs::write(&to, held)
            };
            copy().map_err(|e| Failure::output(Error::io(&to, e)))?;
        }
        Ok(())
    }
}

/// Where it goes.
pub struct Target {
    path: PathBuf,
    /// Of a file, its name without the ending; a folder has none.
    pub stem: Option<String>,
    /// There is something that is to be replaced.
    replaces: bool,
}

impl Target {
    /// Looks at the place asked for.
    ///
    /// # Errors
    /// If it is taken, or is where the weights come from.
    pub fn choose(path: &Path, found: &Found, force: bool) -> Outcome<Self> {
        let refused = |problem: String| Err(Failure::output(Error::request("output", problem)));
        let shown = path.display();
        if path.file_name().is_none() {
            return refused(format!("`{shown}` is no name for a file or folder; give one"));
        }
        let parent = parent(path);
        let at = match parent.canonicalize() {
            Ok(parent) => parent.join(path.file_name().unwrap_or_default()),
            Err(e) => return Err(Failure::output(Error::io(parent, e))),
        };
        let at = at.canonicalize().unwrap_or(at);
        for from in found.roots.iter().chain(&found.places) {
            let source = from.canonicalize().map_err(|e| Failure::input(Error::io(from, e)))?;
            if at.starts_with(&source) || source.starts_with(&at) {
                return refused(format!(
                    "`{shown}` is where the weights are read from ({}); name another place",
                    from.display()
                ));
            }
        }
        let is_file = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
        if is_file && found.parts != [""] {
            let parts = found.parts.join(", ");
            return refused(format!("`{shown}` is one file, but there are {parts} to convert; name a folder"));
        }
        let there = path.symlink_metadata().is_ok();
        let empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if is_file && path.is_dir() || there && !is_file && !path.is_dir() {
            let (is, wanted) = if is_file { ("a folder", "a file") } else { ("a file", "a folder") };
            return refused(format!("`{shown}` is {is}, and {wanted} is to be written there; name another place"));
        }
        if there && !empty && !force {
            return refused(format!("`{shown}` is there already; this would overwrite it"));
        }
        if there && !empty && !is_file && !path.join(REPORT).is_file() {
            let problem =
                "is a folder that this command did not make, so it is not replaced; name another, or remove it";
            return refused(format!("`{shown}` {problem}"));
        }
        let stem = is_file.then(|| path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        Ok(Self { path: path.to_path_buf(), stem, replaces: there })
    }

    /// The folder in which everything is made.
    ///
    /// # Errors
    /// If there may be none.
    pub fn begin(&self) -> Outcome<TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".residua-").suffix(".part");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        builder.tempdir_in(parent(&self.path)).map_err(|e| Failure::output(Error::io(&self.path, e)))
    }

    /// What was made gets its name.
    ///
    /// # Errors
    /// If the system refuses; then what was there stays.
    pub fn finish(self, made: TempDir) -> Outcome {
        let path = &self.path;
        let rename = || match &self.stem {
            Some(stem) => std::fs::rename(made.path().join(format!("{stem}.safetensors")), path),
            None if self.replaces => {
                let aside = tempfile::Builder::new().prefix(".residua-").suffix(".part").tempdir_in(parent(path))?;
                let old = aside.path().join("old");
                std::fs::rename(path, &old)?;
                std::fs::rename(made.path(), path).inspect_err(|_| drop(std::fs::rename(&old, path)))
            }
            None => std::fs::rename(made.path(), path),
        };
        rename().map_err(|e| Failure::output(Error::io(path, e)))
    }
}

/// The folder a path is in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
