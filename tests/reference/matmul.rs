//! A product with stored weights, and the tail of a layer.

use super::activation::{SLOPE, gelu_error, gelu_tanh, silu, silu_error};
use super::{Expected, Sum, U};

/// Σ_k x[m, k] · w[n, k] for every m, n.
pub fn linear(x: &[f32], w: &[f32], [m, n, k]: [usize; 3]) -> Vec<Sum> {
    let mut out = Vec::with_capacity(m * n);
    for row in 0..m {
        for column in 0..n {
            let mut sum = Sum::default();
            for i in 0..k {
                sum.add(f64::from(x[row * k + i]) * f64::from(w[column * k + i]));
            }
            out.push(sum);
        }
    }
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    Gelu,
    Silu,
}

/// `gate[row / rows, at + column]` of a table with rows of `stride`.
pub struct Gate<'a> {
    pub table: &'a [f32],
    pub stride: usize,
    pub at: usize,
    pub rows: usize,
}

/// What happens to a sum: v = then(sum + bias); v ← gate · v; then onto + v, or onto · v.
pub struct Tail<'a> {
    pub bias: Option<&'a [f32]>,
    pub then: Then,
    pub gate: Option<Gate<'a>>,
    pub plus: Option<&'a [f32]>,
    pub times: Option<&'a [f32]>,
}

/// The tail applied to sums of `k` terms `[rows, n]`, with the bound carried along to first order.
pub fn finish(sums: Vec<Sum>, n: usize, k: usize, tail: &Tail<'_>) -> Expected {
    let mut out = Expected::default();
    for (i, mut sum) in sums.into_iter().enumerate() {
        let (row, column) = (i / n, i % n);
        let mut terms = k;
        if let Some(bias) = tail.bias {
            sum.add(f64::from(bias[column]));
            terms += 1;
        }
        let (mut v, mut off) = (sum.value, sum.bound(terms));
        match tail.then {
            Then::Nothing => {}
            Then::Gelu => (v, off) = (gelu_tanh(v), SLOPE * off + gelu_error(v)),
            Then::Silu => (v, off) = (silu(v), SLOPE * off + silu_error(v)),
        }
        if let Some(gate) = &tail.gate {
            let g = f64::from(gate.table[row / gate.rows * gate.stride + gate.at + column]);
            (v, off) = (g * v, g.abs() * off + U * (g * v).abs());
        }
        if let Some(onto) = tail.plus {
            let sum = f64::from(onto[i]) + v;
            (v, off) = (sum, off + U * sum.abs());
        }
        if let Some(onto) = tail.times {
            let onto = f64::from(onto[i]);
            (v, off) = (onto * v, onto.abs() * off + U * (onto * v).abs());
        }
        out.push(v, off);
    }
    out
}
