//! The seam between a network and a cache, with a network of known numbers and decisions by hand.

use residua::cache::{
    Axis, Branch, CachePolicy, Change, Decision, Evaluated, Evaluation, Part, Probe, ResidualCache, Row, Run, Site,
};
use residua::gpu::Gpu;
use residua::tensor::Tensor;
use std::ops::Range;

use super::device::open;

const DEPTH: usize = 4;
const NUMBERS: usize = 3 * 5;

/// A policy that does as it is told.
#[derive(Default)]
struct Told {
    /// Of every evaluation.
    decisions: Vec<Decision>,
    /// What follows a question, by whether the change is below 0.5.
    below: Option<Decision>,
    stores: Option<Range<usize>>,
    history: usize,
    /// Sites kept at one evaluation and reused at the next.
    kept: Vec<Site>,
    now: usize,
}

impl CachePolicy for Told {
    fn describe(&self) -> String {
        "told".into()
    }

    fn begin(&mut self, _run: &Run) -> residua::Result<()> {
        Ok(())
    }

    fn bytes(&self, run: &Run) -> u64 {
        run.stream_bytes() * (self.history.max(1) + self.kept.len() + 1) as u64
    }

    fn decide(&mut self, at: &Evaluation) -> Decision {
        self.now = at.index;
        self.decisions[at.index].clone()
    }

    fn answer(&mut self, _at: &Evaluation, relative_l1: Option<f64>) -> Decision {
        let small = relative_l1.is_some_and(|change| change < 0.5);
        self.below.clone().filter(|_| small).unwrap_or(Decision::Compute)
    }

    fn stores(&self) -> Option<Range<usize>> {
        self.stores.clone()
    }

    fn history(&self) -> usize {
        self.history
    }

    fn reuses(&self, site: Site) -> bool {
        self.now % 2 == 1 && self.kept.contains(&site)
    }

    fn keeps(&self, site: Site) -> bool {
        self.now.is_multiple_of(2) && self.kept.contains(&site)
    }

    fn finish(&mut self, _at: &Evaluation, changes: &[Change]) -> Vec<Row> {
        assert!(changes.is_empty(), "nothing is measured here");
        Vec::new()
    }
}

/// What the self-attention of a pair adds at an evaluation, to every number; its MLP adds twice that.
fn adds(depth: usize, evaluation: usize) -> f32 {
    (1 << (2 * depth)) as f32 * (1.0 + evaluation as f32 / 4.0)
}

fn site(depth: usize, branch: Branch) -> Site {
    Site { depth, axis: Axis::Spatial, branch }
}

/// One evaluation from a stream of zeros: what came out, everywhere the same number.
fn evaluate(gpu: &Gpu, cache: &mut ResidualCache, index: usize) -> (f32, Evaluated) {
    let filled = |value: f32| gpu.upload(&[value; NUMBERS], [1, 3, 5]);
    cache.begin_step();
    let pairs = async |cache: &mut ResidualCache, x: &Tensor| {
        let mut x = x.clone();
        for depth in 0..DEPTH {
            let pair = |cache: &mut ResidualCache, x: &Tensor| {
                let value = adds(depth, index);
                let branch = |value: f32| {
                    move |_: &mut ResidualCache, onto: Option<&Tensor>| {
                        onto.map_or_else(|| filled(value), |x| residua::ops::add(x, &filled(value)))
                    }
                };
                let x = cache.add(site(depth, Branch::SelfAttn), x, branch(value));
                cache.add(site(depth, Branch::Mlp), &x, branch(2.0 * value))
            };
            x = cache.pair(depth, &x, pair).await?;
        }
        Ok(x)
    };
    let input = || filled(1.0 + index as f32);
    let out = pollster::block_on(cache.stack(&filled(0.0), input, pairs)).expect("an evaluation");
    let out = out.read_blocking().expect("numbers");
    assert!(out.iter().all(|v| *v == out[0]), "{out:?}");
    (out[0], pollster::block_on(cache.end_step()).expect("an end"))
}

/// All evaluations a policy is told about.
fn run(told: Told) -> Vec<(f32, Evaluated)> {
    let gpu = open(None);
    let count = told.decisions.len();
    let part = |branch, flops| Part { axis: Axis::Spatial, branch, flops };
    let mut cache = ResidualCache::new(Box::new(told));
    cache
        .begin(Run {
            steps: count,
            timesteps: vec![500.0; count],
            depth: DEPTH,
            batch: 1,
            frames: 1,
            patches: 3,
            width: 5,
            pair: vec![part(Branch::SelfAttn, 1.0), part(Branch::Mlp, 3.0)],
        })
        .expect("a run");
    let taken = (0..count).map(|i| evaluate(&gpu, &mut cache, i)).collect();
    assert!(cache.bytes() <= cache.planned_bytes(), "{} of {} bytes", cache.bytes(), cache.planned_bytes());
    taken
}

/// What the pairs of a range add at an evaluation.
fn sum(range: Range<usize>, evaluation: usize) -> f32 {
    range.map(|depth| 3.0 * adds(depth, evaluation)).sum()
}

