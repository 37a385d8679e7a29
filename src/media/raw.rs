//! Formats without compression, for pipes: YUV4MPEG2 and bare RGB.

use std::io::{self, Write};

use super::color::{Matrix, byte};
use super::format::Format;
use super::frames::{Frames, rate};
use crate::error::{Error, Result};

/// Writes [`Format::Y4m`] or [`Format::Rgb`] to anything, standard output for one.
///
/// Y4M has no field for the colour matrix. Ours is BT.601 in limited range, which is what ffmpeg and its kin assume of
/// a file that says nothing, with chroma at full resolution (`C444`): no subsampling, so no question where chroma sits.
///
/// # Errors
/// If the frames are not writable, the format is another one, or the writer fails.
pub fn write_to(out: &mut impl Write, frames: &Frames, format: Format) -> Result<()> {
    frames.check()?;
    match format {
        Format::Y4m => y4m(out, frames),
        Format::Rgb => out.write_all(&frames.rgb).and_then(|()| out.flush()),
        other => return Err(Error::request("output", format!("{other:?} cannot be streamed; use .y4m or .rgb"))),
    }
    .map_err(|e| Error::io("-", e))
}

/// Source: yuv4mpeg(5) of mjpegtools.
pub(super) fn y4m(out: &mut impl Write, frames: &Frames) -> io::Result<()> {
    let (num, den) = rate(frames.fps);
    writeln!(out, "YUV4MPEG2 W{} H{} F{num}:{den} Ip A1:1 C444 XCOLORRANGE=LIMITED", frames.width, frames.height)?;
    let area = frames.width * frames.height;
    let mut planes = vec![0; 3 * area];
    for frame in frames.iter() {
        for (i, p) in frame.chunks_exact(3).enumerate() {
            let yuv = Matrix::BT601.forward([p[0] as f32, p[1] as f32, p[2] as f32]);
            (0..3).for_each(|c| planes[c * area + i] = byte(yuv[c]));
        }
        out.write_all(b"FRAME\n")?;
        out.write_all(&planes)?;
    }
    out.flush()
}
