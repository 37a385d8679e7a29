//! One part of a projection taken apart into heads.

use super::{Real, U};

/// Where a part lies in the rows of a projection, and how rows form sequences.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    pub rows: usize,
    pub width: usize,
    pub first: usize,
    pub heads: usize,
    pub d: usize,
    pub len: usize,
    pub inner: usize,
}

/// x `[rows, width]` → `[problem, head, place, d]`, with RMS norm over a head (eps 1e-6) and rotary on
/// interleaved pairs (angles `[place, d/2]` as cos, sin) where given.
pub fn split<F: Real>(x: &[f32], s: &Split, weight: Option<&[f32]>, angles: Option<&[f32]>) -> Vec<F> {
    let problems = s.rows / s.len;
    let mut out = Vec::with_capacity(s.rows * s.heads * s.d);
    for problem in 0..problems {
        for head in 0..s.heads {
            for place in 0..s.len {
                let row = (problem / s.inner * s.len + place) * s.inner + problem % s.inner;
                let at = row * s.width + s.first + head * s.d;
                let mut z: Vec<F> = x[at..at + s.d].iter().map(|&v| F::of(v)).collect();
                if let Some(weight) = weight {
                    let mut square = F::of(0.0);
                    for &v in &z {
                        square = square + v * v;
                    }
                    let rms = (square / F::count(s.d) + F::of(1e-6)).sqrt();
                    for (v, &w) in z.iter_mut().zip(weight) {
                        *v = *v / rms * F::of(w);
                    }
                }
                if let Some(angles) = angles {
                    for j in 0..s.d / 2 {
                        let (cos, sin) = (F::of(angles[place * s.d + 2 * j]), F::of(angles[place * s.d + 2 * j + 1]));
                        let (a, b) = (z[2 * j], z[2 * j + 1]);
                        (z[2 * j], z[2 * j + 1]) = (a * cos - b * sin, b * cos + a * sin);
                    }
                }
                out.extend(z);
            }
        }
    }
    out
}

/// The roundings no implementation gets around, for `split` with d numbers a head: `inverseSqrt` (2 ulp),
/// two products, the mean and its eps (half of 2 roundings), and rotary's two products and sum on top, of a
/// pair as long as the two numbers together.
pub fn floor(split: &[f64], norm: bool, rotary: bool) -> Vec<f64> {
    let length = |i: usize| match rotary {
        true => split[i / 2 * 2].hypot(split[i / 2 * 2 + 1]),
        false => split[i].abs(),
    };
    let steps = f64::from(u8::from(norm)) * 8.0 + f64::from(u8::from(rotary)) * 4.0;
    (0..split.len()).map(|i| steps * U * length(i)).collect()
}
