// out = gate · value, one gate vector for every `gate_rows` rows
@group(0) @binding(5) var<storage, read> gate: array<f32>;
fn combine(row: u32, column: u32, v: f32) -> f32 {
    return gate[row / p.gate_rows * p.gate_stride + p.gate_at + column] * v;
}
