//! Moves: bit for bit, whatever the bits.

use residua::ops;

use super::device::on_each;
use super::judge::{Judge, same_bits};
use super::random::Random;
use super::reference::Expected;

const SIZES: [usize; 8] = [1, 2, 3, 4, 5, 7, 8, 13];

/// Place of an index in a dense tensor.
fn flat(dims: &[usize], index: &[usize]) -> usize {
    dims.iter().zip(index).fold(0, |at, (&size, &i)| at * size + i)
}

/// All indices of a dense tensor, in order.
fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    (0..dims.iter().product())
        .map(|mut rest| {
            let mut index = vec![0; dims.len()];
            for (i, &size) in index.iter_mut().zip(dims).rev() {
                (*i, rest) = (rest % size, rest / size);
            }
            index
        })
        .collect()
}

#[test]
fn permute() {
    on_each("permute", |gpu| {
        let mut random = Random::new("permute");
        for case in 0..48 {
            // the more axes, the shorter
            let dims: Vec<usize> = (0..1 + case % 8).map(|_| random.pick(&SIZES[..(9 - case % 8).min(8)])).collect();
            let mut order: Vec<usize> = (0..dims.len()).collect();
            (1..order.len()).rev().for_each(|i| order.swap(i, random.below(i + 1)));
            let x = random.bits(dims.iter().product());
            let to: Vec<usize> = order.iter().map(|&a| dims[a]).collect();
            let expected: Vec<f32> = indices(&to)
                .iter()
                .map(|index| {
                    let mut from = vec![0; dims.len()];
                    order.iter().zip(index).for_each(|(&a, &i)| from[a] = i);
                    x[flat(&dims, &from)]
                })
                .collect();
            let out = ops::permute(&gpu.upload(&x, &dims), &order);
            assert_eq!(out.dims(), to);
            same_bits(format!("permute {dims:?} by {order:?}"), &out, &expected);
        }
    });
}

#[test]
fn window() {
    on_each("window", |gpu| {
        let mut random = Random::new("window");
        for case in 0..40 {
            let dims: Vec<usize> = (0..1 + case % 5).map(|_| random.pick(&SIZES)).collect();
            let (mut before, mut to) = (vec![0isize; dims.len()], dims.clone());
            for (a, &size) in dims.iter().enumerate() {
                // axis 2 of five stays whole (four may change); else pad, crop, or both; now and then all outside
                if random.below(3) > 0 && !(dims.len() == 5 && a == 2) {
                    before[a] = random.below(size + 4) as isize - 3.min(size as isize);
                    to[a] = random.pick(&SIZES);
                }
            }
            let x = random.bits(dims.iter().product());
            let expected: Vec<f32> = indices(&to)
                .iter()
                .map(|index| {
                    let from: Vec<isize> = index.iter().zip(&before).map(|(&i, b)| i as isize - b).collect();
                    match from.iter().zip(&dims).all(|(&i, &size)| i >= 0 && i < size as isize) {
                        true => x[flat(&dims, &from.iter().map(|&i| i as usize).collect::<Vec<_>>())],
                        false => 0.0,
                    }
                })
                .collect();
            let out = ops::window(&gpu.upload(&x, &dims), &before, &to);
            same_bits(format!("window {dims:?} before {before:?} to {to:?}"), &out, &expected);
        }
    });
}

#[test]
fn rows() {
    on_each("rows", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "rows"), Random::new("rows"));
        for (have, c, count) in [(1, 1, 1), (1, 65, 7), (5, 3, 40), (64, 64, 1), (13, 1152, 13), (101, 2, 64)] {
            let (x, finite) = (random.bits(have * c), random.numbers(have * c));
            let index: Vec<u32> = (0..count).map(|_| random.below(have) as u32).collect();
            let picked = |x: &[f32]| -> Vec<f32> {
                index.iter().flat_map(|&r| x[r as usize * c..(r as usize + 1) * c].to_vec()).collect()
            };
            let name = format!("{count} of {have} rows of {c}");
            same_bits(&name, &ops::rows(&gpu.upload(&x, [have, c]), &index), &picked(&x));
            let on_device = gpu.upload(&finite, [have, c]);
            judge.case(name, || ops::rows(&on_device, &index), &Expected::exactly(picked(&finite)));
        }
        judge.finish();
    });
}

/// Moves through the judge as well: into poisoned memory, nothing behind the result.
#[test]
fn moves_write_all_and_no_more() {
    on_each("moves", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "moves"), Random::new("moves"));
        for size in [1, 63, 65, 101] {
            let numbers = random.numbers(size * 3);
            let x = gpu.upload(&numbers, [size, 3]);
            let turned = Expected::exactly((0..3 * size).map(|i| numbers[i % size * 3 + i / size]));
            judge.case(format!("permute [{size}, 3]"), || ops::permute(&x, &[1, 0]), &turned);
            // where a number of the padded result comes from: two rows above, one column on either side
            let around = |i: usize| {
                let (row, column) = ((i / 5).checked_sub(2)?, (i % 5).checked_sub(1)?);
                (row < size && column < 3).then_some(row * 3 + column)
            };
            let padded = Expected::exactly((0..(size + 3) * 5).map(|i| around(i).map_or(0.0, |at| numbers[at])));
            let two = [ops::window(&x, &[0, 0], &[1, 3]), x.clone()];
            let joined = Expected::exactly(numbers[..3].iter().chain(&numbers).copied());
            judge.case(format!("join [1, 3] and [{size}, 3]"), || ops::join(&two), &joined);
            judge.case(format!("window [{size}, 3]"), || ops::window(&x, &[2, 1], &[size + 3, 5]), &padded);
        }
        judge.finish();
    });
}

/// The rule in the shader's head, step by step in f32; the same bytes on every device.
#[test]
fn rgba() {
    let byte = |v: f32| (((v.clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0 + 0.5).clamp(0.0, 255.0)) as u32;
    on_each("rgba", |gpu| {
        let mut random = Random::new("rgba");
        for (t, h, w, stride) in [(1, 1, 1, 1), (2, 3, 5, 64), (1, 7, 64, 64), (3, 2, 65, 128), (1, 40, 101, 101)] {
            let mut x = random.numbers(3 * t * h * w);
            // the ends, what lies past them, and the places where a byte changes
            let edges = [-1.0, 1.0, 0.0, -0.0, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, 1.0 - 1e-7, -1.0 + 1e-7];
            for (i, v) in x.iter_mut().enumerate() {
                match i % 3 {
                    0 => *v = edges[i / 3 % edges.len()],
                    1 => *v = ((i % 256) as f32 - 0.5) / 255.0 * 2.0 - 1.0,
                    _ => {}
                }
            }
            let expected: Vec<f32> = (0..t * h * stride)
                .map(|i| {
                    let at = i / stride * w + (i % stride).min(w - 1);
                    let [r, g, b] = [0, 1, 2].map(|plane| byte(x[plane * t * h * w + at]));
                    f32::from_bits(r | g << 8 | b << 16 | 255 << 24)
                })
                .collect();
            let out = ops::pack_rgba(&gpu.upload(&x, [3, t, h, w]), stride);
            same_bits(format!("rgba [3, {t}, {h}, {w}] in rows of {stride}"), &out, &expected);
        }
    });
}
