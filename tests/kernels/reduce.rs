//! Sums over whole tensors.

use residua::ops::{self, Difference, Power};

use super::device::on_each;
use super::judge::Judge;
use super::random::Random;
use super::reference::reduce as plain;

#[test]
fn difference() {
    on_each("difference", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "difference"), Random::new("difference"));
        // segments, numbers in each, compared, from, from; a workgroup adds 2048, so the tree has
        // one level for the first cases, two for most, and three for the last two
        let cases = [
            [1, 1, 1, 0, 0],
            [1, 2047, 2047, 0, 0],
            [1, 2048, 2048, 0, 0],
            [1, 2049, 2049, 0, 0],
            [2, 65, 33, 0, 32],
            [3, 1152, 144, 7, 700],
            [2, 5 * 1001, 4 * 1001, 1001, 0],
            [2, 120_000, 119_990, 3, 10],
            [2100, 5, 4, 1, 0],
            [4099, 3, 3, 0, 0],
        ];
        for [segments, stride, len, x_at, y_at] in cases {
            for (offset, power) in [(0.0, Power::One), (100.0, Power::One), (0.0, Power::Two), (100.0, Power::Two)] {
                let near = |v: f32| v + offset;
                let x: Vec<f32> = random.numbers(segments * stride).into_iter().map(near).collect();
                let y: Vec<f32> = random.numbers(segments * stride).into_iter().map(near).collect();
                let compared = (0..segments).flat_map(|s| (0..len).map(move |i| s * stride + i));
                let expected = plain::difference(compared.map(|i| (x[i + x_at], y[i + y_at])), power as i32 + 1);
                let (x, y) = (gpu.upload(&x, [segments, stride]), gpu.upload(&y, [segments, stride]));
                let which = Difference { segments, len, x_at, y_at };
                judge.case(
                    format!("{which:?} of {stride}, offset {offset}, {power:?}"),
                    || ops::difference(&x, &y, which, power),
                    &expected,
                );
            }
        }
        judge.finish();
    });
}
