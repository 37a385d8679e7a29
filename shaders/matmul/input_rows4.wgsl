// input: a dense matrix [m, k] of f32 with k a multiple of 4.

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

fn row_at(row: u32) -> u32 { return row * p.k4; }
fn column_at(k4: u32) -> u32 { return k4; }
fn input4(row: u32, k4: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), x[row + min(k4, p.k4 - 1u)], k4 < p.k4);
}
