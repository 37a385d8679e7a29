//! Normalisations by their definitions: mean, then squared deviations around it.

use super::activation::{SLOPE, silu, silu_error};
use super::{Expected, Real, U};

/// Shift and scale of a layer norm: row r uses vector r / rows of `table` `[vectors, stride]`.
pub struct Modulate<'a> {
    pub table: &'a [f32],
    pub stride: usize,
    pub shift_at: usize,
    pub scale_at: usize,
    pub rows: usize,
}

impl Modulate<'_> {
    fn pair(&self, row: usize, e: usize) -> (f32, f32) {
        let at = row / self.rows * self.stride + e;
        (self.table[at + self.shift_at], self.table[at + self.scale_at])
    }
}

fn moments<F: Real>(x: impl Iterator<Item = f32> + Clone) -> (F, F) {
    let n = F::count(x.clone().count());
    let mut sum = F::of(0.0);
    for v in x.clone() {
        sum = sum + F::of(v);
    }
    let mean = sum / n;
    let mut square = F::of(0.0);
    for v in x {
        square = square + (F::of(v) - mean) * (F::of(v) - mean);
    }
    (mean, square / n)
}

/// (x − mean) / √(var + eps) over rows of c, then · (1 + scale) + shift.
fn layer_of<F: Real>(x: &[f32], c: usize, eps: f32, modulate: Option<&Modulate<'_>>) -> Vec<F> {
    let mut out = Vec::with_capacity(x.len());
    for (r, row) in x.chunks_exact(c).enumerate() {
        let (mean, variance) = moments::<F>(row.iter().copied());
        let deviation = (variance + F::of(eps)).sqrt();
        for (e, &v) in row.iter().enumerate() {
            let z = (F::of(v) - mean) / deviation;
            let (shift, scale) = modulate.map_or((0.0, 0.0), |m| m.pair(r, e));
            out.push(z * (F::of(1.0) + F::of(scale)) + F::of(shift));
        }
    }
    out
}

/// What is allowed beside twice the plain error. A row has but one mean, so the plain loop may be right by
/// luck: the error of the mean is allowed as that of a dot product, 4·√n·u·Σ|x|/n. Then the roundings of
/// `inverseSqrt` (2 ulp), of two products, and of the last sum.
fn floor(x: impl Iterator<Item = f32> + Clone, deviation: f64) -> impl Fn(f64, f64, f64) -> f64 {
    let n = x.clone().count() as f64;
    let mean = 4.0 * n.sqrt() * U * x.map(|v| f64::from(v.abs())).sum::<f64>() / n;
    move |gain, out, added| mean / deviation * gain.abs() + 8.0 * U * (out - added).abs() + U * out.abs()
}

pub fn layer(x: &[f32], c: usize, eps: f32, modulate: Option<&Modulate<'_>>) -> Expected {
    let truth = layer_of::<f64>(x, c, eps, modulate);
    let plain = layer_of::<f32>(x, c, eps, modulate);
    let mut floors = Vec::with_capacity(x.len());
    for (r, row) in x.chunks_exact(c).enumerate() {
        let (_, variance) = moments::<f64>(row.iter().copied());
        let floor = floor(row.iter().copied(), (variance + f64::from(eps)).sqrt());
        for e in 0..c {
            let (shift, scale) = modulate.map_or((0.0, 0.0), |m| m.pair(r, e));
            let (gain, added) = (1.0 + f64::from(scale), f64::from(shift));
            floors.push(floor(gain, truth[r * c + e], added));
        }
    }
    Expected::twice_plain(truth, &plain, &floors, |i| i / c)
}

/// x / √(mean x² + eps) · weight over rows of c.
fn rms_of<F: Real>(x: &[f32], weight: &[f32], eps: f32) -> Vec<F> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let mut square = F::of(0.0);
        for &v in row {
            square = square + F::of(v) * F::of(v);
        }
        let rms = (square / F::count(row.len()) + F::of(eps)).sqrt();
        out.extend(row.iter().zip(weight).map(|(&v, &w)| F::of(v) / rms * F::of(w)));
    }
    out
}

pub fn rms(x: &[f32], weight: &[f32], eps: f32) -> Expected {
    let truth = rms_of::<f64>(x, weight, eps);
    let floors: Vec<f64> = truth.iter().map(|r| 8.0 * U * r.abs()).collect();
    Expected::twice_plain(truth, &rms_of::<f32>(x, weight, eps), &floors, |i| i / weight.len())
}

/// Sizes of a group norm on `[images, positions, c]`.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub images: usize,
    pub positions: usize,
    pub c: usize,
    pub groups: usize,
    pub eps: f32,
}

impl Group {
    /// Index among `[images, groups]` of a number.
    fn of(&self, i: usize) -> usize {
        i / (self.positions * self.c) * self.groups + i % self.c / (self.c / self.groups)
    }

    /// The numbers of one group of one image.
    fn members<'a>(&self, x: &'a [f32], group: usize) -> impl Iterator<Item = f32> + Clone + use<'a> {
        let (c, wide) = (self.c, self.c / self.groups);
        let image = group / self.groups * self.positions * c;
        let channel = group % self.groups * wide;
        (0..self.positions).flat_map(move |p| x[image + p * c + channel..][..wide].iter().copied())
    }
}

fn group_of<F: Real>(x: &[f32], g: &Group, weight: &[f32], bias: &[f32]) -> Vec<F> {
    let stats: Vec<(F, F)> = (0..g.images * g.groups)
        .map(|group| {
            let (mean, variance) = moments::<F>(g.members(x, group));
            (mean, (variance + F::of(g.eps)).sqrt())
        })
        .collect();
    let mut out = Vec::with_capacity(x.len());
    for (i, &v) in x.iter().enumerate() {
        let (mean, deviation) = stats[g.of(i)];
        out.push((F::of(v) - mean) / deviation * F::of(weight[i % g.c]) + F::of(bias[i % g.c]));
    }
    out
}

pub fn group(x: &[f32], g: &Group, weight: &[f32], bias: &[f32], then_silu: bool) -> Expected {
    let truth = group_of::<f64>(x, g, weight, bias);
    let plain = group_of::<f32>(x, g, weight, bias);
    let floor_of: Vec<_> = (0..g.images * g.groups)
        .map(|group| {
            let (_, variance) = moments::<f64>(g.members(x, group));
            floor(g.members(x, group), (variance + f64::from(g.eps)).sqrt())
        })
        .collect();
    let floors: Vec<f64> = (0..x.len())
        .map(|i| floor_of[g.of(i)](f64::from(weight[i % g.c]), truth[i], f64::from(bias[i % g.c])))
        .collect();
    let mut expected = Expected::twice_plain(truth, &plain, &floors, |i| g.of(i));
    if then_silu {
        for (v, off) in expected.values.iter_mut().zip(&mut expected.bounds) {
            (*v, *off) = (silu(*v), SLOPE * *off + silu_error(*v));
        }
    }
    expected
}
