//! How far two videos are apart: PSNR, SSIM and FLIP, in f64 on the CPU.

pub use super::flip::{PIXELS_PER_DEGREE, flip, flip_frames};
use super::frames::Frames;

/// Peak signal to noise ratio in dB over all bytes, `10 log10(255² / mean squared error)`; infinite if equal.
///
/// # Panics
/// If the lengths differ.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len(), "PSNR of different lengths");
    let squares: u64 = a.iter().zip(b).map(|(a, b)| (a.abs_diff(*b) as u64).pow(2)).sum();
    if squares == 0 { f64::INFINITY } else { 10.0 * (255.0 * 255.0 * a.len() as f64 / squares as f64).log10() }
}

/// [`psnr`] of every frame.
///
/// # Panics
/// If the sizes or counts differ.
pub fn psnr_frames(a: &Frames, b: &Frames) -> Vec<f64> {
    assert_same(a, b);
    a.iter().zip(b.iter()).map(|(a, b)| psnr(a, b)).collect()
}

/// Mean of [`ssim_frames`]: 1 if equal.
///
/// # Panics
/// If the sizes or counts differ, or there are no frames.
pub fn ssim(a: &Frames, b: &Frames) -> f64 {
    let each = ssim_frames(a, b);
    assert!(!each.is_empty(), "SSIM of no frames");
    each.iter().sum::<f64>() / each.len() as f64
}

/// Structural similarity of every frame, on luma (BT.601 weights, 0..255, not rounded).
///
/// Gaussian windows of 11 x 11 with sigma 1.5 that lie wholly inside the picture (on a side shorter than 11 the window
/// is that side), `K1 = 0.01`, `K2 = 0.03`, population variances, averaged over all windows; no downsampling first.
///
/// Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
/// similarity", 2004, section III.
///
/// # Panics
/// If the sizes or counts differ.
pub fn ssim_frames(a: &Frames, b: &Frames) -> Vec<f64> {
    assert_same(a, b);
    a.iter().zip(b.iter()).map(|(x, y)| ssim_luma(&luma(x), &luma(y), a.width, a.height)).collect()
}

/// Index and value of the frame with the lowest score; the first of equals. `None` without frames, NaN counts as lowest.
pub fn worst_frame(scores: &[f64]) -> Option<(usize, f64)> {
    let rank = |v: f64| if v.is_nan() { f64::NEG_INFINITY } else { v };
    scores.iter().copied().enumerate().min_by(|(_, a), (_, b)| rank(*a).total_cmp(&rank(*b)))
}

pub(super) fn assert_same(a: &Frames, b: &Frames) {
    let shape = |f: &Frames| [f.count(), f.height, f.width];
    assert_eq!(shape(a), shape(b), "videos of different [T, H, W]");
}

fn luma(rgb: &[u8]) -> Vec<f64> {
    rgb.chunks_exact(3).map(|p| 0.299 * p[0] as f64 + 0.587 * p[1] as f64 + 0.114 * p[2] as f64).collect()
}

fn ssim_luma(a: &[f64], b: &[f64], width: usize, height: usize) -> f64 {
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let (across, down) = (gaussian(width.min(11)), gaussian(height.min(11)));
    let mean = |f: &dyn Fn(usize) -> f64| {
        let plane: Vec<f64> = (0..width * height).map(f).collect();
        filter(&plane, width, height, &across, &down)
    };
    let (ma, mb) = (mean(&|i| a[i]), mean(&|i| b[i]));
    let (aa, bb, ab) = (mean(&|i| a[i] * a[i]), mean(&|i| b[i] * b[i]), mean(&|i| a[i] * b[i]));
    let windows = ma.len();
    let sum: f64 = (0..windows)
        .map(|i| {
            let (va, vb, cov) = (aa[i] - ma[i] * ma[i], bb[i] - mb[i] * mb[i], ab[i] - ma[i] * mb[i]);
            (2.0 * ma[i] * mb[i] + c1) * (2.0 * cov + c2) / ((ma[i].powi(2) + mb[i].powi(2) + c1) * (va + vb + c2))
        })
        .sum();
    sum / windows as f64
}

/// Weights of a window of `n`, sum 1.
fn gaussian(n: usize) -> Vec<f64> {
    let centre = (n as f64 - 1.0) / 2.0;
    let weights: Vec<f64> = (0..n).map(|i| (-(i as f64 - centre).powi(2) / (2.0 * 1.5 * 1.5)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// Separable weighted means over all windows inside the plane: [H - down + 1, W - across + 1].
fn filter(plane: &[f64], width: usize, height: usize, across: &[f64], down: &[f64]) -> Vec<f64> {
    let dot =
        |weights: &[f64], values: &mut dyn Iterator<Item = f64>| weights.iter().zip(values).map(|(w, v)| w * v).sum();
    let columns = width + 1 - across.len();
    let rows: Vec<f64> = plane
        .chunks_exact(width)
        .flat_map(|row| row.windows(across.len()))
        .map(|window| dot(across, &mut window.iter().copied()))
        .collect();
    (0..(height + 1 - down.len()) * columns)
        .map(|i| dot(down, &mut rows[i..].iter().step_by(columns).copied()))
        .collect()
}
