// bias: one number a column.
@group(0) @binding(3) var<storage, read> bias: array<f32>;
fn bias_at(column: u32) -> f32 { return bias[column]; }
