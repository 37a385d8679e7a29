//! Taking a projection apart into heads: `attention/split`.

use residua::gpu::{DType, Gpu};
use residua::ops::{self, Sequences};
use residua::tensor::Tensor;

use super::device::{kept, on_each_type, operands};
use super::judge::{Judge, same_bits};
use super::random::Random;
use super::reference::Expected;
use super::reference::heads::{Split, floor, split};

/// `[.., d]` → `[.., padded]`, zeros behind.
pub fn padded(gpu: &Gpu, dense: &[f32], d: usize) -> Vec<f32> {
    let wide = ops::padded_head(gpu, d);
    dense.chunks_exact(d).flat_map(|head| head.iter().copied().chain(std::iter::repeat_n(0.0, wide - d))).collect()
}

/// cos and sin of place / 100^(2j/d), `[len, d/2, 2]`, as a host computes them.
pub fn angles(len: usize, d: usize) -> Vec<f32> {
    let angle = |place: usize, j: usize| place as f64 / 100f64.powf(2.0 * j as f64 / d as f64);
    (0..len).flat_map(|p| (0..d / 2).flat_map(move |j| [angle(p, j).cos() as f32, angle(p, j).sin() as f32])).collect()
}

/// A random part of a random projection for heads of `d`.
pub fn random_split(random: &mut Random, d: usize, len: usize) -> Split {
    let (inner, outer) = (random.pick(&[1, 1, 3, 5]), random.pick(&[1, 2]));
    let (heads, parts) = (random.pick(&[1, 2, 3]), random.pick(&[1, 2, 3]));
    let part = heads * d;
    Split { rows: outer * len * inner, width: parts * part, first: random.below(parts) * part, heads, d, len, inner }
}

#[test]
fn parts_of_a_projection() {
    on_each_type("split_heads", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "split_heads"), Random::new("split_heads"));
        for d in [1, 2, 3, 6, 8, 24, 64, 72, 128, 132, 256] {
            for (norm, rotary) in [(false, false), (true, false), (false, true), (true, true)] {
                if rotary && d % 2 == 1 {
                    continue;
                }
                for len in [1, 15, 37] {
                    let s = random_split(&mut random, d, len);
                    let kept_x = random.below(2) == 1;
                    // all that is behind the first part comes along, as in one pass over q, k and v
                    let count = (s.width - s.first) / (s.heads * d);
                    let norms = if norm { random.pick(&[1, 2]).min(count) } else { 0 };
                    let numbers = random.numbers(s.rows * s.width);
                    let numbers = if kept_x { kept(gpu, numbers) } else { numbers };
                    let weights: Vec<Vec<f32>> = (0..norms).map(|_| random.numbers(d)).collect();
                    let angles = angles(len + 2, d);
                    let shape = [s.rows, s.width];
                    let x = if kept_x { operands(gpu, &numbers, shape) } else { gpu.upload(&numbers, shape) };
                    let weights_on: Vec<Tensor> = weights.iter().map(|w| gpu.upload(w, [d])).collect();
                    let angles_on = rotary.then(|| gpu.upload(&angles, [len + 2, d / 2, 2]));
                    for i in 0..count {
                        let part = Split { first: s.first + i * s.heads * d, ..s };
                        let weight = weights.get(i).map(|w| &w[..]);
                        let turns = (rotary && i < 2).then_some(&angles[..]);
                        let expected = expected(gpu, &numbers, &part, weight, turns, kept_x);
                        let launch = || {
                            let norms: Vec<&Tensor> = weights_on.iter().collect();
                            let (at, heads, seq) =
                                (s.first / (s.heads * d), [s.heads, d], Sequences { len, inner: s.inner });
                            let turns = angles_on.as_ref();
                            match count {
                                1 => ops::split_heads::<1>(&x, at, heads, seq, &norms, turns)[i].clone(),
                                2 => ops::split_heads::<2>(&x, at, heads, seq, &norms, turns)[i].clone(),
                                _ => ops::split_heads::<3>(&x, at, heads, seq, &norms, turns)[i].clone(),
                            }
                        };
                        let name = format!("{s:?}, part {i}, {norms} norms, rotary {rotary}, x {:?}", x.dtype());
                        judge.case(name, launch, &expected);
                    }
                }
            }
        }
        judge.finish();
    });
}

fn expected(gpu: &Gpu, x: &[f32], s: &Split, weight: Option<&[f32]>, angles: Option<&[f32]>, kept_x: bool) -> Expected {
    let (norm, rotary) = (weight.is_some(), angles.is_some());
    let truth = split::<f64>(x, s, weight, angles);
    let plain = split::<f32>(x, s, weight, angles);
    let dense = match norm || rotary {
        true => Expected::twice_plain(truth.clone(), &plain, &floor(&truth, norm, rotary), |i| i / s.d),
        false => Expected::exactly(plain),
    };
    // moved halves arrive as they are
    let moved = kept_x && !norm && !rotary;
    let dense = if gpu.operands() == DType::F16 && !moved { dense.in_halves() } else { dense };
    let mut expected = Expected::default();
    for (values, bounds) in dense.values.chunks_exact(s.d).zip(dense.bounds.chunks_exact(s.d)) {
        values.iter().zip(bounds).for_each(|(&v, &b)| expected.push(v, b));
        (s.d..ops::padded_head(gpu, s.d)).for_each(|_| expected.push(0.0, 0.0));
    }
    expected
}

/// A caption without a token has no heads, and that is no reason to stop.
#[test]
fn no_rows() {
    on_each_type("split_heads", |gpu| {
        let x = gpu.upload(&[], [0, 12]);
        let [out] = ops::split_heads(&x, 0, [2, 6], Sequences { len: 1, inner: 1 }, &[], None);
        assert_eq!(out.dims(), [0, 2, 1, ops::padded_head(gpu, 6)]);
        same_bits("no rows", &out, &[]);
    });
}