fn reuse(range: Range<usize>, weights: &[f64]) -> Decision {
    Decision::Reuse(range, weights.to_vec())
}

#[test]
fn without_a_policy_everything_runs() {
    let mut cache = ResidualCache::off();
    let (out, how) = evaluate(&open(None), &mut cache, 2);
    assert_eq!((out, how.computed, how.work, cache.bytes()), (sum(0..DEPTH, 2), true, 1.0, 0));
}

#[test]
fn all_pairs_are_left_out_and_combined() {
    let told = Told {
        decisions: vec![Decision::Compute, Decision::Compute, reuse(0..DEPTH, &[1.5, -0.5]), reuse(0..DEPTH, &[1.0])],
        stores: Some(0..DEPTH),
        history: 2,
        ..Told::default()
    };
    let taken = run(told);
    let [first, second] = [0, 1].map(|i| sum(0..DEPTH, i));
    assert_eq!(taken.iter().map(|t| t.0).collect::<Vec<_>>(), [first, second, 1.5 * second - 0.5 * first, second]);
    assert_eq!(taken.iter().map(|t| t.1.work).collect::<Vec<_>>(), [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(taken.iter().map(|t| t.1.computed).collect::<Vec<_>>(), [true, true, false, false]);
}

#[test]
fn a_range_is_left_out() {
    let told = Told {
        decisions: vec![Decision::Compute, reuse(1..3, &[1.0]), Decision::Compute],
        stores: Some(1..3),
        ..Told::default()
    };
    let taken = run(told);
    assert_eq!(taken[1].0, sum(0..1, 1) + sum(1..3, 0) + sum(3..4, 1));
    assert_eq!((taken[1].1.work, taken[1].1.computed), (0.5, false));
    assert_eq!(taken[2].0, sum(0..DEPTH, 2));
}

#[test]
fn what_is_not_there_is_computed() {
    let told = Told {
        // of the second two computations are asked, of the last another range
        decisions: vec![reuse(0..DEPTH, &[1.0]), reuse(0..DEPTH, &[1.5, -0.5]), reuse(0..2, &[1.0])],
        stores: Some(0..DEPTH),
        history: 2,
        ..Told::default()
    };
    let taken = run(told);
    for (i, (out, how)) in taken.iter().enumerate() {
        assert_eq!((*out, how.computed), (sum(0..DEPTH, i), true), "{i}");
    }
}

#[test]
fn single_branches_are_reused() {
    let told = Told {
        decisions: vec![Decision::Compute; 4],
        kept: vec![site(1, Branch::SelfAttn), site(3, Branch::Mlp)],
        ..Told::default()
    };
    let taken = run(told);
    for i in [1, 3] {
        let fresh = sum(0..DEPTH, i) - adds(1, i) - 2.0 * adds(3, i);
        assert_eq!(taken[i].0, fresh + adds(1, i - 1) + 2.0 * adds(3, i - 1));
        assert_eq!((taken[i].1.work, taken[i].1.computed), (12.0 / 16.0, true));
        assert_eq!(taken[i - 1].0, sum(0..DEPTH, i - 1));
    }
}

#[test]
fn a_signal_before_the_pairs_compares_with_the_evaluation_before() {
    let told = Told {
        decisions: vec![Decision::Ask(Probe::Input); 4],
        below: Some(reuse(0..DEPTH, &[1.0])),
        stores: Some(0..DEPTH),
        ..Told::default()
    };
    let taken = run(told);
    // inputs are 1, 2, 3, 4
    let signals: Vec<Option<f64>> = taken.iter().map(|t| t.1.signal).collect();
    assert_eq!(signals[..3], [None, Some(1.0), Some(0.5)]);
    assert!(signals[3].is_some_and(|s| (s - 1.0 / 3.0).abs() < 1e-6), "{signals:?}");
    assert_eq!(taken.iter().map(|t| t.1.computed).collect::<Vec<_>>(), [true, true, true, false]);
    assert_eq!(taken[3].0, sum(0..DEPTH, 2));
}

#[test]
fn a_signal_after_the_first_pair_compares_with_the_last_computation() {
    let told = Told {
        decisions: vec![Decision::Ask(Probe::Pairs(1)); 4],
        below: Some(reuse(1..DEPTH, &[1.0])),
        stores: Some(1..DEPTH),
        ..Told::default()
    };
    let taken = run(told);
    // the first pair adds 3 times 1, 1.25, 1.5, 1.75; the third is at the threshold, and computed
    let signals: Vec<Option<f64>> = taken.iter().map(|t| t.1.signal).collect();
    assert_eq!(signals[..3], [None, Some(0.25), Some(0.5)]);
    assert_eq!(taken[1].0, sum(0..1, 1) + sum(1..DEPTH, 0));
    assert_eq!((taken[1].1.work, taken[2].1.work), (0.25, 1.0));
    assert_eq!(taken[3].0, sum(0..1, 3) + sum(1..DEPTH, 2));
    assert!(signals[3].is_some_and(|s| (s - 1.0 / 6.0).abs() < 1e-6), "{signals:?}");
}
