//! How different two videos look when flipped between: LDR-FLIP, in f64 on the CPU.
//!
//! Source: Andersson, Nilsson, Akenine-Möller, Oskarsson, Åström, Fairchild, "FLIP: A Difference Evaluator for
//! Alternating Images", 2020; constants and borders as in NVlabs/flip, cpp/FLIP.h at 1fd382a.

use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::iter::repeat_n;

use super::frames::Frames;
use super::quality::assert_same;

/// Pixels per degree of visual angle, 67.0206: a monitor 0.7 m and 3840 pixels wide, seen from 0.7 m.
/// Source: FLIP.h, `Parameters::PPD`.
pub const PIXELS_PER_DEGREE: f64 = 0.7 * (3840.0 / 0.7) * (PI / 180.0);

/// Mean of [`flip_frames`]: 0 if equal, at most 1.
///
/// # Panics
/// If the sizes or counts differ, or there are no frames.
pub fn flip(reference: &Frames, test: &Frames) -> f64 {
    let each = flip_frames(reference, test);
    assert!(!each.is_empty(), "FLIP of no frames");
    each.iter().sum::<f64>() / each.len() as f64
}

/// FLIP of every frame, the mean over its pixels at [`PIXELS_PER_DEGREE`]: 0 if equal, at most 1. Bytes are sRGB.
///
/// # Panics
/// If the sizes or counts differ.
pub fn flip_frames(reference: &Frames, test: &Frames) -> Vec<f64> {
    assert_same(reference, test);
    let kernels = Kernels::new(PIXELS_PER_DEGREE);
    reference.iter().zip(test.iter()).map(|(r, t)| mean_error(r, t, reference.width, &kernels)).collect()
}

/// Mean over the pixels of `colour difference ^ (1 - feature difference)`.
fn mean_error(reference: &[u8], test: &[u8], width: usize, kernels: &Kernels) -> f64 {
    let (r, t) = (ycxcz(reference), ycxcz(test));
    let (seen_r, seen_t) = (kernels.perceived(&r, width), kernels.perceived(&t, width));
    let (features_r, features_t) = (kernels.features(&r[0], width), kernels.features(&t[0], width));
    let largest = largest_distance();
    let errors = (0..seen_r.len()).map(|i| {
        let colour = redistributed(hyab(seen_r[i], seen_t[i]).powf(COLOUR_EXPONENT), largest);
        colour.powf(1.0 - feature_difference(features_r[i], features_t[i]))
    });
    errors.sum::<f64>() / seen_r.len() as f64
}

/// `qc`: compresses large colour differences.
const COLOUR_EXPONENT: f64 = 0.7;

/// XYZ under D65 of linear sRGB. A row's sum is white's X, Y or Z.
/// Source: FLIP.h, `LinearRGB2XYZ`.
const RGB_TO_XYZ: [[f64; 3]; 3] = [
    [10135552.0 / 24577794.0, 8788810.0 / 24577794.0, 4435075.0 / 24577794.0],
    [2613072.0 / 12288897.0, 8788810.0 / 12288897.0, 887015.0 / 12288897.0],
    [1425312.0 / 73733382.0, 8788810.0 / 73733382.0, 70074185.0 / 73733382.0],
];

/// The way back, to nine decimals.
/// Source: FLIP.h, `XYZ2LinearRGB`.
const XYZ_TO_RGB: [[f64; 3]; 3] = [
    [3.241003275, -1.537398934, -0.498615861],
    [-0.969224334, 1.875930071, 0.041554224],
    [0.055639423, -0.204011202, 1.057148933],
];

