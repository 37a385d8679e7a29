// The tail of a matmul, on two neighbouring sums (an even column first) while they are still in registers.
// Links: `bias_at`, `activate`, `combine`, `store2`.

fn finish2(row: u32, column: u32, sums: vec2<f32>) {
    let two = column + 1u < p.n;
    let second = select(column, column + 1u, two);
    let value = vec2<f32>(
        combine(row, column, activate(sums.x + bias_at(column))),
        combine(row, second, activate(sums.y + bias_at(second))),
    );
    store2(row, column, value, two);
}
