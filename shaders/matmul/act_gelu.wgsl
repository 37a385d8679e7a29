// activation: GELU, tanh form.
// use lib/activation
fn activate(v: f32) -> f32 { return gelu_tanh(v); }
