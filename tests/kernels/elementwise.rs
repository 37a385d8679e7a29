//! Passes over every number.

use residua::ops;
use residua::tensor::DType;

use super::device::{on_each, words};
use super::judge::Judge;
use super::random::Random;
use super::reference::activation::{silu, silu_error};
use super::reference::elementwise::{euler, expand_int8};
use super::reference::{Expected, U};

// a workgroup takes 64 numbers
const COUNTS: [usize; 8] = [1, 2, 63, 64, 65, 101, 1152, 9973];

#[test]
fn add_and_sub() {
    on_each("add", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "add"), Random::new("add"));
        for count in COUNTS {
            for repeats in [1, 3] {
                let (x, y) = (random.numbers(repeats * count), random.numbers(count));
                // one rounding: there is only one right answer
                let both = |f: f32| Expected::exactly(x.iter().enumerate().map(|(i, v)| v + f * y[i % count]));
                let (plus, minus) = (both(1.0), both(-1.0));
                let (a, b) = (gpu.upload(&x, [repeats, count]), gpu.upload(&y, [count]));
                judge.case(format!("{repeats} times {count} plus"), || ops::add(&a, &b), &plus);
                judge.case(format!("{repeats} times {count} minus"), || ops::sub(&a, &b), &minus);
            }
        }
        judge.finish();
    });
}

#[test]
fn silu_of_all_sizes() {
    on_each("silu", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "silu"), Random::new("silu"));
        for count in COUNTS {
            for size in [1.0, 30.0, 1e6, 1e38] {
                let x: Vec<f32> = random.numbers(count).iter().map(|v| v * size).collect();
                let mut expected = Expected::default();
                x.iter().for_each(|&v| expected.push(silu(f64::from(v)), silu_error(f64::from(v))));
                let x = gpu.upload(&x, [count]);
                judge.case(format!("{count} numbers of size {size:e}"), || ops::silu(&x), &expected);
            }
        }
        judge.finish();
    });
}

#[test]
fn affine_channels() {
    on_each("affine", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "affine"), Random::new("affine"));
        for inner in [1, 5, 64, 65] {
            for c in [1, 3, 4, 16] {
                let (x, table) = (random.numbers(2 * c * inner), random.numbers(2 * c));
                let mut expected = Expected::default();
                for (i, &v) in x.iter().enumerate() {
                    let channel = i / inner % c;
                    let product = f64::from(v) * f64::from(table[2 * channel]);
                    let value = product + f64::from(table[2 * channel + 1]);
                    // `fma` may round the product
                    expected.push(value, U * (product.abs() + value.abs()));
                }
                let (x, table) = (gpu.upload(&x, [2, c, inner]), gpu.upload(&table, [c, 2]));
                judge.case(format!("{c} channels of {inner}"), || ops::affine_channels(&x, &table, inner), &expected);
            }
        }
        judge.finish();
    });
}

#[test]
fn choose() {
    on_each("choose", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "choose"), Random::new("choose"));
        for (frames, span) in [(1, 1), (1, 65), (5, 1), (7, 13), (64, 3), (15, 144)] {
            let (x, y) = (random.numbers(frames * span), random.numbers(frames * span));
            let mask: Vec<u32> = (0..frames).map(|_| random.pick(&[0, 0, 1, u32::MAX])).collect();
            let expected = Expected::exactly((0..x.len()).map(|i| if mask[i / span] != 0 { x[i] } else { y[i] }));
            let (x, y) = (gpu.upload(&x, [frames, span]), gpu.upload(&y, [frames, span]));
            let mask = words(gpu, &mask, &[frames]);
            judge.case(format!("{frames} frames of {span}"), || ops::choose(&mask, &x, &y), &expected);
        }
        judge.finish();
    });
}

/// n, channels of the latent, channels of the velocity, frames, height, width.
const LATENTS: [[usize; 6]; 5] =
    [[1, 1, 1, 1, 1, 1], [1, 4, 8, 5, 3, 7], [2, 4, 8, 3, 8, 8], [3, 2, 2, 1, 5, 13], [2, 3, 5, 4, 1, 1]];

