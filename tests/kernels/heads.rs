//! Taking a projection apart into heads: `attention/split`.

use residua::ops::{self, Sequences};

use super::device::on_each;
use super::judge::{Judge, same_bits};
use super::random::Random;
use super::reference::Expected;
use super::reference::heads::{Split, floor, split};

/// `[.., d]` → `[.., padded]`, zeros behind.
pub fn padded(dense: &[f32], d: usize) -> Vec<f32> {
    let wide = ops::padded_head(d);
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
    let (heads, first) = (random.pick(&[1, 2, 3]), random.pick(&[0, 1, 7]));
    Split { rows: outer * len * inner, width: first + heads * d + random.below(3), first, heads, d, len, inner }
}

#[test]
fn parts_of_a_projection() {
    on_each("split_heads", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "split_heads"), Random::new("split_heads"));
        for d in [1, 2, 3, 6, 8, 24, 64, 72, 128, 132, 256] {
            for (norm, rotary) in [(false, false), (true, false), (false, true), (true, true)] {
                let unusual = norm != rotary && ![6, 8, 72].contains(&d); // one program less to compile
                if unusual || (rotary && d % 2 == 1) {
                    continue;
                }
                for len in [1, 15, 37] {
                    let s = random_split(&mut random, d, len);
                    let numbers = random.numbers(s.rows * s.width);
                    let (weight, angles) = (random.numbers(d), angles(len + 2, d));
                    let (weight, angles) = (norm.then_some(&weight[..]), rotary.then_some(&angles[..]));
                    let truth = split::<f64>(&numbers, &s, weight, angles);
                    let plain = split::<f32>(&numbers, &s, weight, angles);
                    let dense = match norm || rotary {
                        true => Expected::twice_plain(truth.clone(), &plain, &floor(&truth, norm, rotary), |i| i / d),
                        false => Expected::exactly(plain),
                    };
                    let mut expected = Expected::default();
                    for (values, bounds) in dense.values.chunks_exact(d).zip(dense.bounds.chunks_exact(d)) {
                        values.iter().zip(bounds).for_each(|(&v, &b)| expected.push(v, b));
                        (d..ops::padded_head(d)).for_each(|_| expected.push(0.0, 0.0));
                    }
                    let x = gpu.upload(&numbers, [s.rows, s.width]);
                    let weight = weight.map(|w| gpu.upload(w, [d]));
                    let angles = angles.map(|a| gpu.upload(a, [len + 2, d / 2, 2]));
                    let seq = Sequences { len, inner: s.inner };
                    let launch = || ops::split_heads(&x, s.first, [s.heads, d], seq, weight.as_ref(), angles.as_ref());
                    judge.case(format!("{s:?}, norm {norm}, rotary {rotary}"), launch, &expected);
                }
            }
        }
        judge.finish();
    });
}

/// A caption without a token has no heads, and that is no reason to stop.
#[test]
fn no_rows() {
    on_each("split_heads", |gpu| {
        let x = gpu.upload(&[], [0, 12]);
        let out = ops::split_heads(&x, 0, [2, 6], Sequences { len: 1, inner: 1 }, None, None);
        assert_eq!(out.dims(), [0, 2, 1, 8]);
        same_bits("no rows", &out, &[]);
    });
}
