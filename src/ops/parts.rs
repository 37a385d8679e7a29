//! Launches over more than one binding holds, or longer than a driver lets a submission run, in parts.

use std::ops::Range;

use crate::gpu::Gpu;
use crate::tensor::Tensor;

/// Offsets of bindings are multiples of this many bytes on every adapter.
const ALIGNED: usize = 256;
/// No launch is expected to take longer than this many seconds.
pub(super) const LONGEST: f64 = 1.0;

/// How a launch over `rows` equal pieces of some tensors may be cut: into ranges of rows, each of which is small
/// enough and starts where a binding may. Results do not depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    rows: usize,
    /// Rows that share something; a range is a number of such groups, or lies inside one.
    group: usize,
    /// Ranges start at multiples of this.
    grain: usize,
    /// Bytes of a row in the tensor that has most of them.
    bytes: usize,
    flops: f64,
}

impl Parts {
    pub(crate) fn of(rows: usize) -> Self {
        Self { rows, group: 1, grain: 1, bytes: 1, flops: 0.0 }
    }

    /// `count` neighbouring rows share something of their own.
    pub(crate) fn groups_of(self, count: usize) -> Self {
        Self { group: lcm(self.group, count.max(1)), ..self }
    }

    /// Ranges start at multiples of `rows`.
    pub(crate) fn grain(self, rows: usize) -> Self {
        Self { grain: lcm(self.grain, rows.max(1)), ..self }
    }

    /// The launch binds its share of this.
    pub(crate) fn sharing(self, x: &Tensor) -> Self {
        let bytes = x.count() * x.dtype().size();
        self.sharing_bytes(bytes / self.rows.max(1))
    }

    /// The launch binds something that has so many bytes for each row.
    pub(crate) fn sharing_bytes(self, each: usize) -> Self {
        let grain = lcm(self.grain, aligned(each));
        Self { grain, bytes: self.bytes.max(each), ..self }
    }

    /// What all rows together cost.
    pub(crate) fn flops(self, flops: f64) -> Self {
        Self { flops, ..self }
    }

    /// The ranges, in order; one if everything fits. Where even the smallest possible are too large, the launch finds out.
    pub(crate) fn cut(&self, gpu: &Gpu) -> Vec<Range<usize>> {
        let most = self.most(gpu);
        self.ranges(most)
    }

    /// Rows that one launch may have.
    fn most(&self, gpu: &Gpu) -> usize {
        let room = gpu.largest_tensor() as usize / self.bytes;
        let rows = self.rows.max(1) as f64;
        let each = gpu.expected(self.flops / rows, self.bytes as f64);
        room.min((LONGEST / each.max(1e-12)) as usize).max(1)
    }

    /// The ranges if no launch may have more than `most` rows.
    pub(crate) fn ranges(&self, most: usize) -> Vec<Range<usize>> {
        if self.rows <= most {
            return std::iter::once(0..self.rows).collect();
        }
        let cut = |from: usize, to: usize, step: usize| (from..to).step_by(step).map(move |at| at..(at + step).min(to));
        let whole = lcm(self.group, self.grain);
        // the first group starts at 0; others where a binding may only if all are made of whole grains
        let inside = self.group >= self.rows || self.group.is_multiple_of(self.grain);
        if most < whole && self.group > self.grain && inside {
            let step = (most / self.grain * self.grain).max(self.grain);
            return cut(0, self.rows, self.group).flat_map(|group| cut(group.start, group.end, step)).collect();
        }
        cut(0, self.rows, (most / whole * whole).max(whole)).collect()
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How many pieces of so many bytes it takes until one starts where a binding may.
pub(super) fn aligned(bytes: usize) -> usize {
    ALIGNED / gcd(bytes.max(1), ALIGNED)
}

fn lcm(a: usize, b: usize) -> usize {
    a / gcd(a, b) * b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_every_row_once_and_start_where_they_may() {
        for rows in [1, 7, 64, 96, 100, 240] {
            for group in [1, 8, 24, 48, 120] {
                for bytes in [4, 96, 256, 4608] {
                    let parts = Parts::of(rows).groups_of(group).sharing_bytes(bytes);
                    for most in [1, 5, 16, 64, 1000] {
                        let ranges = parts.ranges(most);
                        let mut at = 0;
                        for range in &ranges {
                            assert_eq!(range.start, at);
                            assert!(!range.is_empty() && range.start * bytes % ALIGNED == 0);
                            let (first, last) = (range.start / group, (range.end - 1) / group);
                            assert!(first == last || range.start % group == 0, "{range:?} of groups of {group}");
                            at = range.end;
                        }
                        assert_eq!(at, rows);
                    }
                }
            }
        }
    }

    #[test]
    fn parts_are_as_large_as_allowed() {
        let ranges = |parts: Parts, most| parts.ranges(most);
        assert_eq!(ranges(Parts::of(100), 100).len(), 1);
        assert_eq!(ranges(Parts::of(100), 40), [0..40, 40..80, 80..100]);
        // rows of 96 bytes start at multiples of 256 every 8
        assert_eq!(ranges(Parts::of(24).sharing_bytes(96), 15), [0..8, 8..16, 16..24]);
        // whole groups, or parts of one
        assert_eq!(ranges(Parts::of(48).groups_of(16), 40), [0..32, 32..48]);
        assert_eq!(ranges(Parts::of(32).groups_of(16), 10), [0..10, 10..16, 16..26, 26..32]);
    }
}
