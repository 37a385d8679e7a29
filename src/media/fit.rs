//! Given frames to the size of a video: scaled until they cover it, the rest cut off evenly.
//!
//! Pictures are scaled as Pillow's bicubic does, to the bit; clips as torch's bilinear without antialiasing does. Only
//! what is left after cutting is computed, so the ratio of the sides costs nothing.
//!
//! Source: `resize_crop_to_fill` in opensora/datasets/utils.py and video_transforms.py at tag v1.2.0;
//! `libImaging/Resample.c` of Pillow 10; `upsample_bilinear2d` of torch.

use super::frames::Frames;

/// Bits after the point of Pillow's weights for bytes.
const PRECISION: u32 = 22;

/// Where a side of the source goes: scaled to `scaled`, of which `kept` from `from` on are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    source: usize,
    scaled: usize,
    from: usize,
    kept: usize,
}

/// Rows and columns of a source of (height, width) for a target of (height, width). `middle` halves what is spare.
fn sides([h, w]: [usize; 2], [th, tw]: [usize; 2], middle: impl Fn(usize) -> usize) -> [Side; 2] {
    let (by_height, by_width) = (th as f64 / h as f64, tw as f64 / w as f64);
    let exact = |source, kept| Side { source, scaled: kept, from: 0, kept };
    let cut = |source: usize, by: f64, kept: usize| {
        let scaled = ((source as f64 * by).round_ties_even() as usize).max(kept);
        Side { source, scaled, from: middle(scaled - kept), kept }
    };
    if by_height > by_width { [exact(h, th), cut(w, by_height, tw)] } else { [cut(h, by_width, th), exact(w, tw)] }
}

/// All frames of a picture (bicubic): `[3, T, H, W]` in [−1, 1].
pub(super) fn picture(frames: &Frames, target: [usize; 2]) -> Vec<f32> {
    let half = |spare: usize| (spare as f64 / 2.0).round_ties_even() as usize;
    let [rows, columns] = sides([frames.height, frames.width], target, half);
    let scaled = |frame: &[u8]| down(&across(frame, columns), columns.kept, rows);
    let bytes: Vec<Vec<u8>> = frames.iter().map(scaled).collect();
    planes(&bytes, target, |byte| f32::from(byte) / 255.0)
}

/// All frames of a clip (bilinear): `[3, T, H, W]` in [−1, 1].
pub(super) fn clip(frames: &Frames, target: [usize; 2]) -> Vec<f32> {
    let [rows, columns] = sides([frames.height, frames.width], target, |spare| spare / 2);
    let (rows, columns) = (between(rows), between(columns));
    let scaled = |frame: &[u8]| {
        let at = |y: usize, x: usize, c: usize| f32::from(frame[(y * frames.width + x) * 3 + c]) / 255.0;
        let mut out = Vec::with_capacity(3 * target[0] * target[1]);
        for &([top, bottom], low) in &rows {
            for &([left, right], far) in &columns {
                out.extend([0, 1, 2].map(|c| {
                    let row = |y: usize| (1.0 - far) * at(y, left, c) + far * at(y, right, c);
                    (1.0 - low) * row(top) + low * row(bottom)
                }));
            }
        }
        out
    };
    let numbers: Vec<Vec<f32>> = frames.iter().map(scaled).collect();
    planes(&numbers, target, |v| v)
}

/// Frames `[H, W, 3]` as `[3, T, H, W]`, 0 to 1 spread to [−1, 1].
fn planes<T: Copy>(frames: &[Vec<T>], [h, w]: [usize; 2], unit: impl Fn(T) -> f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(3 * frames.len() * h * w);
    for c in 0..3 {
        for frame in frames {
            out.extend(frame[c..].iter().step_by(3).map(|&v| (unit(v) - 0.5) / 0.5));
        }
    }
    out
}

/// For every kept position of a side, the two source positions around it and the share of the second.
fn between(side: Side) -> Vec<([usize; 2], f32)> {
    let scale = side.source as f32 / side.scaled as f32;
    let last = side.source - 1;
    let at = |i: usize| {
        let x = (scale * ((side.from + i) as f32 + 0.5) - 0.5).max(0.0);
        let first = (x as usize).min(last);
        ([first, (first + 1).min(last)], x - first as f32)
    };
    (0..side.kept).map(at).collect()
}