#[test]
fn euler_step() {
    on_each("euler_step", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "euler_step"), Random::new("euler_step"));
        for [n, ch, channels, t, h, w] in LATENTS {
            for scale in [0.0, 1.0, 7.0] {
                let volume = t * h * w;
                let (z, velocity) = (random.numbers(n * ch * volume), random.numbers(2 * n * channels * volume));
                // frames that are given do not move, whatever the network says of them
                let dt: Vec<f32> = (0..n * t).map(|i| if i % 3 == 1 { 0.0 } else { random.normal() }).collect();
                let mut expected = Expected::default();
                for (i, &z) in z.iter().enumerate() {
                    let (sample, rest) = (i / (ch * volume), i % (ch * volume));
                    let told = velocity[sample * channels * volume + rest];
                    let untold = velocity[(n + sample) * channels * volume + rest];
                    let dt = dt[sample * t + rest % volume / (h * w)];
                    let (value, bound) = euler(z, told, untold, dt, scale);
                    expected.push(value, bound);
                }
                let z = gpu.upload(&z, [n, ch, t, h, w]);
                let velocity = gpu.upload(&velocity, [2 * n, channels, t, h, w]);
                let dt = gpu.upload(&dt, [n, t]);
                let name = format!("[{n}, {ch} of {channels}, {t}, {h}, {w}], scale {scale}");
                judge.case(name, || ops::euler_step(&z, &velocity, &dt, scale), &expected);
            }
        }
        judge.finish();
    });
}

#[test]
fn renoise() {
    on_each("renoise", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "renoise"), Random::new("renoise"));
        for [n, ch, _, t, h, w] in LATENTS {
            let (z, noise) = (random.numbers(n * ch * t * h * w), random.numbers(n * ch * t * h * w));
            let levels: Vec<f32> = (0..n * t).map(|i| [0.0, 0.3, 1.0, -1.0, 0.95][i % 5]).collect();
            let mut expected = Expected::default();
            for (i, (&z, &noise)) in z.iter().zip(&noise).enumerate() {
                let level = f64::from(levels[i / (ch * t * h * w) * t + i / (h * w) % t]);
                let (kept, added) = ((1.0 - level) * f64::from(z), level * f64::from(noise));
                match level > 0.0 {
                    // 1 − level and its product, the other product, the sum
                    true => expected.push(kept + added, U * (2.0 * kept.abs() + added.abs() + (kept + added).abs())),
                    false => expected.push(f64::from(z), 0.0),
                }
            }
            let (z, noise) = (gpu.upload(&z, [n, ch, t, h, w]), gpu.upload(&noise, [n, ch, t, h, w]));
            let levels = gpu.upload(&levels, [n, t]);
            judge.case(format!("[{n}, {ch}, {t}, {h}, {w}]"), || ops::renoise(&z, &noise, &levels), &expected);
        }
        judge.finish();
    });
}

#[test]
fn posterior() {
    on_each("posterior", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "posterior"), Random::new("posterior"));
        for (rows, c) in [(1, 1), (3, 4), (65, 1), (101, 8)] {
            for size in [1.0, 40.0] {
                let moments: Vec<f32> = random.numbers(rows * 2 * c).iter().map(|v| v * size).collect();
                let noise = random.numbers(rows * c);
                let mut expected = Expected::default();
                for (i, &noise) in noise.iter().enumerate() {
                    let (mean, logvar) = (moments[i / c * 2 * c + i % c], moments[i / c * 2 * c + c + i % c]);
                    let half = 0.5 * f64::from(logvar).clamp(-30.0, 20.0);
                    let spread = half.exp() * f64::from(noise);
                    let value = f64::from(mean) + spread;
                    // `exp` is good to 3 + 2·|x| ulp; the product and the sum round once each
                    let bound = 2.0 * U * (3.0 + 2.0 * half.abs()) * spread.abs() + U * (spread.abs() + value.abs());
                    expected.push(value, bound);
                }
                let (moments, noise) = (gpu.upload(&moments, [rows, 2 * c]), gpu.upload(&noise, [rows, c]));
                judge.case(format!("{rows} rows of {c}, size {size}"), || ops::posterior(&moments, &noise), &expected);
            }
        }
        judge.finish();
    });
}

#[test]
fn expand_int8_of_all_sizes() {
    on_each("expand_int8", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "expand_int8"), Random::new("expand_int8"));
        for rows in [1, 2, 3, 65] {
            // ends of rows at every place in a word, and results that end in the middle of one
            for k in [1, 2, 3, 4, 5, 63, 64, 101, 257] {
                let most = random.pick(&[1e-3, 1.0, 300.0]);
                let q: Vec<i8> = (0..rows * k).map(|_| random.pick(&[-128, -127, -3, -1, 0, 1, 64, 127])).collect();
                let scales: Vec<f32> = random.numbers(rows).iter().map(|v| v.abs() * most).collect();
                let expected = Expected::exactly(expand_int8(&q, &scales));
                let bytes: Vec<u8> = q.iter().map(|&q| q as u8).collect();
                let launch = |dtype| gpu.upload_int8(&bytes, &scales, [rows, k], dtype);
                judge.case(format!("{rows} rows of {k}"), || launch(DType::F32), &expected);
                let name = format!("{rows} rows of {k} as halves");
                judge.case(name, || launch(DType::F16), &expected.in_halves());
            }
        }
        judge.finish();
    });
}
