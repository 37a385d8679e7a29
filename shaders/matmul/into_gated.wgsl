// out = gate · value, one gate vector for every `gate_rows` rows
@group(0) @binding(5) var<storage, read> gate: array<f32>;
@group(0) @binding(10) var<storage, read_write> out: array<f32>;
fn combine(row: u32, column: u32, v: f32) {
    out[row * p.n + column] = gate[row / p.gate_rows * p.gate_stride + p.gate_at + column] * v;
}
