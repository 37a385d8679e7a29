// The tail of a matmul, on each sum while it is still in a register.
// Links: `bias_at`, `activate`, `combine`.

fn finish(row: u32, column: u32, sum: f32) {
    combine(row, column, activate(sum + bias_at(column)));
}
