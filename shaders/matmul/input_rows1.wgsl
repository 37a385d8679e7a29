// input: a dense matrix [m, k] of f32, any k.

@group(0) @binding(1) var<storage, read> x: array<f32>;

fn row_at(row: u32) -> u32 { return row * p.k; }
fn column_at(k4: u32) -> u32 { return k4 * 4u; }
fn one(row: u32, k: u32) -> f32 { return select(0.0, x[row + min(k, p.k - 1u)], k < p.k); }
fn input4(row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(one(row, k), one(row, k + 1u), one(row, k + 2u), one(row, k + 3u));
}
