// out: packed halves, a pair or a four at a time.
@group(0) @binding(10) var<storage, read_write> out: array<Halves>;
fn store(i: u32, v: Num) { out[i] = halves(v); }
