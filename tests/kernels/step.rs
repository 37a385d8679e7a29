//! What samplers do with latents between two calls of a network.

use residua::ops;

use super::device::on_each;
use super::judge::Judge;
use super::random::Random;
use super::reference::{Expected, U};

#[test]
fn guide() {
    on_each("guide", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "guide"), Random::new("guide"));
        for [n, ch, channels, volume] in [[1, 1, 1, 1], [1, 4, 8, 105], [2, 8, 8, 64], [3, 2, 5, 65], [2, 3, 4, 1]] {
            for scale in [0.0, 1.0, 7.5] {
                let x = random.numbers(2 * n * channels * volume);
                let mut expected = Expected::default();
                for i in 0..n * ch * volume {
                    let at = i / (ch * volume) * channels * volume + i % (ch * volume);
                    let (told, untold) = (f64::from(x[at]), f64::from(x[n * channels * volume + at]));
                    let pull = f64::from(scale) * (told - untold);
                    // the difference, its product, the sum
                    expected.push(untold + pull, U * (2.0 * pull.abs() + (untold + pull).abs()));
                }
                let x = gpu.upload(&x, [2 * n, channels, volume]);
                let name = format!("{ch} of {channels} channels of {volume}, {n} samples, scale {scale}");
                judge.case(name, || ops::guide(&x, ch, scale), &expected);
            }
        }
        judge.finish();
    });
}

#[test]
fn mix() {
    on_each("mix", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "mix"), Random::new("mix"));
        for count in [1, 2, 63, 64, 65, 101, 9973] {
            for (a, b) in [(1.0, 0.0), (1.003, -0.27), (0.0, 1.0), (-2.5, 55.0 / 24.0)] {
                let (x, y) = (random.numbers(count), random.numbers(count));
                let mut expected = Expected::default();
                for (&x, &y) in x.iter().zip(&y) {
                    let (own, other) = (f64::from(a) * f64::from(x), f64::from(b) * f64::from(y));
                    // a product each, the sum
                    expected.push(own + other, U * (own.abs() + other.abs() + (own + other).abs()));
                }
                let (x, y) = (gpu.upload(&x, [count]), gpu.upload(&y, [count]));
                judge.case(format!("{count} numbers by {a} and {b}"), || ops::mix(a, &x, b, &y), &expected);
            }
        }
        judge.finish();
    });
}

#[test]
fn ranged_noise() {
    on_each("ranged_noise", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "ranged_noise"), Random::new("ranged_noise"));
        for [n, ch, volume] in [[1, 1, 1], [1, 4, 105], [2, 3, 64], [3, 2, 65]] {
            for (low, high) in [(-46.0f32, -9.2f32), (-5.5, -5.25), (-7.0, -4.0)] {
                let own = ch * volume;
                let (mean, noise, x) = (random.numbers(n * own), random.numbers(n * own), random.numbers(2 * n * own));
                let mut expected = Expected::default();
                for i in 0..n * own {
                    let v = f64::from(x[i / own * 2 * own + own + i % own]);
                    let f = 0.5 * (v + 1.0);
                    let (up, down) = (0.5 * f * f64::from(high), 0.5 * (1.0 - f) * f64::from(low));
                    let spread = (up + down).exp() * f64::from(noise[i]);
                    let value = f64::from(mean[i]) + spread;
                    // v + 1 and 1 − f round by U of themselves, their products and the sum again; `exp` multiplies
                    // what is off in its argument, and is good to 3 + 2·|x| ulp itself
                    let lost = 0.5 * U * (f64::from(low).abs() * (1.0 + f.abs()) + f64::from(high).abs() * f.abs());
                    let argument = lost + U * (3.0 * up.abs() + 3.0 * down.abs() + (up + down).abs());
                    let off = argument + 2.0 * U * (3.0 + 2.0 * (up + down).abs());
                    expected.push(value, off * spread.abs() + U * (spread.abs() + value.abs()));
                }
                let (mean, noise) = (gpu.upload(&mean, [n, ch, volume]), gpu.upload(&noise, [n, ch, volume]));
                let x = gpu.upload(&x, [n, 2 * ch, volume]);
                let name = format!("{n} samples of {ch} channels of {volume} between {low} and {high}");
                judge.case(name, || ops::ranged_noise(&mean, &x, &noise, [low, high]), &expected);
            }
        }
        judge.finish();
    });
}
