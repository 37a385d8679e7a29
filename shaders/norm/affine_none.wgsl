// affine: none.
fn vector_of(row: u32) -> u32 { return 0u; }
fn affine(vector: u32, e: u32, value: Num) -> Num { return value; }
