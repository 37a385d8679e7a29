// bias: none.
fn bias_at(column: u32) -> f32 { return 0.0; }
