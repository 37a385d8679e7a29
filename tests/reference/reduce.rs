//! Sums over whole tensors.

use super::{Expected, Sum};

/// Σ|x − y|, Σ|x|, Σ|y| and a zero over the pairs given.
pub fn difference(pairs: impl Iterator<Item = (f32, f32)>) -> Expected {
    let mut sums = [Sum::default(); 3];
    let mut count = 0;
    for (a, b) in pairs {
        let (a, b) = (f64::from(a), f64::from(b));
        sums[0].add((a - b).abs());
        sums[1].add(a.abs());
        sums[2].add(b.abs());
        count += 1;
    }
    let mut expected = Expected::default();
    sums.iter().for_each(|s| expected.push(s.value, s.bound(count)));
    expected.push(0.0, 0.0);
    expected
}
