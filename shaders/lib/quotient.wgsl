// a / b for a < 2²¹, b > 0. Integer division is a loop over the lanes on a CPU and some twenty instructions on a GPU.
// Exact: (a + ½) / b keeps at least ½ / b away from every integer, and rounding moves it by less than a / b · 2⁻²².
fn quotient(a: u32, b: u32) -> u32 { return u32((f32(a) + 0.5) / f32(b)); }
