//! Layer, RMS and group norm.

use residua::ops::{self, Modulate, Store};

use super::device::on_each;
use super::judge::Judge;
use super::random::Random;
use super::reference::Expected;
use super::reference::norm::{self as plain, Group};

// rows are shared by 8 or 64 invocations, in steps of four, two or one number
const WIDTHS: [usize; 17] = [1, 2, 15, 16, 17, 32, 37, 38, 63, 64, 65, 66, 72, 101, 130, 144, 1152];
const ROWS: [usize; 6] = [1, 2, 3, 6, 12, 36];

/// Every second result is kept in halves (if its rows are even).
fn stored(case: usize, c: usize, expected: Expected) -> (Store, Expected) {
    match case % 2 {
        0 => (Store::Full, expected),
        _ if c % 2 == 1 => (Store::Operand, expected),
        _ => (Store::Operand, expected.in_halves()),
    }
}

/// Ways to be unkind to a mean and a variance.
fn numbers(random: &mut Random, kind: usize, count: usize) -> (Vec<f32>, &'static str) {
    let x = random.numbers(count);
    match kind % 6 {
        1 => (x.iter().map(|v| v + 1000.0).collect(), "offset 1000"),
        2 => (vec![1000.1; count], "all equal"),
        3 => (x.iter().map(|v| v * 1e-5).collect(), "tiny"),
        4 => (x.iter().enumerate().map(|(i, v)| if i % 37 == 0 { 1e4 * v } else { *v }).collect(), "outliers"),
        5 => (vec![0.0; count], "zero"),
        _ => (x, "normal"),
    }
}

#[test]
fn layer_norm() {
    on_each("layer_norm", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "layer_norm"), Random::new("layer_norm"));
        for case in 0..84 {
            let (rows, c) = (random.pick(&ROWS), WIDTHS[case % WIDTHS.len()]);
            let (numbers, kind) = numbers(&mut random, case / 2, rows * c);
            let eps = random.pick(&[1e-6, 1e-5]);
            // every second case with shift and scale, side by side in a table or the other way round
            let shared = (1..=rows).filter(|r| rows % r == 0).nth(case / 2 % 2).unwrap_or(rows);
            // vectors start where steps of a row do
            let step = [4, 2, 1].into_iter().find(|n| c % n == 0).unwrap_or(1);
            let (a, b) = (step * random.below(4), c + step * (3 + random.below(4)));
            let (shift_at, scale_at) = if random.below(2) == 0 { (a, b) } else { (b, a) };
            let stride = b + c + step * random.below(3);
            let table = random.numbers(rows / shared * stride);
            let modulated = case % 2 == 1;
            let modulate = plain::Modulate { table: &table, stride, shift_at, scale_at, rows: shared };
            let expected = plain::layer(&numbers, c, eps, modulated.then_some(&modulate));

            let x = gpu.upload(&numbers, [rows, c]);
            let table = gpu.upload(&table, [rows / shared, stride]);
            let modulate = modulated.then_some(Modulate { table: &table, shift_at, scale_at, rows: shared });
            let name = format!("{rows} rows of {c}, {kind}, eps {eps:e}, modulated {modulated} by {shared} rows");
            let (store, expected) = stored(case / 3, c, expected);
            judge.case(name, || ops::layer_norm(&x, eps, modulate, store), &expected);
        }
        judge.finish();
    });
}

#[test]
fn rms_norm() {
    on_each("rms_norm", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "rms_norm"), Random::new("rms_norm"));
        for case in 0..51 {
            let (rows, c) = (random.pick(&ROWS), WIDTHS[case % WIDTHS.len()]);
            let (numbers, kind) = numbers(&mut random, case, rows * c);
            let (eps, weight) = (random.pick(&[1e-6, 1e-5]), random.numbers(c));
            let expected = plain::rms(&numbers, &weight, eps);
            let (x, weight) = (gpu.upload(&numbers, [1, rows, c]), gpu.upload(&weight, [c]));
            let (store, expected) = stored(case, c, expected);
            let name = format!("{rows} rows of {c}, {kind}, eps {eps:e}, {store:?}");
            judge.case(name, || ops::rms_norm(&x, &weight, eps, store), &expected);
        }
        judge.finish();
    });
}

#[test]
fn group_norm() {
    on_each("group_norm", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "group_norm"), Random::new("group_norm"));
        // a chunk is 64 positions or more, walked eight at a time: most sizes end within one; the last take many
        let sizes = [
            [1, 1, 4, 1],
            [2, 7, 6, 3],
            [1, 64, 32, 32],
            [2, 65, 64, 32],
            [1, 101, 6, 2],
            [3, 15, 8, 8],
            [1, 8192, 2, 2],
            [1, 8193, 1, 1],
            [2, 4096, 8, 2],
            [1, 3001, 24, 3],
            [2, 1400, 48, 4],
            [1, 20_003, 32, 2],
        ];
        for (number, [images, positions, c, groups]) in sizes.into_iter().enumerate() {
            for kind in [0, 1, number] {
                let silu = (number + kind) % 2 == 1;
                let (numbers, kind) = numbers(&mut random, kind, images * positions * c);
                let (weight, bias) = (random.numbers(c), random.numbers(c));
                let sizes = Group { images, positions, c, groups, eps: 1e-6 };
                let expected = plain::group(&numbers, &sizes, &weight, &bias, silu);
                let x = gpu.upload(&numbers, [images, 1, positions, 1, c]);
                let (weight, bias) = (gpu.upload(&weight, [c]), gpu.upload(&bias, [c]));
                let (store, expected) = stored(number, c, expected);
                let launch = || ops::group_norm(&x, groups, 1e-6, &weight, &bias, silu, store);
                judge.case(format!("{sizes:?}, {kind}, silu {silu}"), launch, &expected);
            }
        }
        judge.finish();
    });
}
