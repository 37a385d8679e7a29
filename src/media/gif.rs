//! Animated GIF: one palette of 256 colours per frame, looping for ever, the recipe as a comment.

use std::io::Read;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, Frame, RgbaImage};

use super::frames::Frames;
use super::recipe::{RECIPE_KEY, ascii};
use crate::error::{Error, Result};

/// About so many pixels of a frame are shown to the palette search: all of a small one, every fourth at 848 x 480.
const PALETTE_PIXELS: usize = 100_000;
const TRAILER: u8 = 0x3b;
/// Extension introducer and the label of a comment.
const COMMENT: [u8; 2] = [0x21, 0xfe];
/// A longer comment is not ours.
const MAX_COMMENT: usize = 16 << 20;

/// The bytes of the file.
///
/// Delays are whole hundredths of a second, so their rounding is spread over the frames and the sum stays right;
/// none is below 2, because viewers slow down anything faster.
pub(super) fn encode(frames: &Frames, recipe: Option<&serde_json::Value>) -> Result<Vec<u8>> {
    let failed = |e: image::ImageError| Error::Encode { what: "gif".into(), problem: e.to_string() };
    let mut bytes = Vec::new();
    let stride = (frames.width * frames.height / PALETTE_PIXELS).clamp(1, 10) as i32;
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, stride);
    encoder.set_repeat(Repeat::Infinite).map_err(failed)?;
    let hundredths = |i: usize| (100.0 * i as f64 / frames.fps).round() as u32;
    for (i, rgb) in frames.iter().enumerate() {
        let rgba = rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
        let image = RgbaImage::from_raw(frames.width as u32, frames.height as u32, rgba).expect("a whole frame");
        let delay = (hundredths(i + 1) - hundredths(i)).max(2);
        encoder
            .encode_frame(Frame::from_parts(image, 0, 0, Delay::from_numer_denom_ms(10 * delay, 1)))
            .map_err(failed)?;
    }
    drop(encoder); // writes the trailer
    if let Some(recipe) = recipe {
        // last block of the file: readers that want the loop count right after the header are not disturbed
        let trailer = bytes.pop();
        debug_assert_eq!(trailer, Some(TRAILER));
        bytes.extend(COMMENT);
        for part in format!("{RECIPE_KEY}={}", ascii(recipe)).as_bytes().chunks(255) {
            bytes.push(part.len() as u8);
            bytes.extend(part);
        }
        bytes.extend([0, TRAILER]);
    }
    Ok(bytes)
}

/// The text of our comment, if the file has one; walks the blocks without decoding any.
///
/// Source: GIF89a specification, sections 17 to 27.
pub(super) fn comment(mut file: impl Read) -> std::io::Result<Option<String>> {
    let mut header = [0; 13];
    file.read_exact(&mut header)?;
    skip(&mut file, palette_bytes(header[10]))?;
    let key = format!("{RECIPE_KEY}=");
    loop {
        match byte(&mut file)? {
            0x21 => {
                let keep = byte(&mut file)? == COMMENT[1];
                let text = sub_blocks(&mut file, keep)?;
                if let Some(ours) = String::from_utf8_lossy(&text).strip_prefix(&key) {
                    return Ok(Some(ours.to_string()));
                }
            }
            0x2c => {
                let mut descriptor = [0; 9];
                file.read_exact(&mut descriptor)?;
                skip(&mut file, palette_bytes(descriptor[8]) + 1)?; // and the code size of the pixels
                sub_blocks(&mut file, false)?;
            }
            TRAILER => return Ok(None),
            other => {
                return Err(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    format!("unknown GIF block {other:#x}"),
                ));
            }
        }
    }
}

fn palette_bytes(flags: u8) -> u64 {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

fn byte(file: &mut impl Read) -> std::io::Result<u8> {
    let mut one = [0];
    file.read_exact(&mut one).map(|()| one[0])
}

fn skip(file: &mut impl Read, n: u64) -> std::io::Result<()> {
    let skipped = std::io::copy(&mut file.take(n), &mut std::io::sink())?;
    if skipped == n { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads blocks up to the empty one; returns their contents if `keep`.
fn sub_blocks(file: &mut impl Read, keep: bool) -> std::io::Result<Vec<u8>> {
    let (mut all, mut block) = (Vec::new(), [0; 255]);
    loop {
        let n = byte(file)? as usize;
        if n == 0 {
            return Ok(all);
        }
        file.read_exact(&mut block[..n])?;
        if keep && all.len() < MAX_COMMENT {
            all.extend(&block[..n]);
        }
    }
}
