// out: f32.
@group(0) @binding(10) var<storage, read_write> out: array<Num>;
fn store(i: u32, v: Num) { out[i] = v; }
