// norm: none.
fn norm_scale(row: u32, head: u32) -> f32 { return 1.0; }
fn normed(row: u32, head: u32, e: u32, scale: f32) -> f32 { return element(row, head, e); }
