// input: the patches of a convolution (see conv_at), channels a multiple of 4.
// use matmul/conv_at

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;

fn column_at(k4: u32) -> ColumnAt {
    var at = tap_at(min(k4, p.k4 - 1u) * 4u);
    if (k4 >= p.k4) { at.t = -0x10000000; } // far outside: reads zero
    return at;
}

fn input4(row: RowAt, column: ColumnAt) -> vec4<f32> {
    let at = position(row, column);
    return select(vec4<f32>(0.0), x[(u32(max(at, 0)) * p.in_c + column.c) / 4u], at >= 0);
}