/// `rgb`, linear, in XYZ relative to white: each 0..1 if `rgb` is.
fn relative_xyz(rgb: [f64; 3]) -> [f64; 3] {
    RGB_TO_XYZ.map(|row| dot(row, rgb) / dot(row, [1.0; 3]))
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// What CIELab and the linear YCxCz share: lightness (or Y) and the two opponent axes of XYZ relative to white.
fn opponent([x, y, z]: [f64; 3]) -> [f64; 3] {
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// Planes Y, Cx (red-green) and Cz (blue-yellow), [H, W] each, of a frame of sRGB bytes, [H, W, 3]. Y is -16..100.
fn ycxcz(rgb: &[u8]) -> [Vec<f64>; 3] {
    let linear: Vec<f64> = (0..=255u8).map(|byte| linear(byte as f64 / 255.0)).collect();
    let mut planes = [const { Vec::new() }; 3];
    for pixel in rgb.chunks_exact(3) {
        let ycxcz = opponent(relative_xyz([0, 1, 2].map(|c| linear[pixel[c] as usize])));
        planes.iter_mut().zip(ycxcz).for_each(|(plane, v)| plane.push(v));
    }
    planes
}

/// Linear light of an sRGB value, both 0..1 (IEC 61966-2-1).
fn linear(v: f64) -> f64 {
    if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
}

/// CIELab of linear RGB with a* and b* scaled by lightness: colourfulness fades in the dark (Hunt effect).
fn hunt_lab(rgb: [f64; 3]) -> [f64; 3] {
    let delta = 6.0f64 / 29.0;
    let root = |t: f64| if t > delta.powi(3) { t.cbrt() } else { t / (3.0 * delta * delta) + 4.0 / 29.0 };
    let [l, a, b] = opponent(relative_xyz(rgb).map(root));
    [l, 0.01 * l * a, 0.01 * l * b]
}

/// Distance of two colours: city block between lightness and chroma, Euclidean within chroma.
fn hyab(p: [f64; 3], q: [f64; 3]) -> f64 {
    (p[0] - q[0]).abs() + (p[1] - q[1]).hypot(p[2] - q[2])
}

/// Compressed distance of green and blue, the pair of sRGB colours furthest apart.
fn largest_distance() -> f64 {
    hyab(hunt_lab([0.0, 1.0, 0.0]), hunt_lab([0.0, 0.0, 1.0])).powf(COLOUR_EXPONENT)
}

/// `distance` in 0..`largest` mapped to 0..1: the first `pc = 0.4` of it to 0..`pt = 0.95`, the rest to what is left.
fn redistributed(distance: f64, largest: f64) -> f64 {
    let (knee, value) = (0.4 * largest, 0.95);
    if distance < knee { distance * value / knee } else { value + (distance - knee) / (largest - knee) * (1.0 - value) }
}

/// Difference of two pixels' [edge, point] strengths, 0..1; the exponent is `qf`.
fn feature_difference(reference: [f64; 2], test: [f64; 2]) -> f64 {
    let [edge, point] = [0, 1].map(|i| (reference[i] - test[i]).abs());
    (FRAC_1_SQRT_2 * edge.max(point)).powf(0.5)
}

/// One-dimensional filters of odd length; their outer products are the paper's.
struct Kernels {
    y: Vec<f64>,
    cx: Vec<f64>,
    /// The blue-yellow filter is the sum of two outer products.
    cz: [Vec<f64>; 2],
    gaussian: Vec<f64>,
    /// First, then second derivative of the Gaussian.
    edge: Vec<f64>,
    point: Vec<f64>,
}

impl Kernels {
    /// Source: FLIP.h, `setSpatialFilters` and `setFeatureFilter`.
    fn new(pixels_per_degree: f64) -> Kernels {
        // All contrast filters have the reach of the widest, b = 0.04
        let reach = (3.0 * (0.04 / (2.0 * PI * PI)).sqrt() * pixels_per_degree).ceil();
        let contrast = |a: f64, b: f64| {
            let height = (a * (PI / b).sqrt()).sqrt();
            taps(reach, |x| height * (-(PI * x / pixels_per_degree).powi(2) / b).exp())
        };
        let cz = [contrast(34.1, 0.04), contrast(13.5, 0.025)];
        let total = cz.iter().map(|k| k.iter().sum::<f64>().powi(2)).sum::<f64>().sqrt();
        let sigma = 0.5 * 0.082 * pixels_per_degree;
        let bell = |x: f64| (-x * x / (2.0 * sigma * sigma)).exp();
        let feature = |f: &dyn Fn(f64) -> f64| unit_lobes(taps((3.0 * sigma).ceil(), f));
        Kernels {
            y: unit_lobes(contrast(1.0, 0.0047)),
            cx: unit_lobes(contrast(1.0, 0.0053)),
            cz: cz.map(|k| k.iter().map(|v| v / total).collect()),
            gaussian: feature(&bell),
            edge: feature(&|x| -x * bell(x)),
            point: feature(&|x| (x * x / (sigma * sigma) - 1.0) * bell(x)),
        }
    }

    /// What an eye sees of YCxCz planes at this distance: blurred, clamped to what a monitor shows, as [`hunt_lab`].
    fn perceived(&self, [y, cx, cz]: &[Vec<f64>; 3], width: usize) -> Vec<[f64; 3]> {
        let blur = |plane: &[f64], kernel: &[f64]| convolve(plane, width, kernel, kernel);
        let (y, cx) = (blur(y, &self.y), blur(cx, &self.cx));
        let [cz, more] = [0, 1].map(|i| blur(cz, &self.cz[i]));
        let white = RGB_TO_XYZ.map(|row| dot(row, [1.0; 3]));
        (0..y.len())
            .map(|i| {
                let luminance = (y[i] + 16.0) / 116.0;
                let xyz = [luminance + cx[i] / 500.0, luminance, luminance - (cz[i] + more[i]) / 200.0];
                let xyz = [0, 1, 2].map(|c| xyz[c] * white[c]);
                hunt_lab(XYZ_TO_RGB.map(|row| dot(row, xyz).clamp(0.0, 1.0)))
            })
            .collect()
    }

    /// [edge, point] strengths in a Y plane, each 0..√2 as both axes have filters that give -1..1.
    fn features(&self, y: &[f64], width: usize) -> Vec<[f64; 2]> {
        let grey: Vec<f64> = y.iter().map(|v| (v + 16.0) / 116.0).collect();
        let strength = |derivative: &[f64]| -> Vec<f64> {
            let across = convolve(&grey, width, derivative, &self.gaussian);
            let down = convolve(&grey, width, &self.gaussian, derivative);
            across.iter().zip(down).map(|(a, d)| a.hypot(d)).collect()
        };
        strength(&self.edge).into_iter().zip(strength(&self.point)).map(|(edge, point)| [edge, point]).collect()
    }
}

/// `f` at the whole numbers `-reach..=reach`.
fn taps(reach: f64, f: impl Fn(f64) -> f64) -> Vec<f64> {
    (0..=2 * reach as usize).map(|i| f(i as f64 - reach)).collect()
}

/// Scaled so that the positive weights sum to 1 and the negative ones, if any, to -1.
fn unit_lobes(kernel: Vec<f64>) -> Vec<f64> {
    let positive: f64 = kernel.iter().filter(|v| **v > 0.0).sum();
    let negative: f64 = -kernel.iter().filter(|v| **v < 0.0).sum::<f64>();
    kernel.iter().map(|v| if *v < 0.0 { v / negative } else { v / positive }).collect()
}

/// `plane` [H, W] filtered by `across` in every row, then by `down` in every column; beyond a border its pixels repeat.
fn convolve(plane: &[f64], width: usize, across: &[f64], down: &[f64]) -> Vec<f64> {
    let (mut rows, mut result) = (vec![0.0; plane.len()], vec![0.0; plane.len()]);
    let reach = across.len() / 2;
    for (row, out) in plane.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
        let ends = (repeat_n(row[0], reach), repeat_n(row[width - 1], reach));
        let padded: Vec<f64> = ends.0.chain(row.iter().copied()).chain(ends.1).collect();
        across.iter().enumerate().for_each(|(k, weight)| add_scaled(out, &padded[k..], *weight));
    }
    let (reach, last) = (down.len() / 2, plane.len() / width - 1);
    for (y, out) in result.chunks_exact_mut(width).enumerate() {
        for (k, weight) in down.iter().enumerate() {
            let from = (y + k).saturating_sub(reach).min(last);
            add_scaled(out, &rows[from * width..], *weight);
        }
    }
    result
}

/// A whole row per weight, so that the compiler can use vector instructions.
fn add_scaled(out: &mut [f64], row: &[f64], weight: f64) {
    out.iter_mut().zip(row).for_each(|(out, v)| *out += weight * v);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disc of a quarter of the height, `shift` pixels right of the centre, on a gradient that wraps, plus noise of
    /// 0..`amplitude` on every byte; saturated.
    fn picture(width: usize, height: usize, [shift, amplitude, seed]: [u32; 3]) -> Frames {
        let (w, h, mut state) = (width as i64, height as i64, seed);
        let mut rgb = Vec::new();
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            let (dx, dy) = (x - w / 2 - shift as i64, y - h / 2);
            let inside = 16 * (dx * dx + dy * dy) < h * h;
            let colour = if inside { [220, 40, 90] } else { [x * 5 % 256, y * 7 % 256, (2 * x + 3 * y) % 256] };
            for base in colour {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                rgb.push((base as u32 + (state >> 24) * amplitude / 256).min(255) as u8);
            }
        }
        Frames { width, height, fps: 24.0, rgb }
    }

    fn flat(side: usize, colour: [u8; 3]) -> Frames {
        Frames { width: side, height: side, fps: 24.0, rgb: colour.repeat(side * side) }
    }

    /// Expected: the error map of flip-evaluator 1.7 (NVIDIA's own, in f32), averaged in f64.
    #[test]
    fn agrees_with_the_authors_evaluator() {
        let pictures = [
            (64, 64, [0, 0, 1], [1, 0, 1], 0.036719662),
            (37, 23, [0, 0, 1], [0, 24, 7], 0.237225253),
            (5, 3, [0, 256, 1], [0, 256, 2], 0.676791179),
            (1, 9, [0, 60, 1], [0, 60, 2], 0.220484035),
            (40, 1, [0, 60, 1], [0, 60, 2], 0.193072949),
            (2, 2, [0, 60, 1], [0, 60, 2], 0.250287648),
            (64, 64, [0, 256, 1], [0, 256, 2], 0.360741041),
            (320, 180, [0, 8, 1], [1, 8, 2], 0.043153817),
        ];
        let flats = [
            (16, [0, 0, 0], [255, 255, 255], 0.967388332),
            (16, [0, 255, 0], [0, 0, 255], 1.0),
            (16, [100, 100, 100], [110, 110, 110], 0.153475389),
            (16, [100, 100, 100], [101, 100, 100], 0.022639681),
            (16, [30, 60, 200], [30, 60, 90], 0.666602969),
            (1, [200, 30, 90], [10, 240, 77], 0.982447803),
        ];
        let pictures = pictures.map(|(w, h, a, b, expected)| (picture(w, h, a), picture(w, h, b), expected, 4e-7));
        // On a flat picture the evaluator's edge and point filters leave f32 rounding, 1e-7, where the sum is 0; its
        // square root makes that a feature difference of up to 3e-4
        let flats = flats.map(|(side, a, b, expected)| (flat(side, a), flat(side, b), expected, 7e-5));
        for (a, b, expected, tolerance) in pictures.into_iter().chain(flats) {
            let found = flip(&a, &b);
            assert!((found - expected).abs() < tolerance, "{} x {}: {found}, not {expected}", a.width, a.height);
        }
    }

    #[test]
    fn every_frame_counts_alone_and_equal_ones_give_zero() {
        let (mut a, mut b) = (flat(16, [0; 3]), picture(16, 16, [0, 60, 1]));
        let alone = flip(&a, &b);
        a.rgb.extend(&b.rgb);
        b.rgb.extend_from_within(..);
        assert_eq!(flip_frames(&a, &b), [alone, 0.0]);
        assert_eq!(flip(&a, &b), alone / 2.0);
        assert_eq!(flip(&b, &b), 0.0);
    }

    #[test]
    #[should_panic(expected = "videos of different [T, H, W]")]
    fn sizes_must_agree() {
        flip(&flat(2, [0; 3]), &flat(3, [0; 3]));
    }
}
