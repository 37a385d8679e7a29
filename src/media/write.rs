//! Putting frames into a file: whole, or not at all.

use std::io::{BufWriter, Error as IoError, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::Builder;

use super::format::{Format, is_stdout};
use super::frames::Frames;
use super::{gif, mp4, png, raw};
use crate::error::{Error, Result};

/// How to write.
#[derive(Clone, Debug)]
pub struct WriteOptions<'a> {
    /// Quality of an MP4: 0 (best) to 51, 20 by default; about 18 is hard to tell from the original. Others ignore it.
    pub crf: u8,
    /// How the frames were made, kept inside MP4, PNG, APNG and GIF under [`RECIPE_KEY`](super::RECIPE_KEY).
    pub recipe: Option<&'a serde_json::Value>,
    /// Whether what is at the path already may be replaced.
    pub overwrite: bool,
}

impl Default for WriteOptions<'_> {
    fn default() -> Self {
        Self { crf: 20, recipe: None, overwrite: false }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file or folder, `-` for standard output.
    pub path: PathBuf,
    /// Size of the file, of all files of a folder, or what went to standard output.
    pub bytes: u64,
}

/// Writes frames to a file, to a folder, or (path `-`, Y4M and RGB) to standard output.
///
/// Files and folders take shape under a temporary name beside the target and are renamed when complete: a crash, a full
/// disk or a cancelled run leaves what was there before.
///
/// # Errors
/// [`Error::Request`] if the target exists and may not be replaced, [`Error::Io`] with path and reason if the system
/// refuses, [`Error::Encode`] if the frames or the encoder are at fault.
pub fn write(path: &Path, frames: &Frames, format: Format, options: &WriteOptions) -> Result<Written> {
    frames.check()?;
    check_writable(path, format, options.overwrite)?;
    let bytes = if is_stdout(path) {
        let mut out = Counted { inner: std::io::stdout().lock(), bytes: 0 };
        raw::write_to(&mut out, frames, format)?;
        out.bytes
    } else if format == Format::PngFolder {
        folder(path, frames, options)?
    } else {
        file(path, frames, format, options)?
    };
    log::info!("wrote {} ({bytes} bytes)", path.display());
    Ok(Written { path: path.to_path_buf(), bytes })
}

/// Whether [`write()`] will be let: to be asked before a long computation starts. Makes and removes an empty file beside
/// the target, since permissions alone do not tell.
///
/// # Errors
/// As [`write()`].
pub fn check_writable(path: &Path, format: Format, overwrite: bool) -> Result<()> {
    if is_stdout(path) {
        return match format {
            Format::Y4m | Format::Rgb => Ok(()),
            other => Err(Error::request("output", format!("{other:?} cannot go to standard output; use y4m or rgb"))),
        };
    }
    let refuse = |problem: &str| Err(Error::request("output", format!("`{}` {problem}", path.display())));
    if path.file_name().is_none() {
        return refuse("names no file or folder to make");
    }
    match (format == Format::PngFolder, path.metadata()) {
        (_, Err(_)) => {} // nothing there; the parent decides
        (false, Ok(there)) if there.is_dir() => return refuse("is a folder"),
        (true, Ok(there)) if !there.is_dir() => return refuse("is a file, not a folder"),
        (true, Ok(_)) => match contents(path)? {
            Contents::Nothing => {}
            Contents::Other => return refuse("holds other files than numbered PNGs and will not be replaced"),
            Contents::Frames if !overwrite => return refuse("holds frames already; choose another name or overwrite"),
            Contents::Frames => {}
        },
        (false, Ok(_)) if !overwrite => return refuse("exists already; choose another name or overwrite"),
        (false, Ok(_)) => {}
    }
    let parent = parent(path);
    let io = |e| Error::io(parent, e);
    if !parent.metadata().map_err(io)?.is_dir() {
        return Err(io(IoError::from(ErrorKind::NotADirectory)));
    }
    builder(0o666).tempfile_in(parent).map(drop).map_err(io)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Temporary names; the mode is that of any new file or folder, not the private one of temporary files.
fn builder(mode: u32) -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(".residua-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

fn file(path: &Path, frames: &Frames, format: Format, options: &WriteOptions) -> Result<u64> {
    let io = |e: IoError| Error::io(path, e);
    let file = builder(0o666).tempfile_in(parent(path)).map_err(io)?;
    let mut out = BufWriter::new(file.as_file());
    match format {
        Format::Mp4 => mp4::write(path, &mut out, frames, options.crf, options.recipe)?,
        Format::Gif => out.write_all(&gif::encode(frames, options.recipe)?).map_err(io)?,
        Format::Apng => png::write(path, &mut out, frames, options.recipe)?,
        Format::Y4m => raw::y4m(&mut out, frames).map_err(io)?,
        Format::Rgb => out.write_all(&frames.rgb).map_err(io)?,
        Format::PngFolder => unreachable!("folders are not files"),
    }
    out.flush().map_err(io)?;
    drop(out);
    file.as_file().sync_all().map_err(io)?;
    let bytes = file.as_file().metadata().map_err(io)?.len();
    let done = if options.overwrite { file.persist(path) } else { file.persist_noclobber(path) };
    done.map_err(|e| io(e.error))?;
    Ok(bytes)
}

fn folder(path: &Path, frames: &Frames, options: &WriteOptions) -> Result<u64> {
    let io = |e: IoError| Error::io(path, e);
    let making = builder(0o777).tempdir_in(parent(path)).map_err(io)?;
    let mut bytes = 0;
    for i in 0..frames.count() {
        let name = path.join(png::frame_name(i)); // for messages
        let io = |e: IoError| Error::io(&name, e);
        let file = std::fs::File::create_new(making.path().join(png::frame_name(i))).map_err(io)?;
        let mut out = BufWriter::new(&file);
        let recipe = options.recipe.filter(|_| i == 0);
        png::write_frame(&name, &mut out, frames, i, recipe)?;
        out.flush().map_err(io)?;
        bytes += file.metadata().map_err(io)?.len();
    }
    // A folder cannot be renamed onto one with files in it: the old one steps aside, and back if this fails.
    let aside = match path.is_dir() {
        true => {
            let aside = builder(0o777).tempdir_in(parent(path)).map_err(io)?;
            std::fs::rename(path, aside.path().join("old")).map_err(io)?;
            Some(aside)
        }
        false => None,
    };
    if let Err(e) = std::fs::rename(making.path(), path) {
        if let Some(aside) = aside
            && std::fs::rename(aside.path().join("old"), path).is_err()
        {
            log::error!("the frames that were in {} are now in {}", path.display(), aside.keep().display());
        }
        return Err(io(e));
    }
    let _ = making.keep(); // it has its own name now: nothing to remove
    Ok(bytes)
}

/// What an existing folder holds.
enum Contents {
    Nothing,
    Frames,
    Other,
}

/// Looks at every entry: only a folder of frames, such as we make, may be replaced as a whole.
fn contents(path: &Path) -> Result<Contents> {
    let io = |e: IoError| Error::io(path, e);
    let mut found = Contents::Nothing;
    for entry in std::fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|n| n.strip_suffix(".png")).unwrap_or("");
        let ours = digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_digit());
        if !ours || !entry.file_type().map_err(io)?.is_file() {
            return Ok(Contents::Other);
        }
        found = Contents::Frames;
    }
    Ok(found)
}

/// Counts what passes through.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(data)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
