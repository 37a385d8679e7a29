//! Finding a model by a folder or a name.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::file::{At, ModelFile};
use super::known::{Known, by_name};
use super::{FILE, HubCache, HubId, Located, Part, Place, layout};
use crate::error::{Error, Result};
use crate::pipeline::Defaults;
use crate::text::tokenizer::Tokenizer;

/// Where models are looked for. Plain folders win over the hub's cache.
#[derive(Clone, Debug)]
pub struct Search {
    /// Folders of models, and of copies of repositories (`name` or `org/name`).
    pub shelves: Vec<PathBuf>,
    /// The hub's cache.
    pub hub: HubCache,
}

type Looked = std::result::Result<PathBuf, Vec<String>>;

/// A folder with a repository, and whether it came from elsewhere.
type Candidate = (PathBuf, bool);

impl Search {
    /// The folders of `RESIDUA_MODELS` (separated as in `PATH`), and the hub's cache as [`HubCache::from_env`] finds it.
    pub fn from_env() -> Self {
        let listed = std::env::var_os("RESIDUA_MODELS").unwrap_or_default();
        let shelves = std::env::split_paths(&listed).filter(|p| !p.as_os_str().is_empty()).collect();
        Self { shelves, hub: HubCache::from_env() }
    }

    /// A model by the path of its folder, the name of one in [`Search::shelves`], the name of a known one, or that of a
    /// repository on a hub (`org/name[@revision]`). Nothing is downloaded.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is none, or what is there is no model.
    pub fn find(&self, asked: &Path) -> Result<Located> {
        if asked.is_dir() {
            return self.open(asked);
        }
        if asked.is_file() && asked.file_name().is_some_and(|n| n == FILE) {
            return self.open(asked.parent().unwrap_or(Path::new("")));
        }
        let plain = asked.components().count() == 1 && matches!(asked.components().next(), Some(Component::Normal(_)));
        if let Some(found) = self.shelves.iter().map(|s| s.join(asked)).find(|p| plain && p.is_dir()) {
            return self.open(&found);
        }
        let name = asked.to_str().unwrap_or_default();
        if let Some(known) = by_name(name) {
            return self.known(known);
        }
        let mut looked = vec!["there is no such model folder".to_string()];
        match name.strip_prefix("hub:").unwrap_or(name).parse::<HubId>() {
            Ok(id) => {
                let (found, problem) = self.repository(&id)?;
                let open = |(folder, from_elsewhere): &Candidate| self.open_as(folder, id.to_string(), *from_elsewhere);
                let mut opened: Vec<Result<Located>> = found.iter().map(open).collect();
                let whole =
                    |found: &Result<Located>| found.as_ref().is_ok_and(|model| model.missing().next().is_none());
                if !opened.is_empty() {
                    return opened.swap_remove(opened.iter().position(whole).unwrap_or(0));
                }
                looked.push(format!("{} ({})", problem.unwrap_or_default(), self.places()));
                looked.push(format!("give a folder with -m, or try `residua pull {id}`"));
            }
            Err(_) => {
                if plain {
                    looked.push(format!("no model of this name ({})", self.places()));
                }
                let known: Vec<&str> = super::KNOWN.iter().map(|k| k.name).collect();
                looked.push(format!("give a folder or a name ({}) with -m", known.join(", ")));
            }
        }
        Err(Error::checkpoint(asked, looked.join("; ")))
    }

    /// The model in a folder: described by `residua-model.toml`, laid out as diffusers does, or copies of the published
    /// repositories side by side.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is none of these; [`Error::Io`] if it cannot be read.
    pub fn open(&self, folder: &Path) -> Result<Located> {
        // (a link is found by its own name; `.` and `..` have none)
        let own = folder.file_name().map(OsString::from);
        let name = own.or_else(|| folder.canonicalize().ok()?.file_name().map(OsString::from));
        let name = name.map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
        self.open_as(folder, name, false)
    }

    fn open_as(&self, folder: &Path, name: String, from_elsewhere: bool) -> Result<Located> {
        if !folder.is_dir() {
            let problem = "there is no such model folder; it should hold transformer, vae, text_encoder, tokenizer";
            return Err(Error::checkpoint(folder, problem));
        }
        let root = Some(folder.to_path_buf());
        let mut located = Located {
            name,
            root,
            licence: None,
            defaults: Defaults::default(),
            places: Vec::new(),
            looked: self.places(),
        };
        // (a link to nothing is there too: reading it says what is wrong)
        if folder.join(FILE).symlink_metadata().is_ok() {
            self.described(&mut located, ModelFile::read(folder, from_elsewhere)?)?;
        } else if layout::is_diffusers(folder) {
            located.defaults = Defaults::read(folder)?;
            located.places = diffusers(folder);
        } else {
            located.places = copies(folder)?;
        }
        self.add_spatial(&mut located)?;
        Ok(located)
    }

