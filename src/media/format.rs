//! Which file a path asks for.

use std::path::Path;

use crate::error::{Error, Result};

/// How frames are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// H.264 in MP4: 4:2:0, BT.709, limited range. Lossy.
    Mp4,
    /// Animated GIF, 256 colours per frame. Lossy.
    Gif,
    /// Animated PNG; a single frame is a plain PNG. Lossless.
    Apng,
    /// A folder of `0000.png`, `0001.png`, … Lossless.
    PngFolder,
    /// YUV4MPEG2: 4:4:4, BT.601, limited range. For piping into other programs.
    Y4m,
    /// The bytes of [`Frames::rgb`](super::Frames::rgb), nothing else.
    Rgb,
}

impl Format {
    /// The format a path asks for by its extension: `.mp4`, `.gif`, `.png` or `.apng`, `.y4m`, `.rgb`.
    /// A path without extension, with a slash at its end, or of an existing folder is a [`Format::PngFolder`];
    /// `-` is [`Format::Y4m`] on standard output.
    ///
    /// # Errors
    /// If the extension is not one of these; the message lists them.
    pub fn from_path(path: &Path) -> Result<Format> {
        if is_stdout(path) {
            return Ok(Format::Y4m);
        }
        if path.as_os_str().to_string_lossy().ends_with(['/', std::path::MAIN_SEPARATOR]) || path.is_dir() {
            return Ok(Format::PngFolder);
        }
        let Some(extension) = path.extension() else { return Ok(Format::PngFolder) };
        match extension.to_string_lossy().to_ascii_lowercase().as_str() {
            "mp4" => Ok(Format::Mp4),
            "gif" => Ok(Format::Gif),
            "png" | "apng" => Ok(Format::Apng),
            "y4m" => Ok(Format::Y4m),
            "rgb" => Ok(Format::Rgb),
            other => Err(Error::request(
                "output",
                format!(
                    "`.{other}` of `{}` is not a known format; use .mp4, .gif, .png or .apng, .y4m, .rgb, \
                     a folder (no extension) for numbered PNGs, or `-` for Y4M on standard output",
                    path.display()
                ),
            )),
        }
    }
}

/// Whether the path is `-`, standard output.
pub(super) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_picks_the_format() {
        let cases = [
            ("a.mp4", Format::Mp4),
            ("A.MP4", Format::Mp4),
            ("x/a.gif", Format::Gif),
            ("a.png", Format::Apng),
            ("a.apng", Format::Apng),
            ("a.y4m", Format::Y4m),
            ("a.rgb", Format::Rgb),
            ("-", Format::Y4m),
            ("frames", Format::PngFolder),
            ("a.mp4/", Format::PngFolder),
            ("src", Format::PngFolder),
        ];
        for (path, expected) in cases {
            assert_eq!(Format::from_path(Path::new(path)).unwrap(), expected, "{path}");
        }
        let message = Format::from_path(Path::new("a.webm")).unwrap_err().to_string();
        assert!(message.contains(".webm") && message.contains(".mp4") && message.contains(".y4m"), "{message}");
    }
}
