//! Files of a repository in the hub's cache: content by its hash, and for every commit links to it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use residua::Error;
use residua::pipeline::parts::{HubCache, HubId, is_commit};
use residua::tensor::sha256;
use sha1::{Digest, Sha1};

use super::client::{Client, Remote};
use crate::cli::exit::{Failure, Outcome};

/// How often a transfer that brings nothing new is tried again.
const TRIES: u32 = 4;
/// How long to wait before that: twice as long, then four times, and so on.
const PAUSE: Duration = Duration::from_millis(200);
/// Bytes that are something new.
const PROGRESS: u64 = 64 << 10;
/// Bytes of one write.
const PIECE: usize = 1 << 20;

/// A repository of the cache at one commit.
pub struct Store {
    repo: PathBuf,
    pub commit: String,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    move |e| Failure::output(Error::io(path, e))
}

impl Store {
    pub fn new(cache: &HubCache, id: &HubId, commit: &str) -> Self {
        Self { repo: cache.repo(id), commit: commit.into() }
    }

    fn blob(&self, file: &Remote) -> PathBuf {
        self.repo.join("blobs").join(&file.etag)
    }

    /// Whether the content is there.
    pub fn has(&self, file: &Remote) -> bool {
        self.blob(file).metadata().is_ok_and(|m| m.is_file() && m.len() == file.bytes)
    }

    /// Downloads the content unless it is there, going on where an earlier transfer ended, and links to it. `seen` hears
    /// of the bytes there are.
    ///
    /// # Errors
    /// If the transfer breaks off again and again, the content is not what its hash says, or nothing can be written.
    pub fn fetch(&self, client: &Client, id: &HubId, file: &Remote, seen: &mut dyn FnMut(u64)) -> Outcome {
        if !self.has(file) {
            self.download(client, id, file, seen)?;
        }
        seen(file.bytes);
        self.link(file)
    }