    /// Every part of a known model, from wherever it is.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the hub's cache is damaged.
    pub fn known(&self, known: &Known) -> Result<Located> {
        let mut located = Located {
            name: known.name.into(),
            root: None,
            licence: None,
            defaults: Defaults::default(),
            places: Vec::new(),
            looked: self.places(),
        };
        for (part, sources) in known.parts {
            let mut problems = Vec::new();
            let mut found = None;
            for source in *sources {
                let id: HubId = source.parse()?;
                match self.part(*part, &id)? {
                    Ok(folder) => found = Some((folder, id)),
                    Err(looked) => problems.extend(looked),
                }
                if found.is_some() {
                    break;
                }
            }
            located.places.push(match found {
                Some((folder, id)) => Place { part: *part, folder: Ok(folder), hub: Some(id) },
                None => Place { part: *part, folder: Err(problems), hub: Some(sources[0].parse()?) },
            });
        }
        self.add_spatial(&mut located)?;
        Ok(located)
    }

    /// Where names are looked for, in words.
    fn places(&self) -> String {
        let shelves = self.shelves.iter().chain([&self.hub.root]).map(|s| s.display().to_string());
        format!("looked in {}", shelves.collect::<Vec<_>>().join(", "))
    }

    fn described(&self, located: &mut Located, file: ModelFile) -> Result<()> {
        let mut defaults = Defaults::default();
        for (part, at) in &file.parts {
            let (folder, hub) = match at {
                At::Hub(id) => (self.part(*part, id)?, Some(id.clone())),
                At::Folder(path) => (there(path), None),
            };
            if let (Part::Scheduler, Ok(folder)) = (part, &folder) {
                defaults = defaults.scheduled(folder)?;
            }
            located.places.push(Place { part: *part, folder, hub });
        }
        located.defaults = file.defaults(defaults);
        located.licence = file.licence;
        Ok(())
    }

    /// Where a repository is: its copies on shelves, then the hub's cache; and why it is not in the cache.
    fn repository(&self, id: &HubId) -> Result<(Vec<Candidate>, Option<String>)> {
        // a plain folder does not say which revision it is
        let shelves = self.shelves.iter().filter(|_| id.revision.is_none());
        let name = id.repo.rsplit('/').next().unwrap_or_default();
        let copies = shelves.flat_map(|shelf| [id.repo.as_str(), name].map(|n| shelf.join(n).join(&id.folder)));
        let mut found: Vec<Candidate> = copies.filter(|folder| folder.is_dir()).map(|f| (f, false)).collect();
        let problem = match self.hub.find(id) {
            Ok(Ok(folder)) => {
                found.push((folder, true));
                None
            }
            Ok(Err(problem)) => Some(problem),
            Err(damaged) if found.is_empty() => return Err(damaged),
            Err(damaged) => Some(damaged.to_string()),
        };
        Ok((found, problem))
    }

    /// The folder of a part by a name on a hub: the first that has all of it.
    fn part(&self, part: Part, id: &HubId) -> Result<Looked> {
        let (found, problem) = self.repository(id)?;
        let mut problems = Vec::new();
        for (folder, _) in found {
            match layout::lacks(part, &folder) {
                None => return Ok(Ok(folder)),
                Some(lack) => problems.push(lack),
            }
        }
        problems.extend(problem);
        Ok(Err(problems))
    }

