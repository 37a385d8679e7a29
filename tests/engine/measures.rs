//! What the seam tells a policy about residuals, against the same by hand.

use residua::cache::{
    Axis, Branch, Change, Codebook, Distance, Layers, MoReg, Part, Recorder, Residual, ResidualCache, Run, Settings,
    Site,
};
use residua::ops;

use super::device::open;

const FRAMES: usize = 3;
const NUMBERS: usize = FRAMES * 8;
const BACK: usize = 3;
const EVALUATIONS: usize = 6;

/// What the branch adds at an evaluation: turns and grows, so that no two distances are alike.
fn residual(evaluation: usize) -> Vec<f32> {
    (0..NUMBERS).map(|i| (1.0 + 0.3 * evaluation as f32) * ((i + i * evaluation) as f32 * 0.4).sin() + 0.1).collect()
}

/// Distance of the new from the old, in f64.
fn distance(how: Distance, old: &[f32], new: &[f32]) -> f64 {
    let sum =
        |of: &dyn Fn(f64, f64) -> f64| old.iter().zip(new).map(|(a, b)| of((*a).into(), (*b).into())).sum::<f64>();
    match how {
        Distance::L1 => sum(&|a, b| (a - b).abs()) / sum(&|a, _| a.abs()),
        Distance::L2 => (sum(&|a, b| (a - b).powi(2)) / sum(&|a, _| a * a)).sqrt(),
        Distance::Cosine => 1.0 - sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt(),
    }
}

/// Frames so far apart, in f64.
fn motion(new: &[f32], stride: usize) -> f64 {
    let shift = stride * NUMBERS / FRAMES;
    let pairs = || new[shift..].iter().zip(new).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    pairs().map(|(a, b)| (a - b).abs()).sum::<f64>() / pairs().map(|(a, b)| a.abs() + b.abs()).sum::<f64>()
}

/// All that was told, evaluation by evaluation, and the streams that came out, of what was kept reused as well.
fn watch(how: Distance) -> (Vec<Vec<Change>>, Vec<[f32; 2]>) {
    let gpu = open(None);
    let moreg = MoReg { strides: vec![1, 2], ..MoReg::released(EVALUATIONS) };
    let settings = Settings {
        residual: Residual::Mlp,
        layers: Layers::End,
        distance: how,
        moreg: Some(moreg),
        ..Settings::released(Codebook::fast())
    };
    let mut cache = ResidualCache::new(Box::new(Recorder::new(settings, BACK)));
    let part = Part { axis: Axis::Spatial, branch: Branch::Mlp, flops: 1.0 };
    let run = Run {
        steps: EVALUATIONS,
        timesteps: vec![500.0; EVALUATIONS],
        depth: 1,
        batch: 1,
        frames: FRAMES,
        patches: 2,
        width: 4,
        pair: vec![part],
    };
    cache.begin(run).unwrap();
    let x = gpu.upload(&[1.0; NUMBERS], [1, FRAMES * 2, 4]);
    let site = Site { depth: 0, axis: Axis::Spatial, branch: Branch::Mlp };
    let pass = |cache: &mut ResidualCache, evaluation: usize| {
        let own = gpu.upload(&residual(evaluation), [1, FRAMES * 2, 4]);
        let branch = |_: &mut ResidualCache, onto: Option<&_>| onto.map_or_else(|| own.clone(), |x| ops::add(x, &own));
        let pairs =
            async |cache: &mut ResidualCache, x: &_| cache.pair(0, x, |cache, x| cache.add(site, x, branch)).await;
        let out = pollster::block_on(cache.stack(&x, || x.clone(), pairs)).unwrap();
        out.read_blocking().unwrap()[5]
    };
    let mut told = Vec::new();
    let mut streams = Vec::new();
    for evaluation in 0..EVALUATIONS {
        cache.begin_step();
        let computed = pass(&mut cache, evaluation);
        let age = evaluation.min(BACK);
        let mut weights = vec![0.0; age + 1];
        weights[age] = 1.0;
        cache.suppose(weights);
        let supposed = pass(&mut cache, evaluation);
        let evaluated = pollster::block_on(cache.end_step()).unwrap();
        assert!(evaluated.computed && evaluated.work == 1.0 && evaluated.branches == Some(1), "{evaluated:?}");
        told.push(evaluated.changes);
        streams.push([computed, supposed]);
    }
    assert!(cache.bytes() <= cache.planned_bytes(), "{} of {}", cache.bytes(), cache.planned_bytes());
    (told, streams)
}

#[test]
fn distances_and_motion_by_hand() {
    for how in [Distance::L1, Distance::L2, Distance::Cosine] {
        let (told, _) = watch(how);
        assert!(told[0].is_empty(), "nothing to compare with yet");
        for (evaluation, changes) in told.iter().enumerate().skip(1) {
            let [change] = &changes[..] else { panic!("{how:?}: {changes:?}") };
            assert_eq!((change.distances.len(), change.motion.len()), (evaluation.min(BACK), 2), "{how:?}");
            let new = residual(evaluation);
            let near = |a: f64, b: f64| (a - b).abs() < 2e-6 * b.abs().max(1e-2);
            for (i, got) in change.distances.iter().enumerate() {
                let expected = distance(how, &residual(evaluation - 1 - i), &new);
                assert!(near(*got, expected), "{how:?}, {evaluation} from {i} before: {got} for {expected}");
            }
            for (stride, got) in [1, 2].into_iter().zip(&change.motion) {
                let expected = motion(&new, stride);
                assert!(near(*got, expected), "{how:?}, {evaluation}, stride {stride}: {got} for {expected}");
            }
        }
    }
}

#[test]
fn what_is_supposed_counts_for_nothing() {
    let (_, streams) = watch(Distance::L1);
    for (evaluation, [computed, supposed]) in streams.into_iter().enumerate() {
        let from = evaluation - evaluation.min(BACK);
        let near = |a: f32, b: f32| (a - b).abs() < 1e-5;
        assert!(
            near(computed, 1.0 + residual(evaluation)[5]) && near(supposed, 1.0 + residual(from)[5]),
            "{evaluation}"
        );
    }
}
