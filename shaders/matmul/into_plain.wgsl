// out = value
fn combine(row: u32, column: u32, v: f32) -> f32 { return v; }
