// The nonlinearities of these networks, in f32.

// gelu(x) = x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³))), written as x / (1 + e^(−2u)): `tanh` itself gives
// NaN for large arguments on some drivers. The exponent is cut off where the quotient has long rounded to 0.
fn gelu_tanh(x: f32) -> f32 {
    let u = 0.7978845608028654 * (x + 0.044715 * x * x * x);
    return x / (1.0 + exp(min(-2.0 * u, 80.0)));
}

fn silu_of(x: f32) -> f32 {
    return x / (1.0 + exp(min(-x, 80.0)));
}
