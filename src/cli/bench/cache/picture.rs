//! Some frames of a video, side by side.

use image::{ImageFormat, RgbImage, imageops};
use residua::Error;
use residua::media::Frames;

use crate::cli::exit::Outcome;

/// Frames that are shown, and the most pixels they are wide.
const SHOWN: usize = 5;
const WIDEST: u32 = 192;

/// Evenly spaced frames in a row, large ones reduced, as a PNG.
///
/// # Errors
/// If they cannot be encoded.
pub fn strip(frames: &Frames) -> Outcome<Vec<u8>> {
    let failed = |problem: String| Error::Encode { what: "frames of the report".into(), problem };
    let (width, height, count) = (frames.width as u32, frames.height as u32, frames.count());
    let shown = count.min(SHOWN);
    let (w, h) = (width.min(WIDEST), (height * width.min(WIDEST)).div_ceil(width.max(1)));
    let mut row = RgbImage::new(w * shown as u32, h);
    for k in 0..shown {
        let at = k * (count - 1) / (shown - 1).max(1);
        let frame = RgbImage::from_raw(width, height, frames.frame(at).to_vec());
        let frame = frame.ok_or_else(|| failed(format!("frame {at} is not {width}x{height}")))?;
        let frame = if w < width { imageops::resize(&frame, w, h, imageops::FilterType::Triangle) } else { frame };
        imageops::replace(&mut row, &frame, i64::from(w) * k as i64, 0);
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    row.write_to(&mut bytes, ImageFormat::Png).map_err(|e| failed(e.to_string()))?;
    Ok(bytes.into_inner())
}
