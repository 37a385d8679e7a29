//! Where results go: names, checks before the work, writing whole or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use residua::Error;
use residua::media::{self, Format, Frames, WriteOptions, Written};
use residua::tensor::sha256;
use serde_json::{Value, json};

use super::args::Video;
use super::exit::{Failure, Outcome};
use super::screen::Screen;

/// A place for the video that has been looked at.
pub struct Target {
    pub path: PathBuf,
    pub format: Format,
    crf: u8,
    overwrite: bool,
}

impl Target {
    /// The path asked for, or `stem` with an extension and, if that is taken, a number.
    ///
    /// # Errors
    /// An unknown extension; a place that cannot be written to.
    pub fn choose(args: &Video, stem: &str, extension: &str) -> Outcome<Self> {
        match &args.output {
            Some(path) => Self::at(args, path.clone()),
            None => Self::free(args, stem, extension, |_| false),
        }
    }

    /// `stem` with an extension and, if that is taken or to be, a number.
    ///
    /// # Errors
    /// A place that cannot be written to.
    pub fn free(args: &Video, stem: &str, extension: &str, taken: impl Fn(&Path) -> bool) -> Outcome<Self> {
        Self::at(args, free_name(stem, extension, args.force, taken))
    }

    /// A path.
    ///
    /// # Errors
    /// An unknown extension; a place that cannot be written to.
    pub fn at(args: &Video, path: PathBuf) -> Outcome<Self> {
        let target = Self::unchecked(args, path)?;
        media::check_writable(&target.path, target.format, args.force).map_err(Failure::output)?;
        Ok(target)
    }

    /// A path in a folder that is still to be made.
    ///
    /// # Errors
    /// An unknown extension.
    pub fn unchecked(args: &Video, path: PathBuf) -> Outcome<Self> {
        let format = Format::from_path(&path)?;
        Ok(Self { path, format, crf: args.crf, overwrite: args.force })
    }

    pub fn is_stdout(&self) -> bool {
        self.path.as_os_str() == "-"
    }

    /// Writes the video and tells of it. Returns its size in bytes.
    ///
    /// # Errors
    /// If it cannot be encoded or written.
    pub fn write(&self, frames: &Frames, recipe: Option<&Value>, screen: &Screen) -> Outcome<u64> {
        let options = WriteOptions { crf: self.crf, recipe, overwrite: self.overwrite };
        let Written { path, bytes } =
            media::write(&self.path, frames, self.format, &options).map_err(Failure::output)?;
        let hash = if path.is_file() { Some(sha256(&path)?) } else { None };
        screen.event("output", json!({"path": path.display().to_string(), "bytes": bytes, "sha256": hash}));
        if !screen.json && !self.is_stdout() {
            screen.data(path.display());
        }
        Ok(bytes)
    }
}

/// `stem.extension`, or `stem-1.extension` and so on, whatever is free.
fn free_name(stem: &str, extension: &str, force: bool, taken: impl Fn(&Path) -> bool) -> PathBuf {
    let name = |n: usize| match n {
        0 => PathBuf::from(format!("{stem}.{extension}")),
        _ => PathBuf::from(format!("{stem}-{n}.{extension}")),
    };
    let free = |p: &PathBuf| !taken(p) && (force || p.symlink_metadata().is_err());
    (0..100_000).map(name).find(free).unwrap_or_else(|| name(0))
}

/// The words of a prompt as part of a file name, at most 40 characters.
pub fn slug(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() => out.extend(c.to_lowercase()),
            _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    let cut: String = out.chars().take(40).collect();
    let cut = cut.trim_matches('-');
    if cut.is_empty() { "video".into() } else { cut.into() }
}

/// Checks the files that are to be written beside the video: each can be, and no two are the same.
///
/// # Errors
/// Naming the flag.
pub fn check_files(video: &Target, files: &[(&str, Option<&Path>)], overwrite: bool) -> Outcome {
    let mut seen = vec![("output", video.path.as_path())];
    for (flag, path) in files.iter().filter_map(|(flag, path)| Some((*flag, (*path)?))) {
        if path.as_os_str() == "-" {
            return Err(Failure::wrong(flag, "cannot go to standard output; name a file"));
        }
        if let Some((other, _)) = seen.iter().find(|(_, p)| *p == path) {
            return Err(Failure::wrong(
                flag,
                format!("`{}` is where --{other} goes; name another file", path.display()),
            ));
        }
        // any format that is a single file
        media::check_writable(path, Format::Rgb, overwrite).map_err(|e| match e {
            Error::Request { problem, .. } => Failure::output(Error::request(flag, problem)),
            other => Failure::output(other),
        })?;
        seen.push((flag, path));
    }
    Ok(())
}

/// Writes a file, whole or not at all.
///
/// # Errors
/// If the system refuses.
pub fn write_file(path: &Path, bytes: &[u8], overwrite: bool) -> Outcome {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".residua-").suffix(".part");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(parent)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        if overwrite {
            file.persist(path)?;
        } else if let Err(e) = file.persist_noclobber(path)
            // an earlier try may have come this far
            && !std::fs::read(path).is_ok_and(|there| there == bytes)
        {
            return Err(e.error);
        }
        Ok(())
    };
    write().map_err(|e| Failure::output(Error::io(path, e)))
}

/// Replaces a file that is written again and again, whole or not at all. What a killed program left of an earlier try is
/// taken away.
///
/// # Errors
/// If the system refuses.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Outcome {
    let part = part_of(path);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&part);
        Failure::output(Error::io(path, e))
    })
}

/// Where [`replace_file`] writes first.
pub fn part_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.part"))
}

/// Writes JSON for people to read.
///
/// # Errors
/// If the system refuses.
pub fn write_json(path: &Path, value: &Value, overwrite: bool) -> Outcome {
    write_file(path, format!("{value:#}\n").as_bytes(), overwrite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        assert_eq!(slug("A red circle,  moving right!"), "a-red-circle-moving-right");
        assert_eq!(slug("🐌 …"), "video");
        assert_eq!(slug("蝸牛 on a leaf"), "蝸牛-on-a-leaf");
        let long = slug(&"word ".repeat(30));
        assert!(long.len() <= 40 && !long.ends_with('-'), "{long}");
        assert!(!slug("../../etc/passwd").contains(['/', '.']));
    }
}