/// Weights of one output position: the first source position and its and the next ones' shares, in 2⁻²².
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Pillow's weights for every kept position of a side; `None` where the side keeps its size.
fn taps(side: Side) -> Option<Vec<Taps>> {
    let Side { source, scaled, from, kept } = side;
    if source == scaled {
        return None;
    }
    let scale = source as f64 / scaled as f64;
    let spread = scale.max(1.0);
    let support = 2.0 * spread;
    let at = |i: usize| {
        let centre = ((from + i) as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(source);
        let mut shares: Vec<f64> = (first..end).map(|x| cubic((x as f64 - centre + 0.5) * (1.0 / spread))).collect();
        let sum: f64 = shares.iter().sum();
        if sum != 0.0 {
            shares.iter_mut().for_each(|s| *s /= sum);
        }
        // away from zero at the half, as a cast does after half was added
        let whole = |s: &f64| (s * f64::from(1 << PRECISION) + 0.5f64.copysign(*s)) as i32;
        Taps { first, weights: shares.iter().map(whole).collect() }
    };
    Some((0..kept).map(at).collect())
}

/// The cubic kernel with a = −½.
fn cubic(t: f64) -> f64 {
    const A: f64 = -0.5;
    let t = t.abs();
    if t < 1.0 {
        ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0
    } else if t < 2.0 {
        (((t - 5.0) * t + 8.0) * t - 4.0) * A
    } else {
        0.0
    }
}

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION - 1);

/// Every row of `frame` `[rows, source, 3]` to `[rows, kept, 3]`.
fn across(frame: &[u8], side: Side) -> Vec<u8> {
    let rows = frame.chunks_exact(3 * side.source);
    let Some(taps) = taps(side) else {
        return rows.flat_map(|row| &row[3 * side.from..][..3 * side.kept]).copied().collect();
    };
    let pixel = |row: &[u8], tap: &Taps| {
        let mut sums = [HALF; 3];
        for (weight, pixel) in tap.weights.iter().zip(row[3 * tap.first..].chunks_exact(3)) {
            (0..3).for_each(|c| sums[c] += weight * i32::from(pixel[c]));
        }
        sums.map(byte)
    };
    rows.flat_map(|row| taps.iter().flat_map(move |tap| pixel(row, tap))).collect()
}

/// Every column of `frame` `[source, width, 3]` to `[kept, width, 3]`.
fn down(frame: &[u8], width: usize, side: Side) -> Vec<u8> {
    let stride = 3 * width;
    let Some(taps) = taps(side) else { return frame[stride * side.from..][..stride * side.kept].to_vec() };
    let row = |tap: &Taps| {
        let mut sums = vec![HALF; stride];
        for (weight, row) in tap.weights.iter().zip(frame[stride * tap.first..].chunks_exact(stride)) {
            sums.iter_mut().zip(row).for_each(|(sum, &b)| *sum += weight * i32::from(b));
        }
        sums.into_iter().map(byte).collect::<Vec<u8>>()
    };
    taps.iter().flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_cover_and_are_cut_in_the_middle() {
        let whole = |source, kept| Side { source, scaled: kept, from: 0, kept };
        let [rows, columns] = sides([50, 37], [24, 40], |spare| spare / 2);
        assert_eq!((columns, rows.scaled, rows.from), (whole(37, 40), 54, 15));
        let [rows, columns] = sides([41, 99], [32, 40], |spare| spare / 2);
        assert_eq!((rows, columns.scaled, columns.from), (whole(41, 32), 77, 18));
        for source in 1..40 {
            for target in [[16, 13], [64, 64], [1, 7]] {
                for side in sides([source, 31], target, |spare| spare / 2) {
                    assert!(side.from + side.kept <= side.scaled, "{side:?}");
                }
            }
        }
    }

    #[test]
    fn one_colour_stays_one_colour() {
        for (width, height) in [(1, 1), (1, 3000), (3000, 1), (64, 48), (7, 300)] {
            let frames = Frames { width, height, fps: 1.0, rgb: [10, 200, 255].repeat(width * height) };
            for numbers in [picture(&frames, [48, 64]), clip(&frames, [48, 64])] {
                assert_eq!(numbers.len(), 3 * 48 * 64);
                for (plane, byte) in numbers.chunks_exact(48 * 64).zip([10.0, 200.0, 255.0]) {
                    let value = (byte / 255.0 - 0.5) / 0.5;
                    assert!(plane.iter().all(|v| (v - value).abs() < 1e-6), "{width}x{height}");
                }
            }
        }
    }
}
