// y: repeated along the outer axes of x.
@group(0) @binding(2) var<storage, read> y: array<Num>;
fn y_at(i: u32) -> Num { return y[i % p.period]; }
