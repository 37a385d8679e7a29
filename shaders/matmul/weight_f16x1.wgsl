// weight: [n, k] in packed halves, any k: rows may start in the middle of a word.

@group(0) @binding(2) var<storage, read> w: array<u32>;

fn weight1(column: u32, k: u32) -> f32 {
    let e = column * p.k + min(k, p.k - 1u);
    let pair = unpack2x16float(w[e / 2u]);
    return select(0.0, select(pair.x, pair.y, e % 2u == 1u), k < p.k);
}
fn weight4(column: u32, k4: u32) -> vec4<f32> {
    let k = k4 * 4u;
    return vec4<f32>(weight1(column, k), weight1(column, k + 1u), weight1(column, k + 2u), weight1(column, k + 3u));
}
