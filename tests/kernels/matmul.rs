//! Linear layers: `matmul/tiled`, `matmul/simd8`, `matmul/coop`, every loader and every tail.

use residua::gpu::Gpu;
use residua::ops::{self, Activation, Gate, Store, Target};

use super::device::{halves, multiplied, on_each, rounded};
use super::judge::Judge;
use super::random::Random;
use super::reference::matmul::{self as plain, Tail, Then};

// tiles are 64 × 64 by 16 of k, 16 × 32 by 64 of k, and for matrices 16 × 16 by 16 of k to 128 × 128 by 32 of k
const ROWS: [usize; 10] = [1, 7, 8, 9, 13, 63, 64, 65, 101, 150];
const COLUMNS: [usize; 11] = [1, 3, 31, 32, 33, 37, 63, 64, 65, 72, 144];
const WHOLE: [usize; 8] = [8, 16, 24, 32, 64, 72, 136, 144];
const RAGGED: [usize; 12] = [1, 2, 3, 4, 5, 12, 15, 17, 31, 33, 65, 101];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Into {
    Plain,
    Residual,
    Gated,
    GatedResidual,
    Product,
}

const TARGETS: [Into; 5] = [Into::Plain, Into::Residual, Into::Gated, Into::GatedResidual, Into::Product];

#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    /// Whether x, the weight and the result are halves.
    halves: [bool; 3],
    bias: bool,
    then: Then,
    into: Into,
    /// Rows that share a gate vector (divides m), and the gate's first column.
    gate: [usize; 2],
}

impl Case {
    fn run(self, judge: &mut Judge<'_>, gpu: &Gpu, random: &mut Random) {
        let x = random.numbers(self.m * self.k);
        let w = random.numbers(self.n * self.k);
        self.run_on(judge, gpu, random, x, w);
    }

    fn run_on(self, judge: &mut Judge<'_>, gpu: &Gpu, random: &mut Random, x: Vec<f32>, w: Vec<f32>) {
        let Case { m, n, k, .. } = self;
        let [x_half, w_half, out_half] = self.halves;
        let x = if x_half { rounded(x) } else { x };
        let w = if w_half { rounded(w) } else { w };
        let [rows, at] = self.gate;
        let stride = at + n + 2;
        let (bias, onto, table) = (random.numbers(n), random.numbers(m * n), random.numbers(m / rows * stride));
        let gated = matches!(self.into, Into::Gated | Into::GatedResidual);
        let tail = Tail {
            bias: self.bias.then_some(&bias[..]),
            then: self.then,
            gate: gated.then_some(plain::Gate { table: &table, stride, at, rows }),
            plus: matches!(self.into, Into::Residual | Into::GatedResidual).then_some(&onto[..]),
            times: (self.into == Into::Product).then_some(&onto[..]),
        };
        let seen = if x_half || !w_half { x.clone() } else { multiplied(gpu, x.clone(), k) };
        let expected = plain::finish(plain::linear(&seen, &w, [m, n, k]), n, k, &tail);
        // rows of odd length stay f32
        let expected = if out_half && n % 2 == 0 { expected.in_halves() } else { expected };
        let store = if out_half { Store::Operand } else { Store::Full };

        let x = if x_half { halves(gpu, &x, [m, k]) } else { gpu.upload(&x, [m, k]) };
        let w = if w_half { halves(gpu, &w, [n, k]) } else { gpu.upload(&w, [n, k]) };
        let bias = self.bias.then(|| gpu.upload(&bias, [n]));
        let (onto, table) = (gpu.upload(&onto, [m, n]), gpu.upload(&table, [m / rows, stride]));
        let gate = Gate { table: &table, at, rows };
        let target = match self.into {
            Into::Plain => Target::Plain,
            Into::Residual => Target::Residual(&onto),
            Into::Gated => Target::Gated(gate),
            Into::GatedResidual => Target::GatedResidual(gate, &onto),
            Into::Product => Target::Product(&onto),
        };
        let then = match self.then {
            Then::Nothing => Activation::None,
            Then::Gelu => Activation::GeluTanh,
            Then::Silu => Activation::Silu,
        };
        judge.case(format!("{self:?}"), || ops::linear(&x, &w, bias.as_ref(), then, target, store), &expected);
    }
}

const PLAIN: Case =
    Case { m: 1, n: 1, k: 1, halves: [false; 3], bias: true, then: Then::Nothing, into: Into::Plain, gate: [1, 0] };

fn divisor(random: &mut Random, m: usize) -> usize {
    let divisors: Vec<usize> = (1..=m).filter(|d| m.is_multiple_of(*d)).collect();
    random.pick(&divisors)
}

#[test]
fn shapes() {
    on_each("matmul shapes", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "matmul shapes"), Random::new("matmul shapes"));
        let kinds = [[false; 3], [false, true, false], [true, false, true], [true; 3]];
        for (halves, depths) in kinds.into_iter().flat_map(|h| [(h, &WHOLE[..]), (h, &RAGGED[..])]) {
            for _ in 0..8 {
                let (m, n, k) = (random.pick(&ROWS), random.pick(&COLUMNS), random.pick(depths));
                Case { m, n, k, halves, ..PLAIN }.run(&mut judge, gpu, &mut random);
            }
            // one token against the models' own width, and the least there is
            Case { m: 1, n: 144, k: 1152 + depths[0] % 8, halves, ..PLAIN }.run(&mut judge, gpu, &mut random);
            Case { m: 1, n: 1, k: depths[0], halves, ..PLAIN }.run(&mut judge, gpu, &mut random);
        }
        Case { m: 300, n: 432, k: 144, halves: [true; 3], ..PLAIN }.run(&mut judge, gpu, &mut random);
        judge.finish();
    });
}

