//! The local cache of a model hub: where a repository's files lie. Nothing is downloaded here.
//!
//! ```text
//! models--org--name/refs/main                 the commit that a name stands for
//! models--org--name/snapshots/COMMIT/…        the files of that commit: links into
//! models--org--name/blobs/HASH
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// Most bytes of a file that names a commit.
const REF_BYTES: u64 = 1024;
/// Most characters of a repository's name, of a folder in it, of a revision.
const NAME: usize = 200;
/// The revision that is meant where none is named.
const MAIN: &str = "main";

/// A repository of a hub, or a folder in it: `org/name[/folder][@revision]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HubId {
    /// `org/name`
    pub repo: String,
    /// The folder in it; empty for all of it.
    pub folder: String,
    /// A branch, tag or commit, if one is named.
    pub revision: Option<String>,
}

impl HubId {
    /// The revision to look for.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The repository without the folder.
    pub fn whole(&self) -> Self {
        Self { folder: String::new(), ..self.clone() }
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if !self.folder.is_empty() {
            write!(f, "/{}", self.folder)?;
        }
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// Whether a text is a name as hubs and file systems agree on.
fn plain(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    !name.is_empty() && name.len() <= NAME && name.chars().all(known) && !name.starts_with('.') && !name.ends_with('.')
}

impl FromStr for HubId {
    type Err = Error;

    /// # Errors
    /// [`Error::Request`] if a part of it is no plain name.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let told: String = text.chars().take(NAME).filter(|c| !c.is_control()).collect();
            let problem = "is no name on a hub; one is org/name, org/name/folder or org/name/folder@revision";
            Error::request("model", format!("`{told}` {problem}"))
        };
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (text, None),
        };
        let names: Vec<&str> = path.split('/').collect();
        let revision_fits = revision.is_none_or(|r| r.split('/').all(plain));
        // `--` stands for `/` in the names of the cache's folders
        let repo_fits = names.iter().take(2).all(|n| !n.contains("--"));
        if names.len() < 2 || names.len() > 16 || !names.iter().all(|n| plain(n)) || !revision_fits || !repo_fits {
            return Err(wrong());
        }
        Ok(Self { repo: names[..2].join("/"), folder: names[2..].join("/"), revision: revision.map(String::from) })
    }
}

/// Whether a text is a commit.
pub fn is_commit(text: &str) -> bool {
    (40..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A hub's cache on this machine.
#[derive(Clone, Debug)]
pub struct HubCache {
    /// Its folder; there may be none yet.
    pub root: PathBuf,
}

impl HubCache {
    /// The one that other programs use too: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else `huggingface/hub` in
    /// `XDG_CACHE_HOME`, else in `.cache` of the home folder.
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = set("HF_HUB_CACHE").or_else(|| Some(set("HF_HOME")?.join("hub")));
        let shared = || set("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")));
        let root = root.or_else(|| Some(shared()?.join("huggingface/hub")));
        Self { root: root.unwrap_or_else(|| "huggingface/hub".into()) }
    }

    /// The folder that holds all about a repository.
    pub fn repo(&self, id: &HubId) -> PathBuf {
        self.root.join(format!("models--{}", id.repo.replace('/', "--")))
    }

    /// The folder of an id; why there is none otherwise.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the cache is damaged: a name that stands for something that is no commit.
    pub fn find(&self, id: &HubId) -> Result<std::result::Result<PathBuf, String>> {
        let repo = self.repo(id);
        if !repo.is_dir() {
            return Ok(Err(format!("no {id}")));
        }
        let commit = match is_commit(id.revision()) {
            true => id.revision().to_string(),
            false => match self.commit(&repo, id.revision())? {
                Some(commit) => commit,
                None => return Ok(Err(format!("{} does not know `{}`", repo.display(), id.revision()))),
            },
        };
        let folder = repo.join("snapshots").join(&commit).join(&id.folder);
        Ok(if folder.is_dir() { Ok(folder) } else { Err(format!("no {}", folder.display())) })
    }

    /// The commit that a name stands for.
    fn commit(&self, repo: &Path, name: &str) -> Result<Option<String>> {
        let file = repo.join("refs").join(name);
        if !file.is_file() {
            return Ok(None);
        }
        let bytes = file.metadata().map_err(|e| Error::io(&file, e))?.len();
        let text =
            if bytes > REF_BYTES { Vec::new() } else { std::fs::read(&file).map_err(|e| Error::io(&file, e))? };
        match std::str::from_utf8(&text).map(str::trim) {
            Ok(commit) if is_commit(commit) => Ok(Some(commit.to_string())),
            _ => {
                let problem = "names no commit (40 to 64 of 0-9 and a-f); remove it and pull the repository again";
                Err(Error::checkpoint(&file, problem))
            }
        }
    }

    /// Every repository that has something here.
    pub fn repos(&self) -> Vec<HubId> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().into_string().ok());
        let mut ids: Vec<HubId> =
            names.filter_map(|n| n.strip_prefix("models--")?.replacen("--", "/", 1).parse().ok()).collect();
        ids.sort();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id: HubId = "org/na.me-1/sub/folder@refs/pr/1".parse().unwrap();
        assert_eq!((id.repo.as_str(), id.folder.as_str(), id.revision()), ("org/na.me-1", "sub/folder", "refs/pr/1"));
        assert_eq!(id.to_string(), "org/na.me-1/sub/folder@refs/pr/1");
        assert_eq!("a/b".parse::<HubId>().unwrap().revision(), "main");
        let long = format!("a/{}", "b".repeat(NAME + 1));
        for bad in [
            "", "a", "/a/b", "a/", "a/../b", "a/b/../c", "a/b@", "a/b@../x", "a/b\\c", "a/b\n", "a--b/c", "a/b@x@y",
            &long,
        ] {
            assert!(bad.parse::<HubId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_stands_for_a_commit() {
        let dir = tempfile::tempdir().unwrap();
        let cache = HubCache { root: dir.path().into() };
        let id: HubId = "org/name".parse().unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(cache.find(&id).unwrap().unwrap_err(), "no org/name");
        let repo = cache.repo(&id);
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        assert!(cache.find(&id).unwrap().unwrap_err().contains("does not know `main`"));
        std::fs::write(repo.join("refs/main"), format!("{commit}\n")).unwrap();
        assert!(cache.find(&id).unwrap().unwrap_err().contains(commit), "a snapshot that is gone");
        std::fs::create_dir_all(repo.join("snapshots").join(commit)).unwrap();
        assert!(cache.find(&id).unwrap().unwrap().ends_with(commit));
        assert!(cache.find(&format!("org/name@{commit}").parse().unwrap()).unwrap().is_ok());
        assert_eq!(cache.repos(), std::slice::from_ref(&id));
        for garbage in ["../../../etc", "", "main", &"f".repeat(2000), &commit.to_uppercase()] {
            std::fs::write(repo.join("refs/main"), garbage).unwrap();
            let error = cache.find(&id).unwrap_err().to_string();
            assert!(error.contains("refs/main") && error.contains("no commit"), "{error}");
        }
    }
}
