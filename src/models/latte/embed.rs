//! Positions of patches and frames, computed on the host.

/// [sin(q·ω₀) … , cos(q·ω₀) …], ωₖ = 10000^(−k / (width/2)).
fn sinusoid(place: f64, width: usize) -> Vec<f32> {
    let half = width / 2;
    let angle = |k: usize| place * 10_000f64.powf(-(k as f64) / half as f64);
    (0..half).map(|k| angle(k).sin() as f32).chain((0..half).map(|k| angle(k).cos() as f32)).collect()
}

/// The spatial position table `[h·w, width]`, added to every frame: the column's sinusoids first, then the row's.
/// Whatever the grid, it is stretched over the extent of the native one, `sample / patch` patches a side.
///
/// Source: `get_2d_sincos_pos_embed` in src/diffusers/models/embeddings.py of diffusers at tag v0.30.0.
pub fn positions([h, w]: [usize; 2], sample: usize, patch: usize, width: usize) -> Vec<f32> {
    let base = sample / patch;
    let finer = (sample / 64).max(1) as f32;
    // upstream divides in f32, twice, in this order
    let along = |count: usize| -> Vec<Vec<f32>> {
        let stretch = (count as f64 / base as f64) as f32;
        (0..count).map(|i| sinusoid(f64::from(i as f32 / stretch / finer), width / 2)).collect()
    };
    let (columns, rows) = (along(w), along(h));
    rows.iter().flat_map(|row| columns.iter().flat_map(move |column| column.iter().chain(row).copied())).collect()
}

/// The position table of frames, `[count, width]`, numbered in steps of 1 / `scale`.
///
/// Source: `get_1d_sincos_pos_embed_from_grid`, same file; the scale is Open-Sora-Plan's.
pub fn frame_positions(count: usize, scale: f64, width: usize) -> Vec<f32> {
    // upstream divides in f32
    (0..count).flat_map(|frame| sinusoid(f64::from(frame as f32 / scale as f32), width)).collect()
}