#[test]
fn tails() {
    on_each("matmul tails", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "matmul tails"), Random::new("matmul tails"));
        // what feeds a product and what becomes of it know nothing of each other (`tests/shaders.rs` links
        // them all): ten programs bring every pair of bias and activation, and every loader
        for (number, into) in (0..10).map(|i| (i, TARGETS[i / 2])) {
            let (bias, then) = (number % 2 == 0, [Then::Nothing, Then::Gelu, Then::Silu][number % 3]);
            let (halves, whole) = ([number / 2 % 2 == 1; 3], number / 3 % 2 == 1);
            for _ in 0..5 {
                let (m, n) = (random.pick(&ROWS), random.pick(&COLUMNS));
                let k = if whole { random.pick(&WHOLE) } else { random.pick(&RAGGED) };
                let gate = [divisor(&mut random, m), random.below(5)];
                Case { m, n, k, halves, bias, then, into, gate }.run(&mut judge, gpu, &mut random);
            }
        }
        judge.finish();
    });
}

/// Sums that run through the whole range of f32 into the activations, and weights at the ends of f16.
#[test]
fn unkind_numbers() {
    on_each("matmul unkind", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "matmul unkind"), Random::new("matmul unkind"));
        let mut x = vec![0.0, -0.0, 1e-30, -1e-30, 1e-4, 0.5, 1.0, 2.75, 3.0, 5.0, 8.0, 9.0, 10.0, 13.0, 20.0, 43.0];
        x.extend([44.0, 60.0, 79.9, 80.0, 80.1, 87.0, 88.8, 89.0, 104.0, 1e3, 1e4, 1e10, 1e13, 1e30, 3e38]);
        x.extend((0..200).map(|i| i as f32 * 0.05));
        let x: Vec<f32> = x.iter().flat_map(|&v| [v, -v]).collect();
        for then in [Then::Nothing, Then::Gelu, Then::Silu] {
            let case = Case { m: x.len(), bias: false, then, ..PLAIN };
            case.run_on(&mut judge, gpu, &mut random, x.clone(), vec![1.0]);
        }
        // terms that cancel: the bound is on the terms, not on what is left of them
        let wide: Vec<f32> = (0..64 * 9).map(|i| if i % 2 == 0 { 1e4 } else { -1e4 } + (i % 7) as f32).collect();
        Case { m: 9, n: 33, k: 64, ..PLAIN }.run_on(&mut judge, gpu, &mut random, wide, vec![1.5; 33 * 64]);
        let ends: Vec<f32> = (0..37 * 20).map(|i| [65504.0, -65504.0, 6.2e-5, 0.0, -0.0][i % 5]).collect();
        let x = random.numbers(9 * 20);
        Case { m: 9, n: 37, k: 20, halves: [false, true, false], ..PLAIN }.run_on(
            &mut judge,
            gpu,
            &mut random,
            x,
            ends,
        );
        judge.finish();
    });
}

/// The residual streams of T5 and of the VAE decoder run to 1e5 and beyond, where halves end at 65504.
#[test]
fn activations_past_the_range_of_halves() {
    on_each("matmul past halves", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "matmul past halves"), Random::new("matmul past halves"));
        for (m, n, k, size) in [(13, 33, 64, 1e5), (70, 40, 136, 1e6), (3, 8, 2048, 4e6), (5, 24, 8, 65504.0)] {
            let x: Vec<f32> = random.numbers(m * k).iter().map(|v| v.clamp(-1.0, 1.0) * size).collect();
            let w = random.numbers(n * k);
            for then in [Then::Nothing, Then::Gelu] {
                let case = Case { m, n, k, halves: [false, true, false], then, ..PLAIN };
                case.run_on(&mut judge, gpu, &mut random, x.clone(), w.clone());
            }
        }
        // at the very end of what the scaling leaves room for, next to the least it can tell from zero
        let x: Vec<f32> = (0..16 * 8).map(|i| [64.0 * 65504.0, -64.0 * 65504.0, 1.0, 4e-6, 0.0][i % 5]).collect();
        let w = random.numbers(8 * 8);
        let case = Case { m: 16, n: 8, k: 8, halves: [false, true, false], ..PLAIN };
        case.run_on(&mut judge, gpu, &mut random, x, w);
        judge.finish();
    });
}

#[test]
fn leading_axes_stay() {
    on_each("matmul axes", |gpu| {
        let x = gpu.upload(&[1.0; 2 * 3 * 5 * 4], [2, 3, 5, 4]);
        let w = gpu.upload(&[1.0; 7 * 4], [7, 4]);
        let out = ops::linear(&x, &w, None, Activation::None, Target::Plain, Store::Full);
        assert_eq!(out.dims(), [2, 3, 5, 7]);
        assert_eq!(out.read_blocking().unwrap(), [4.0; 2 * 3 * 5 * 7]);
    });
}