    /// Adds the autoencoder of single frames, if the VAE leaves it out and nothing has named it.
    fn add_spatial(&self, located: &mut Located) -> Result<()> {
        let named = located.places.iter().any(|p| p.part == Part::Vae2d);
        let Some(vae) = located.folder(Part::Vae).filter(|vae| !named && layout::lacks_spatial(vae)) else {
            return Ok(());
        };
        let (from, sub) = layout::named_spatial(vae);
        let plain = |n: &str| matches!(Path::new(n).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        let inside = sub.as_deref().filter(|n| plain(n)).into_iter().chain(["vae_2d"]).map(|n| vae.join(n));
        let mut looked = Vec::new();
        let mut place = Place { part: Part::Vae2d, folder: Err(Vec::new()), hub: None };
        for folder in inside {
            match there(&folder).and_then(|f| layout::lacks(Part::Vae2d, &f).map_or(Ok(f), |lack| Err(vec![lack]))) {
                Ok(folder) => {
                    place.folder = Ok(folder);
                    located.places.push(place);
                    return Ok(());
                }
                Err(problems) => looked.extend(problems),
            }
        }
        let id = [from, sub].into_iter().flatten().collect::<Vec<_>>().join("/");
        if let Ok(id) = id.parse::<HubId>() {
            match self.part(Part::Vae2d, &id)? {
                Ok(folder) => (place.folder, looked) = (Ok(folder), Vec::new()),
                Err(problems) => looked.extend(problems),
            }
            place.hub = Some(id);
        }
        if place.folder.is_err() {
            place.folder = Err(looked);
        }
        located.places.push(place);
        Ok(())
    }
}

fn there(folder: &Path) -> Looked {
    if folder.is_dir() { Ok(folder.into()) } else { Err(vec![format!("no {}", folder.display())]) }
}

/// The parts of a folder that has one sub-folder for each.
fn diffusers(folder: &Path) -> Vec<Place> {
    let at = |part: Part| Place { part, folder: there(&folder.join(part.name())), hub: None };
    let mut places: Vec<Place> = [Part::Transformer, Part::Vae, Part::TextEncoder].map(at).into();
    let mut tokenizer = at(Part::Tokenizer);
    let encoder = folder.join(Part::TextEncoder.name());
    if tokenizer.folder.is_err() && layout::has_tokenizer(&encoder) {
        tokenizer.folder = Ok(encoder);
    }
    places.push(tokenizer);
    places.extend([Part::Scheduler, Part::Cache].map(at).into_iter().filter(|p| p.folder.is_ok()));
    places
}

/// The parts of a folder of copies of repositories.
fn copies(folder: &Path) -> Result<Vec<Place>> {
    let found = layout::copies(folder)?;
    if !found.iter().any(|(part, _)| *part != Part::Vae2d) {
        let problem = format!(
            "holds no model: expected `{FILE}`, the folders transformer, vae, text_encoder and tokenizer, or copies of \
             the published repositories"
        );
        return Err(Error::checkpoint(folder, problem));
    }
    let of = |part: Part| found.iter().find(|(p, _)| *p == part).map(|(_, path)| path.clone());
    let needed = |part: Part| {
        let looked = || vec![format!("no folder in {} has the config.json of one", folder.display())];
        Place { part, folder: of(part).ok_or_else(looked), hub: None }
    };
    let mut places: Vec<Place> = [Part::Transformer, Part::Vae, Part::TextEncoder].map(needed).into();
    let beside = [of(Part::TextEncoder), Some(folder.join(Part::Tokenizer.name()))];
    let tokenizer = beside.into_iter().flatten().find(|f| layout::has_tokenizer(f));
    let lack = || vec![format!("no {} beside the text encoder", Tokenizer::FILES.join(" or "))];
    places.push(Place { part: Part::Tokenizer, folder: tokenizer.ok_or_else(lack), hub: None });
    // (one that is not needed is not asked for)
    let spatial = of(Part::Vae2d).filter(|_| of(Part::Vae).is_some_and(|vae| layout::lacks_spatial(&vae)));
    places.extend(spatial.map(|f| Place { part: Part::Vae2d, folder: Ok(f), hub: None }));
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, names: &[&str]) {
        std::fs::create_dir_all(folder).unwrap();
        names.iter().for_each(|name| std::fs::write(folder.join(name), "{}").unwrap());
    }

    #[test]
    fn an_incomplete_copy_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (shelf, hub) = (dir.path().join("shelf"), HubCache { root: dir.path().join("hub") });
        let id: HubId = "org/t5".parse().unwrap();
        let (copy, repo) = (shelf.join("t5"), hub.repo(&id));
        let search = Search { shelves: vec![shelf], hub };
        let found = || search.part(Part::TextEncoder, &id).unwrap();
        write(&copy, &["config.json"]);
        let problems = found().unwrap_err();
        assert!(problems[0].ends_with("has no weights") && problems[1] == "no org/t5", "{problems:?}");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let snapshot = repo.join("snapshots").join(commit);
        write(&snapshot, &["config.json", "model.safetensors"]);
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::write(repo.join("refs/main"), commit).unwrap();
        assert_eq!(found().unwrap(), snapshot);
        write(&copy, &["model.safetensors"]);
        assert_eq!(found().unwrap(), copy, "a whole one wins");
        // a cache that is damaged is of no concern then
        std::fs::write(repo.join("refs/main"), "garbage").unwrap();
        assert_eq!(found().unwrap(), copy);
    }

    #[cfg(unix)]
    #[test]
    fn links() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("shelf/t5");
        write(&copy, &["config.json", "model.safetensors"]);
        symlink("gone", copy.join("flax_model.msgpack")).unwrap();
        assert_eq!(layout::lacks(Part::TextEncoder, &copy), None, "nobody reads it");
        std::fs::remove_file(copy.join("model.safetensors")).unwrap();
        symlink("gone", copy.join("model.safetensors")).unwrap();
        let lack = layout::lacks(Part::TextEncoder, &copy).expect("damaged");
        assert!(lack.contains("model.safetensors` is a link to `gone`"), "{lack}");
        // a linked model is called as its link is
        let (model, link) = (dir.path().join("model"), dir.path().join("shelf/linked"));
        write(&model.join("transformer"), &[]);
        symlink(&model, &link).unwrap();
        let search = Search { shelves: vec![dir.path().join("shelf")], hub: HubCache { root: dir.path().join("hub") } };
        assert_eq!(search.open(&link).unwrap().name, "linked");
        assert_eq!(search.find(Path::new("linked")).unwrap().name, "linked");
        assert_eq!(search.open(&link.join(".")).unwrap().name, "linked");
        assert_eq!(search.open(&model.join("transformer/..")).unwrap().name, "model");
    }
}
