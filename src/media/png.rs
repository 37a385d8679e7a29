//! PNG, animated PNG and folders of them: every byte of every frame survives.

use std::io::{Read, Seek, Write};
use std::path::Path;

use png::{BitDepth, ColorType, Encoder, EncodingError};

use super::frames::Frames;
use super::recipe::{RECIPE_KEY, ascii};
use crate::error::{Error, Result};

/// Name of frame `i` in a folder.
pub(super) fn frame_name(i: usize) -> String {
    format!("{i:04}.png")
}

/// Writes all frames as one animation that loops for ever, or the only frame as a plain picture.
pub(super) fn write(
    path: &Path,
    out: &mut impl Write,
    frames: &Frames,
    recipe: Option<&serde_json::Value>,
) -> Result<()> {
    let count = frames.count();
    let body = || {
        let mut encoder = encoder(out, frames, recipe)?;
        if count > 1 {
            encoder.set_animated(count as u32, 0)?;
            let (num, den) = delay(frames.fps);
            encoder.set_frame_delay(num, den)?;
        }
        let mut writer = encoder.write_header()?;
        frames.iter().try_for_each(|frame| writer.write_image_data(frame))?;
        writer.finish()
    };
    body().map_err(|e| failed(path, e))
}

/// Writes frame `i` alone.
pub(super) fn write_frame(
    path: &Path,
    out: &mut impl Write,
    frames: &Frames,
    i: usize,
    recipe: Option<&serde_json::Value>,
) -> Result<()> {
    let body = || {
        let mut writer = encoder(out, frames, recipe)?.write_header()?;
        writer.write_image_data(frames.frame(i))?;
        writer.finish()
    };
    body().map_err(|e| failed(path, e))
}

fn encoder<W: Write>(
    out: W,
    frames: &Frames,
    recipe: Option<&serde_json::Value>,
) -> std::result::Result<Encoder<'static, W>, EncodingError> {
    let mut encoder = Encoder::new(out, frames.width as u32, frames.height as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    if let Some(recipe) = recipe {
        encoder.add_text_chunk(RECIPE_KEY.into(), ascii(recipe))?;
    }
    Ok(encoder)
}

fn failed(path: &Path, e: EncodingError) -> Error {
    match e {
        EncodingError::IoError(e) => Error::io(path, e),
        other => Error::Encode { what: path.display().to_string(), problem: other.to_string() },
    }
}

/// Seconds a frame is shown, as the two 16-bit halves of a fraction: exact where it fits.
fn delay(fps: f64) -> (u16, u16) {
    let (num, den) = super::frames::rate(fps);
    if let (Ok(num), Ok(den)) = (u16::try_from(num), u16::try_from(den)) {
        return (den, num);
    }
    let scale = if fps > 1.0 { 10_000.0 } else { 500.0 };
    ((scale / fps).round() as u16, scale as u16)
}

/// The text kept under our key.
pub(super) fn text(file: impl Read + Seek) -> std::io::Result<Option<String>> {
    let invalid = |e: png::DecodingError| match e {
        png::DecodingError::IoError(e) => e,
        other => std::io::Error::new(std::io::ErrorKind::InvalidData, other.to_string()),
    };
    let reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().map_err(invalid)?;
    let info = reader.info();
    if let Some(chunk) = info.uncompressed_latin1_text.iter().find(|c| c.keyword == RECIPE_KEY) {
        return Ok(Some(chunk.text.clone()));
    }
    match info.utf8_text.iter().find(|c| c.keyword == RECIPE_KEY) {
        Some(chunk) => chunk.get_text().map(Some).map_err(invalid),
        None => Ok(None),
    }
}
