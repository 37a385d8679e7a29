//! Sums over whole tensors.

use super::{Expected, Sum};

/// Σ|x − y|ᵖ, Σ|x|ᵖ, Σ|y|ᵖ and a zero over the pairs given.
pub fn difference(pairs: impl Iterator<Item = (f32, f32)>, power: i32) -> Expected {
    let mut sums = [Sum::default(); 3];
    let mut count = 0;
    for (a, b) in pairs {
        let (a, b) = (f64::from(a), f64::from(b));
        sums[0].add((a - b).abs().powi(power));
        sums[1].add(a.abs().powi(power));
        sums[2].add(b.abs().powi(power));
        count += 1;
    }
    let mut expected = Expected::default();
    sums.iter().for_each(|s| expected.push(s.value, s.bound(count)));
    expected.push(0.0, 0.0);
    expected
}
