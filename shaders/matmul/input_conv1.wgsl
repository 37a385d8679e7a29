// input: the patches of a convolution (see conv_at), any number of channels.
// use matmul/conv_at

@group(0) @binding(1) var<storage, read> x: array<f32>;

fn column_at(k4: u32) -> u32 { return k4 * 4u; }

fn one(row: RowAt, k: u32) -> f32 {
    let column = tap_at(min(k, p.k - 1u));
    let at = position(row, column);
    return select(0.0, x[u32(max(at, 0)) * p.in_c + column.c], at >= 0 && k < p.k);
}

fn input4(row: RowAt, k: u32) -> vec4<f32> {
    return vec4<f32>(one(row, k), one(row, k + 1u), one(row, k + 2u), one(row, k + 3u));
}
