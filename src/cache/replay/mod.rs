//! What AdaCache would have done, by what an uncached run told: no network runs here.
//!
//! A reused step adds another step's sum of residuals to the embedded latent, so what reuse would have given at a step
//! follows from recorded sums with one pass of the final layer; along the uncached run that is the error of this step.
//! Errors of several steps are added, each as large as errors of its step were found to become by the end of the run; that
//! they also turn is left out. It is a model of first order, good for choosing between schedules; the winner has to run.

mod search;

pub use search::{Found, Goal, Search, found, search};

use super::{AdaCache, CachePolicy, Change, Decision, Run, Settings};
use crate::error::Result;

/// Numbers of a sketch: its squared length is that of what it stands for, to some 3 in 100.
const SKETCH: usize = 2048;

/// A list of numbers in short: itself if it is short, else random sums of it, which keep lengths and angles.
///
/// Source: Charikar, Chen, Farach-Colton, "Finding frequent items in data streams", 2002 (the count sketch).
pub fn sketch(numbers: impl ExactSizeIterator<Item = f32>) -> Vec<f32> {
    if numbers.len() <= SKETCH {
        return numbers.collect();
    }
    let mut sums = vec![0.0f32; SKETCH];
    for (i, number) in numbers.enumerate() {
        let hash = mixed(i as u64);
        sums[(hash >> 1) as usize % SKETCH] += if hash & 1 == 0 { number } else { -number };
    }
    sums
}

/// SplitMix64's finaliser.
fn mixed(i: u64) -> u64 {
    let z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An uncached run.
#[derive(Clone, Debug)]
pub struct Recording {
    run: Run,
    changes: Vec<Vec<Change>>,
    errors: Vec<Vec<Vec<f32>>>,
}

/// How a policy would have gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// Which evaluations compute.
    pub computed: Vec<bool>,
    /// Length of the error of the final latent, to first order; infinite if something older than was recorded is reused.
    pub error: f64,
}

impl Replay {
    /// Evaluations that compute.
    pub fn count(&self) -> usize {
        self.computed.iter().filter(|c| **c).count()
    }
}

impl Recording {
    /// At each evaluation: the changes against the residuals of 1, 2, … evaluations before, and the error of the latent
    /// after it had the sums of these been reused, as [`sketch`] gives it. `growth`: by how much errors of some evaluations,
    /// in ascending order, had grown at the end of the run; for others that is interpolated, in logarithms.
    ///
    /// # Panics
    /// If the lists are not as long as the run.
    pub fn new(run: Run, changes: Vec<Vec<Change>>, mut errors: Vec<Vec<Vec<f32>>>, growth: &[(usize, f64)]) -> Self {
        let count = run.evaluations();
        assert!(changes.len() == count && errors.len() == count, "a recording of {count} evaluations");
        for (i, errors) in errors.iter_mut().enumerate() {
            let grown = grown(growth, count, i) as f32;
            errors.iter_mut().flatten().for_each(|v| *v *= grown);
        }
        Self { run, changes, errors }
    }

    /// The run it is of.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Distances of the first measured site at an evaluation (from 0), from the residuals of 1, 2, … before.
    pub fn distances(&self, evaluation: usize) -> &[f64] {
        self.changes[evaluation].first().map_or(&[], |change| &change.distances)
    }

    /// Motion scores at the first stride of the first measured site at an evaluation, if there are any.
    pub fn motion(&self, evaluation: usize) -> Option<f64> {
        self.changes[evaluation].first().and_then(|change| change.motion.first().copied())
    }

    /// AdaCache with these settings: its own code, told of the recorded changes as it would have been of measured ones.
    ///
    /// # Errors
    /// If the settings do not fit the run.
    pub fn adacache(&self, settings: &Settings) -> Result<Replay> {
        let mut policy = AdaCache::new(settings.clone());
        policy.begin(&self.run)?;
        Ok(self.policy(&mut policy))
    }

    /// The same of any policy that reuses whole stacks and asks for nothing inside an evaluation, and has begun.
    pub fn policy(&self, policy: &mut dyn CachePolicy) -> Replay {
        let mut total: Vec<f64> = Vec::new();
        let mut before: Vec<usize> = Vec::new();
        let (mut known, mut computed) = (true, Vec::new());
        for i in 0..self.run.evaluations() {
            match policy.decide(&self.run.at(i)) {
                Decision::Reuse(_, weights) if !before.is_empty() => {
                    computed.push(false);
                    for (&from, &weight) in before.iter().rev().zip(&weights) {
                        let Some(error) = self.errors[i].get(i - from - 1) else {
                            known = false;
                            continue;
                        };
                        total.resize(error.len(), 0.0);
                        total.iter_mut().zip(error).for_each(|(sum, e)| *sum += weight * f64::from(*e));
                    }
                }
                _ => {
                    computed.push(true);
                    let changes = before.last().map_or(Vec::new(), |&from| self.changes_since(i, from));
                    before.push(i);
                    policy.finish(&self.run.at(i), &changes);
                }
            }
        }
        let error = if known { total.iter().map(|v| v * v).sum::<f64>().sqrt() } else { f64::INFINITY };
        Replay { computed, error }
    }

