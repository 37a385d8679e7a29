// activation: SiLU.
// use lib/activation
fn activate(v: f32) -> f32 { return silu_of(v); }
