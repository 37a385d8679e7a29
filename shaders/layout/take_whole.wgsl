// take: neighbours that stay neighbours; strides count `Word`s.
@group(0) @binding(1) var<storage, read> x: array<Word>;
fn take(at: u32) -> Word { return x[at]; }