    /// What would have been measured at evaluation i, had the one at `from` been the last that computed.
    fn changes_since(&self, i: usize, from: usize) -> Vec<Change> {
        let since = |change: &Change| {
            let distances = change.distances.get(i - from - 1).map(|d| vec![*d]);
            // older than anything recorded: as far as can be
            Change { distances: distances.unwrap_or(vec![f64::INFINITY]), ..change.clone() }
        };
        self.changes[i].iter().map(since).collect()
    }
}

/// Growth of an error made at evaluation i, by that of others; the last one's does not grow.
fn grown(growth: &[(usize, f64)], count: usize, i: usize) -> f64 {
    let usable = growth.iter().filter(|(_, g)| g.is_finite() && *g > 0.0);
    let points: Vec<(f64, f64)> =
        usable.map(|&(at, g)| (at as f64, g.ln())).chain([(count as f64 - 1.0, 0.0)]).collect();
    let i = i as f64;
    let after = points.iter().position(|(at, _)| *at >= i).unwrap_or(points.len() - 1);
    let (right, value) = points[after];
    let ln = match after.checked_sub(1).map(|before| points[before]) {
        Some((left, low)) if right > left => low + (value - low) * ((i - left) / (right - left)).clamp(0.0, 1.0),
        _ => value,
    };
    ln.exp()
}

/// The length of a vector.
pub(crate) fn length(numbers: &[f32]) -> f64 {
    numbers.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::testing::run;
    use super::super::{Axis, Branch, Codebook, Fixed, Site};
    use super::*;

    /// A run of which distances and errors grow evenly with age, `pace` of the evaluation times.
    pub fn even(steps: usize, back: usize, pace: impl Fn(usize) -> f64) -> Recording {
        let site = Site { depth: 13, axis: Axis::Temporal, branch: Branch::SelfAttn };
        let ages = |i: usize| 1..=back.min(i);
        let change =
            |i: usize| Change { site, distances: ages(i).map(|a| a as f64 * pace(i)).collect(), motion: vec![0.5] };
        let changes = (0..steps).map(|i| if i == 0 { vec![] } else { vec![change(i)] }).collect();
        let errors = (0..steps).map(|i| ages(i).map(|a| vec![a as f32 * pace(i) as f32, 0.0]).collect()).collect();
        Recording::new(run(steps), changes, errors, &[])
    }

    #[test]
    fn sketches_keep_lengths_and_angles() {
        let wave = |i: usize, shift: f32| (i as f32 * 0.37 + shift).sin();
        let of = |shift: f32| sketch((0..100_000).map(|i| wave(i, shift)));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let (a, b) = (of(0.0), of(1.0));
        // ½ and ½ cos 1 of each number
        assert!((dot(&a, &a) / 50_000.0 - 1.0).abs() < 0.1, "{}", dot(&a, &a));
        assert!((dot(&a, &b) / 50_000.0 - 1f64.cos()).abs() < 0.1, "{}", dot(&a, &b));
        assert_eq!(sketch([1.0, 2.0].into_iter()), [1.0, 2.0]);
    }

    #[test]
    fn errors_grow_as_those_beside_them() {
        let growth = [(2, 4.0), (4, 1.0)];
        let grown: Vec<f64> = (0..10).map(|i| super::grown(&growth, 10, i)).collect();
        for (i, expected) in [(0, 4.0), (2, 4.0), (3, 2.0), (4, 1.0), (7, 1.0), (9, 1.0)] {
            assert!((grown[i] - expected).abs() < 1e-12, "{i}: {grown:?}");
        }
        assert_eq!(super::grown(&[(3, f64::NAN)], 10, 3), 1.0);
    }

    #[test]
    fn decisions_are_those_of_the_policy() {
        let recording = even(30, 12, |_| 0.05);
        // 0.05 a step, whatever the age: always below the first threshold
        let fast = recording.adacache(&Settings::released(Codebook::fast())).unwrap();
        let computed: Vec<usize> = (1..=30).filter(|&step| fast.computed[step - 1]).collect();
        assert_eq!(computed, [1, 2, 8, 14, 20, 26, 29, 30]);
        // four times 1 + … + 5, once 1 + 2, all in one direction
        assert!((fast.error - 0.05 * 63.0).abs() < 1e-5, "{}", fast.error);
        assert_eq!(fast.count(), 8);
        let short = even(30, 3, |_| 0.05).adacache(&Settings::released(Codebook::fast())).unwrap();
        assert_eq!(short.error, f64::INFINITY, "five steps back were not recorded");
    }

    #[test]
    fn lines_are_extrapolated_without_error() {
        let recording = even(30, 12, |_| 0.05);
        let settings = Settings { order: 1, ..Settings::released(Codebook::fast()) };
        let error = recording.adacache(&settings).unwrap().error;
        assert!(error < 1e-5, "{error}");
    }

    #[test]
    fn other_policies_are_replayed_too() {
        let mut policy = Fixed::every(3);
        policy.begin(&run(7)).unwrap();
        let replay = even(7, 4, |_| 1.0).policy(&mut policy);
        assert_eq!((replay.count(), replay.error), (3, 6.0));
    }
}
