//! The nonlinearities, and what WGSL's stated error of `exp` and of division lets them be off.

use super::{Real, U};

/// x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))); with tanh(u) = 1 − 2/(1 + e^(2u)) that is x / (1 + e^(−2u)).
pub fn gelu_tanh(x: f64) -> f64 {
    x / (1.0 + (-2.0 * gelu_exponent(x)).exp())
}

fn gelu_exponent(x: f64) -> f64 {
    (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)
}

/// x / (1 + e^(−x))
pub fn silu<F: Real>(x: F) -> F {
    x / (F::of(1.0) + (F::of(0.0) - x).exp())
}

/// Steepest slope of gelu and of silu (1.129 and 1.0998): how an error of the argument grows.
pub const SLOPE: f64 = 1.13;

/// Error of x / (1 + e^t) in f32 beyond that of x: `exp` is good to 3 + 2·|t| ulp, t itself to `steps`
/// roundings, the sum to one and the quotient to 2.5 ulp. Past 80 the kernels cut the exponent off, which
/// leaves |x|·e^(−80): under 10⁻³⁰ for any activation of a network, some 10³ for the least numbers of f32.
fn quotient(x: f64, t: f64, steps: f64) -> f64 {
    let t = t.clamp(-1e4, 80.0);
    let share = t.exp() / (1.0 + t.exp()); // how much of the denominator is e^t
    let relative = (2.0 * (3.0 + 2.0 * t.abs()) + steps * t.abs()) * share + 6.0;
    let value = x.abs() / (1.0 + t.exp());
    value * relative * U + x.abs() * (-80.0f64).exp()
}

pub fn gelu_error(x: f64) -> f64 {
    quotient(x, -2.0 * gelu_exponent(x), 6.0)
}

pub fn silu_error(x: f64) -> f64 {
    quotient(x, -x, 0.0)
}
