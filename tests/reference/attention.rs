//! softmax(scale · q·kᵀ + bias) · v by its definition: all scores first, then all weights.

use super::{Real, STEP_HALF, U, U_HALF};

/// q `[problems, heads, queries, d]`; k, v `[problems, heads, keys, d]`, or `[1, heads, keys, d]` with `spans`.
pub struct Attention<'a, F> {
    pub q: &'a [F],
    pub k: &'a [F],
    pub v: &'a [F],
    pub problems: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub d: usize,
    /// Sequences interleaved row by row in the output.
    pub inner: usize,
    /// First key and count of each problem.
    pub spans: Option<&'a [(usize, usize)]>,
    /// `[heads, 2·queries − 1]`, added by key − query.
    pub relative: Option<&'a [f32]>,
    pub scale: f32,
}

impl<F: Real> Attention<'_, F> {
    /// Output `[rows, heads·d]`, row by row of the interleaved sequences.
    pub fn out(&self) -> Vec<F> {
        let mut out = vec![F::of(0.0); self.problems * self.queries * self.heads * self.d];
        self.each_query(|problem, head, query| {
            let (scores, values) = self.scores(problem, head, query);
            let Some(top) = largest(&scores) else { return };
            let weights: Vec<F> = scores.iter().map(|&s| (s - top).exp()).collect();
            let mut total = F::of(0.0);
            for &w in &weights {
                total = total + w;
            }
            for e in 0..self.d {
                let mut sum = F::of(0.0);
                for (j, &w) in weights.iter().enumerate() {
                    sum = sum + w * self.v[values + j * self.d + e];
                }
                out[self.place(problem, head, query) + e] = sum / total;
            }
        });
        out
    }

    fn each_query(&self, mut what: impl FnMut(usize, usize, usize)) {
        for problem in 0..self.problems {
            for head in 0..self.heads {
                for query in 0..self.queries {
                    what(problem, head, query);
                }
            }
        }
    }

    fn place(&self, problem: usize, head: usize, query: usize) -> usize {
        let row = (problem / self.inner * self.queries + query) * self.inner + problem % self.inner;
        (row * self.heads + head) * self.d
    }

    /// Scores of the keys a query sees, and where their values begin.
    fn scores(&self, problem: usize, head: usize, query: usize) -> (Vec<F>, usize) {
        let (first, count) = self.spans.map_or((0, self.keys), |s| s[problem]);
        let sequence = if self.spans.is_some() { head } else { problem * self.heads + head };
        let at = (sequence * self.keys + first) * self.d;
        let q = ((problem * self.heads + head) * self.queries + query) * self.d;
        let scores = (0..count)
            .map(|j| {
                let mut s = F::of(0.0);
                for e in 0..self.d {
                    s = s + self.q[q + e] * self.k[at + j * self.d + e];
                }
                s * F::of(self.scale) + F::of(self.bias(head, query, j))
            })
            .collect();
        (scores, at)
    }

    fn bias(&self, head: usize, query: usize, key: usize) -> f32 {
        self.relative.map_or(0.0, |r| r[head * (2 * self.queries - 1) + self.queries - 1 + key - query])
    }
}

/// None if there is no key, or none that is not −∞.
fn largest<F: Real>(scores: &[F]) -> Option<F> {
    let top = scores.iter().copied().fold(F::of(f32::NEG_INFINITY), |a, b| if b > a { b } else { a });
    (top > F::of(f32::NEG_INFINITY)).then_some(top)
}

impl Attention<'_, f64> {
    /// What is allowed beside twice the plain error: a weight's error is that of its score (the product
    /// scaled, rounded at the size of its terms) and WGSL's 3 + 2·|t| ulp of `exp`, once for the weight and
    /// once for every later move of the online maximum; weights act on |v| above and on |out| below the line.
    /// Matrix units take weights in halves (`halved`), relative to a maximum that is never above the true one and at
    /// most e^5.5 below: each is off by u of a half, or by half of its smallest step where the sum is at least 1.
    pub fn floor(&self, out: &[f64], halved: bool) -> Vec<f64> {
        let mut floor = vec![0.0; out.len()];
        self.each_query(|problem, head, query| {
            let (scores, values) = self.scores(problem, head, query);
            let Some(top) = largest(&scores) else { return };
            let q = ((problem * self.heads + head) * self.queries + query) * self.d;
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            // walk backwards: how often the running maximum still moves after key j
            let mut moves = vec![0.0; scores.len()];
            let mut best = f64::NEG_INFINITY;
            let rises: Vec<bool> = scores
                .iter()
                .map(|&s| {
                    s > best && {
                        best = s;
                        true
                    }
                })
                .collect();
            for j in (1..scores.len()).rev() {
                moves[j - 1] = moves[j] + f64::from(u8::from(rises[j]));
            }
            for (j, &s) in scores.iter().enumerate() {
                let weight = (s - top).exp() / total;
                if halved && s > f64::NEG_INFINITY {
                    for e in 0..self.d {
                        let i = self.place(problem, head, query) + e;
                        floor[i] += (U_HALF * weight + STEP_HALF) * self.v[values + j * self.d + e].abs();
                    }
                }
                if weight == 0.0 {
                    continue;
                }
                let at = values + j * self.d;
                let terms: f64 = (0..self.d).map(|e| (self.q[q + e] * self.k[at + e]).abs()).sum();
                let score = 2.0 * U * (terms * f64::from(self.scale) + f64::from(self.bias(head, query, j)).abs());
                let exp = 2.0 * U * (3.0 * (1.0 + moves[j]) + 2.0 * (top - s));
                for e in 0..self.d {
                    let i = self.place(problem, head, query) + e;
                    floor[i] += weight * (score + exp) * (self.v[at + e].abs() + out[i].abs());
                    floor[i] += 4.0 * U * weight * self.v[at + e].abs();
                }
            }
        });
        floor
    }
}
