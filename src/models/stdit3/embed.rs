//! Positions, timesteps and rotary angles: computed in f64 on the host, because shader `sin` and `cos` are
//! not specified as far out as a timestep of 1000 reaches.

pub use crate::nn::{SINUSOID, sinusoid};

/// The spatial position table `[h·w, width]`, added to every frame: the column's sinusoids first, then the row's.
/// `height` and `width_px` are the video's pixels, `square` the side at which positions have unit spacing.
///
/// Source: `PositionEmbedding2D` in opensora/models/layers/blocks.py at tag v1.2.0.
pub fn positions([h, w]: [usize; 2], [height, width_px]: [f64; 2], square: usize, width: usize) -> Vec<f32> {
    let scale = (height * width_px).sqrt() / square as f64;
    let base = ((h * w) as f64).sqrt().round_ties_even();
    let quarter = width / 4;
    let inverse: Vec<f64> = (0..quarter).map(|j| 10_000f64.powf(-(2.0 * j as f64) / (width as f64 / 2.0))).collect();
    let sinusoids = |count: usize| -> Vec<Vec<f32>> {
        (0..count)
            .map(|i| {
                let place = i as f64 / scale * (base / count as f64);
                let sines = inverse.iter().map(|f| (place * f).sin() as f32);
                sines.chain(inverse.iter().map(|f| (place * f).cos() as f32)).collect()
            })
            .collect()
    };
    let (columns, rows) = (sinusoids(w), sinusoids(h));
    rows.iter().flat_map(|row| columns.iter().flat_map(move |column| column.iter().chain(row).copied())).collect()
}

/// (cos, sin) of place · frequency: `[places, frequencies, 2]`.
pub fn rotary(places: usize, frequencies: &[f32]) -> Vec<f32> {
    (0..places)
        .flat_map(|p| {
            frequencies.iter().flat_map(move |&f| {
                let angle = p as f64 * f64::from(f);
                [angle.cos() as f32, angle.sin() as f32]
            })
        })
        .collect()
}

/// 10000^(−2j/d), for checkpoints that do not store `rope.freqs`.
pub fn rotary_frequencies(d: usize) -> Vec<f32> {
    (0..d / 2).map(|j| 10_000f64.powf(-(2.0 * j as f64) / d as f64) as f32).collect()
}
