// weight: [n, k] in f32, any k. Values past the row meet an input of zero, but must be finite: they are zero.

@group(0) @binding(2) var<storage, read> w: array<f32>;

fn weight1(column: u32, k: u32) -> f32 { return select(0.0, w[column * p.k + min(k, p.k - 1u)], k < p.k); }
fn weight4(column: u32, k4: u32) -> vec4<f32> {
    let k = k4 * 4u;
    return vec4<f32>(weight1(column, k), weight1(column, k + 1u), weight1(column, k + 2u), weight1(column, k + 3u));
}
