//! Frames of bytes, and the one rule that turns a decoder's numbers into them.

use crate::error::{Error, Result};

/// A video in memory: T frames of H x W pixels, three bytes each (sRGB as the models were trained on it).
#[derive(Clone, Debug, PartialEq)]
pub struct Frames {
    /// W, pixels.
    pub width: usize,
    /// H, pixels.
    pub height: usize,
    /// Frames per second.
    pub fps: f64,
    /// [T, H, W, 3], row-major.
    pub rgb: Vec<u8>,
}

impl Frames {
    /// T, the number of whole frames in `rgb`.
    pub fn count(&self) -> usize {
        self.rgb.len().checked_div(self.frame_bytes()).unwrap_or(0)
    }

    /// Frame `i`, [H, W, 3].
    ///
    /// # Panics
    /// If there is no such frame.
    pub fn frame(&self, i: usize) -> &[u8] {
        let n = self.frame_bytes();
        assert!(i < self.count(), "frame {i} of {}", self.count());
        &self.rgb[i * n..][..n]
    }

    /// All frames in order, each [H, W, 3].
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.count()).map(|i| self.frame(i))
    }

    /// Frames of a decoder's output: `x` is [3, T, H, W] with -1 black and 1 white.
    ///
    /// `y = (clamp(x, -1, 1) + 1) / 2`, `byte = trunc(clamp(255 y + 0.5, 0, 255))`, in f32 whatever the decoder worked in:
    /// in bf16 the numbers above 128 are two apart and the half added for rounding is lost.
    ///
    /// Source: opensora/datasets/utils.py (`save_sample`) at tag v1.2.0.
    ///
    /// # Errors
    /// If a value is not a number; the message says where.
    ///
    /// # Panics
    /// If `x` does not have the length its shape says.
    pub fn from_pixels(x: &[f32], shape: [usize; 4], fps: f64) -> Result<Frames> {
        let [_, _, height, width] = shape;
        let mut frames = Frames { width, height, fps, rgb: Vec::new() };
        frames.push_pixels(x, shape)?;
        Ok(frames)
    }

    /// Adds the next frames of the same size: a long video need not lie in memory as numbers.
    ///
    /// # Errors
    /// As [`Frames::from_pixels`].
    ///
    /// # Panics
    /// As there, and if the size is another.
    pub fn push_pixels(&mut self, x: &[f32], shape: [usize; 4]) -> Result<()> {
        let [channels, count, height, width] = shape;
        assert!(
            channels == 3 && [height, width] == [self.height, self.width] && x.len() == shape.iter().product::<usize>(),
            "{} numbers against shape {shape:?}",
            x.len()
        );
        let (plane, volume) = (height * width, count * height * width);
        if let Some(at) = x.iter().position(|v| v.is_nan()) {
            let (c, t, i) = (at / volume, self.count() + at % volume / plane, at % plane);
            let problem = format!(
                "the decoder gave NaN (first in frame {t}, row {}, column {}, channel {c}); try a wider data type",
                i / width,
                i % width
            );
            return Err(Error::Encode { what: "frames".into(), problem });
        }
        let first = self.rgb.len();
        self.rgb.resize(first + 3 * volume, 0);
        for (i, pixel) in self.rgb[first..].chunks_exact_mut(3).enumerate() {
            for (c, byte) in pixel.iter_mut().enumerate() {
                let y = (x[c * volume + i].clamp(-1.0, 1.0) + 1.0) / 2.0;
                *byte = (y * 255.0 + 0.5).clamp(0.0, 255.0) as u8;
            }
        }
        Ok(())
    }

    fn frame_bytes(&self) -> usize {
        self.width * self.height * 3
    }

    /// What every writer relies on: at least one whole frame, a sane size and rate.
    pub(super) fn check(&self) -> Result<()> {
        let (w, h, n) = (self.width, self.height, self.count());
        let problem = if w == 0 || h == 0 || n == 0 {
            format!("nothing to write: {n} frames of {w} x {h}")
        } else if self.rgb.len() != n * self.frame_bytes() {
            format!("{} bytes are not whole frames of {w} x {h} x 3", self.rgb.len())
        } else if w > MAX_SIDE || h > MAX_SIDE {
            format!("{w} x {h} is larger than {MAX_SIDE} pixels on a side")
        } else if !(0.01..=1000.0).contains(&self.fps) {
            return Err(Error::request("fps", format!("{} is not between 0.01 and 1000 frames per second", self.fps)));
        } else {
            return Ok(());
        };
        Err(Error::Encode { what: "frames".into(), problem })
    }
}

/// Largest width or height written or read, pixels.
pub(super) const MAX_SIDE: usize = 16384;

/// `fps` as a fraction: whole numbers, the NTSC family (30000/1001 and its kin), else thousandths.
pub(super) fn rate(fps: f64) -> (u32, u32) {
    let (whole, ntsc) = (fps.round(), (fps * 1.001).round());
    if whole >= 1.0 && (fps - whole).abs() < 1e-6 {
        return (whole as u32, 1);
    }
    if ntsc >= 1.0 && (fps - ntsc / 1.001).abs() < 1e-4 {
        return (ntsc as u32 * 1000, 1001);
    }
    let (num, den) = ((fps * 1000.0).round().max(1.0) as u32, 1000);
    let (mut a, mut b) = (num, den);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    (num / a, den / a)
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn rates_are_exact_where_a_name_exists() {
        let cases = [
            (24.0, (24, 1)),
            (29.97, (30000, 1001)),
            (23.976, (24000, 1001)),
            (24000.0 / 1001.0, (24000, 1001)),
            (12.5, (25, 2)),
            (0.5, (1, 2)),
            (7.3, (73, 10)),
        ];
        for (fps, expected) in cases {
            assert_eq!(rate(fps), expected, "{fps}");
        }
    }
}