    fn download(&self, client: &Client, id: &HubId, file: &Remote, seen: &mut dyn FnMut(u64)) -> Outcome {
        let blob = self.blob(file);
        let part = blob.with_extension("incomplete");
        std::fs::create_dir_all(self.repo.join("blobs")).map_err(io(&part))?;
        let mut out = OpenOptions::new().create(true).read(true).append(true).open(&part).map_err(io(&part))?;
        match out.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::download(part.display(), "another program is downloading it; wait for that one"));
            }
            Err(TryLockError::Error(e)) => log::debug!("{} cannot be locked: {e}", part.display()),
        }
        if self.has(file) {
            // (another program has just brought it)
            let _ = std::fs::remove_file(&part);
            return Ok(());
        }
        // (a server that always begins anew brings bytes for ever)
        let (mut tries, mut best) = (0, 0);
        loop {
            let before = out.metadata().map_err(io(&part))?.len();
            if before > file.bytes {
                out.set_len(0).map_err(io(&part))?;
                continue;
            }
            if before == file.bytes {
                break;
            }
            best = best.max(before);
            let problem = match self.transfer(client, id, file, (&mut out, &part), before, seen) {
                Ok(()) => None,
                Err(failure) if failure.code == "download.failed" => Some(failure),
                Err(failure) => return Err(failure),
            };
            let now = out.metadata().map_err(io(&part))?.len();
            (tries, best) = if now >= best + PROGRESS { (0, now) } else { (tries + 1, best) };
            if now >= file.bytes {
                continue;
            }
            if tries >= TRIES {
                let broken = || Failure::download(format!("{}/{}", id.repo, file.name), "the transfer breaks off");
                return Err(problem
                    .unwrap_or_else(broken)
                    .hint("what has come stays: the same command goes on from there"));
            }
            if tries > 0 {
                std::thread::sleep(PAUSE * (1 << tries));
            }
        }
        self.verify(id, file, &part)?;
        out.sync_all().map_err(io(&part))?;
        // (still locked: who waits for it finds it done)
        std::fs::rename(&part, &blob).map_err(io(&blob))
    }

    /// One transfer, from a byte on.
    fn transfer(
        &self,
        client: &Client,
        id: &HubId,
        file: &Remote,
        (out, part): (&mut File, &Path),
        from: u64,
        seen: &mut dyn FnMut(u64),
    ) -> Outcome {
        let (mut bytes, begins) = client.bytes(id, file, from)?;
        out.set_len(begins).map_err(io(part))?;
        out.seek(SeekFrom::End(0)).map_err(io(part))?;
        let (mut at, mut piece) = (begins, vec![0; PIECE]);
        loop {
            let count = bytes.read(&mut piece);
            let count = count.map_err(|e| Failure::download(format!("{}/{}", id.repo, file.name), e))?;
            if count == 0 {
                return Ok(());
            }
            at += count as u64;
            if at > file.bytes {
                out.set_len(0).map_err(io(part))?;
                let problem = format!("more than the {} bytes came that the hub promised", file.bytes);
                return Err(Failure::download(format!("{}/{}", id.repo, file.name), problem));
            }
            out.write_all(&piece[..count]).map_err(io(part))?;
            seen(at);
        }
    }

    /// Whether the content is what its hash says: SHA-256 of large files, of others the one that git knows them by.
    fn verify(&self, id: &HubId, file: &Remote, part: &Path) -> Outcome {
        let (kind, found) = match file.etag.len() {
            64 => ("SHA-256", sha256(part).map_err(Failure::output)?),
            40 => ("git's hash", git_hash(part, file.bytes).map_err(io(part))?),
            _ => return Ok(()),
        };
        if found == file.etag {
            return Ok(());
        }
        std::fs::remove_file(part).map_err(io(part))?;
        let problem = format!("has {kind} {found}, but the hub promised {}; it was thrown away", file.etag);
        Err(Failure::download(format!("{}/{}", id.repo, file.name), problem)
            .hint("try again; if it stays, tell the hub"))
    }

    /// The file of this commit: a link to the content, as other programs make it.
    fn link(&self, file: &Remote) -> Outcome {
        let path = self.repo.join("snapshots").join(&self.commit).join(&file.name);
        let folder = path.parent().unwrap_or(&self.repo);
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let up = "../".repeat(2 + file.name.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{}", file.etag));
        if path.read_link().is_ok_and(|now| now == target) {
            return Ok(());
        }
        replaced(&path, |new| make_link(&target, &self.blob(file), new))
    }

    /// Says that a name stands for this commit, once all its files are there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn name(&self, revision: &str) -> Outcome {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.repo.join("refs").join(revision);
        let folder = path.parent().unwrap_or(&self.repo);
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        replaced(&path, |new| std::fs::write(new, &self.commit))
    }
}

/// What git names content by: SHA-1 of its length and itself.
fn git_hash(path: &Path, bytes: u64) -> std::io::Result<String> {
    let mut hash = Sha1::new_with_prefix(format!("blob {bytes}\0"));
    let (mut file, mut piece) = (File::open(path)?, vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            count => hash.update(&piece[..count]),
        }
    }
}

#[cfg(unix)]
fn make_link(target: &Path, _: &Path, new: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, new)
}

/// Links need rights that users often lack here: the content goes where the link would be, as hubs' own programs do.
#[cfg(not(unix))]
fn make_link(_: &Path, blob: &Path, new: &Path) -> std::io::Result<()> {
    std::fs::hard_link(blob, new).or_else(|_| std::fs::copy(blob, new).map(drop))
}

/// Makes a file under another name in the same folder and renames it.
fn replaced(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> Outcome {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let new = path.with_file_name(name);
    let made = make(&new).and_then(|()| std::fs::rename(&new, path));
    made.map_err(|e| {
        // (it may not even be there)
        let _ = std::fs::remove_file(&new);
        io(path)(e)
    })
}
