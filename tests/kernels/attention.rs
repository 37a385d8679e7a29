//! Attention in its three forms: `stream`, `flash` and `wide` (which of them, the op decides).

use residua::gpu::Gpu;
use residua::ops::{self, Keys, Sequences};

use super::device::{on_each, words};
use super::heads::{angles, padded, random_split};
use super::judge::Judge;
use super::random::Random;
use super::reference::Expected;
use super::reference::attention::Attention;
use super::reference::heads::{Split, split};

#[derive(Clone, Debug, Default)]
struct Case {
    d: usize,
    heads: usize,
    problems: usize,
    inner: usize,
    queries: usize,
    keys: usize,
    /// First key and count of each problem.
    spans: Option<Vec<(usize, usize)>>,
    /// How far apart scores lie: 1 as in a trained model, 0 all equal, 100 one key takes all.
    spread: f32,
}

impl Case {
    fn run(&self, judge: &mut Judge<'_>, gpu: &Gpu, random: &mut Random, relative: Option<&[f32]>) {
        let Case { d, heads, problems, inner, queries, keys, spread, .. } = *self;
        let key_problems = if self.spans.is_some() { 1 } else { problems };
        let mut q = random.numbers(problems * heads * queries * d);
        q.iter_mut().for_each(|v| *v *= spread);
        let (k, v) = (random.numbers(key_problems * heads * keys * d), random.numbers(key_problems * heads * keys * d));
        let scale = 1.0 / (d as f32).sqrt();
        let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let (q64, k64, v64) = (wide(&q), wide(&k), wide(&v));
        let spans = self.spans.as_deref();
        let truth =
            Attention { q: &q64, k: &k64, v: &v64, problems, heads, queries, keys, d, inner, spans, relative, scale };
        let plain = Attention { q: &q, k: &k, v: &v, problems, heads, queries, keys, d, inner, spans, relative, scale };
        let out = truth.out();
        let floor = truth.floor(&out);
        let expected = Expected::twice_plain(out, &plain.out(), &floor, |_| 0);

        let wide = ops::padded_head(d);
        let q = gpu.upload(&padded(&q, d), [problems, heads, queries, wide]);
        let k = gpu.upload(&padded(&k, d), [key_problems, heads, keys, wide]);
        let v = gpu.upload(&padded(&v, d), [key_problems, heads, keys, wide]);
        let spans = self.spans.as_ref().map(|s| {
            let flat: Vec<u32> = s.iter().flat_map(|&(first, count)| [first as u32, count as u32]).collect();
            words(gpu, &flat, &[problems, 2])
        });
        let keys = spans.as_ref().map_or(Keys::Own, Keys::Packed);
        let relative = relative.map(|r| gpu.upload(r, [heads, 2 * queries - 1]));
        let seq = Sequences { len: queries, inner };
        let launch = || ops::attention(&q, &k, &v, d, seq, keys, relative.as_ref(), scale);
        judge.case(format!("{self:?}, bias {}", relative.is_some()), launch, &expected);
    }
}

const WIDTHS: [usize; 10] = [2, 6, 8, 24, 64, 72, 128, 132, 256, 512];
// up to 32 keys are streamed, longer ones come in blocks of 16, 32 or 64
const KEYS: [usize; 12] = [1, 2, 16, 31, 32, 33, 48, 63, 64, 65, 101, 300];
// a workgroup takes 64 queries, or 4 of a wide head
const QUERIES: [usize; 9] = [1, 3, 4, 5, 15, 63, 64, 65, 77];

/// Queries and keys that keep the reference below some millions of products.
fn sizes(random: &mut Random, d: usize) -> (usize, usize) {
    loop {
        let (queries, keys) = (random.pick(&QUERIES), random.pick(&KEYS));
        if queries * keys * d < 1_000_000 {
            return (queries, keys);
        }
    }
}

#[test]
fn own_keys() {
    on_each("attention", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "attention"), Random::new("attention"));
        for d in WIDTHS {
            for i in 0..5 {
                let (mut queries, mut keys) = sizes(&mut random, d);
                match i {
                    0 => keys = random.pick(&[1, 15, 32]), // short: streamed everywhere
                    1 => (queries, keys) = (random.pick(&[3, 5, 65]), random.pick(&[33, 65, 300])), // long
                    _ => {}
                }
                let (inner, outer) = (random.pick(&[1, 3]), random.pick(&[1, 2]));
                let heads = random.pick(&[1, 2, 3]);
                Case { d, heads, problems: inner * outer, inner, queries, keys, spread: 1.0, spans: None }.run(
                    &mut judge,
                    gpu,
                    &mut random,
                    None,
                );
            }
        }
        judge.finish();
    });
}

/// Captions of different lengths in one sequence: also of one token, of none, and all of them empty.
#[test]
fn packed_keys() {
    on_each("attention packed", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "attention packed"), Random::new("attention packed"));
        for d in [2, 72, 132] {
            for counts in [vec![7, 0, 1, 40], vec![33], vec![0, 0], vec![1, 20, 300, 0, 65, 2], vec![32, 64, 100, 5]] {
                let mut first = 0;
                let mut spans = Vec::new();
                for &count in &counts {
                    spans.push((first, count));
                    first += count;
                }
                let (queries, heads) = (random.pick(&[1, 5, 65]), random.pick(&[1, 2]));
                let inner = if counts.len() % 2 == 0 { random.pick(&[1, 2]) } else { 1 };
                // nothing at all to attend to, and a few keys that nobody sees
                let keys = if first == 0 { 0 } else { first + random.below(3) };
                let problems = counts.len();
                Case { d, heads, problems, inner, queries, keys, spread: 1.0, spans: Some(spans) }.run(
                    &mut judge,
                    gpu,
                    &mut random,
                    None,
                );
            }
        }
        judge.finish();
    });
}

/// T5's bias by distance, with distances nobody may look across (−10⁹, the least number, −∞).
#[test]
fn relative_bias() {
    on_each("attention bias", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "attention bias"), Random::new("attention bias"));
        for d in [8, 64, 132] {
            for (len, cut) in [(1, 0.0), (5, 0.0), (32, f32::MIN), (33, 0.0), (70, -1e9), (65, f32::NEG_INFINITY)] {
                let heads = random.pick(&[1, 3]);
                let mut table = random.numbers(heads * (2 * len - 1));
                if cut != 0.0 {
                    // all but the own place and the next two
                    for (i, v) in table.iter_mut().enumerate() {
                        let distance = (i % (2 * len - 1)) as isize - (len as isize - 1);
                        if !(0..3).contains(&distance) {
                            *v = cut;
                        }
                    }
                }
                Case { d, heads, problems: 2, inner: 1, queries: len, keys: len, spread: 1.0, spans: None }.run(
                    &mut judge,
                    gpu,
                    &mut random,
                    Some(&table),
                );
            }
        }
        let spans = Some(vec![(0, 9), (9, 12), (21, 1)]);
        let table = random.numbers(2 * 23);
        Case { d: 8, heads: 2, problems: 3, inner: 1, queries: 12, keys: 40, spread: 1.0, spans }.run(
            &mut judge,
            gpu,
            &mut random,
            Some(&table),
        );
        judge.finish();
    });
}

#[test]
fn unkind_scores() {
    on_each("attention unkind", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "attention unkind"), Random::new("attention unkind"));
        for d in [8, 72, 132] {
            for (queries, keys) in [(5, 20), (9, 101)] {
                for spread in [0.0, 30.0, 1e4] {
                    Case { d, heads: 2, problems: 1, inner: 1, queries, keys, spread, spans: None }.run(
                        &mut judge,
                        gpu,
                        &mut random,
                        None,
                    );
                }
            }
            // every key masked out: zeros, as where there is no key
            let table = vec![f32::NEG_INFINITY; 2 * 39 - 1];
            Case { d, heads: 1, problems: 1, inner: 1, queries: 39, keys: 39, spread: 1.0, spans: None }.run(
                &mut judge,
                gpu,
                &mut random,
                Some(&table),
            );
        }
        judge.finish();
    });
}

/// From the projection to the joined heads, as a layer does it: norm and rotary on queries and keys.
#[test]
fn a_whole_layer() {
    on_each("attention layer", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "attention layer"), Random::new("attention layer"));
        for (d, len) in [(72, 15), (72, 40), (24, 64), (6, 33)] {
            let q = Split { first: 0, ..random_split(&mut random, d, len) };
            let width = 3 * q.heads * d;
            let part = |i: usize| Split { first: i * q.heads * d, width, ..q };
            let x = random.numbers(q.rows * width);
            let weights = [random.numbers(d), random.numbers(d)];
            let turns = angles(len, d);
            let scale = 1.0 / (d as f32).sqrt();
            let (weight_q, weight_k) = (Some(&weights[0][..]), Some(&weights[1][..]));
            let problems = q.rows / len;
            macro_rules! layer {
                ($real:ty, $then:expr) => {{
                    let q_heads = split::<$real>(&x, &part(0), weight_q, Some(&turns));
                    let k_heads = split::<$real>(&x, &part(1), weight_k, Some(&turns));
                    let v_heads = split::<$real>(&x, &part(2), None, None);
                    let then: fn(Attention<'_, $real>) -> _ = $then;
                    then(Attention {
                        q: &q_heads,
                        k: &k_heads,
                        v: &v_heads,
                        problems,
                        heads: q.heads,
                        queries: len,
                        keys: len,
                        d,
                        inner: q.inner,
                        spans: None,
                        relative: None,
                        scale,
                    })
                }};
            }
            let (truth, floor) = layer!(f64, |a| {
                let out = a.out();
                let floor = a.floor(&out);
                (out, floor)
            });
            let plain = layer!(f32, |a| a.out());
            // queries and keys arrive rounded: some ten roundings each (see heads::floor), as a relative
            // error of every term of a score; attention's own floor counts two
            let floor: Vec<f64> = floor.iter().map(|f| 11.0 * f).collect();
            let expected = Expected::twice_plain(truth, &plain, &floor, |_| 0);

            let x = gpu.upload(&x, [q.rows, width]);
            let [weight_q, weight_k] = weights.map(|w| gpu.upload(&w, [d]));
            let turns = gpu.upload(&turns, [len, d / 2, 2]);
            let seq = Sequences { len, inner: q.inner };
            let launch = || {
                let part =
                    |i: usize, weight, turns| ops::split_heads(&x, i * q.heads * d, [q.heads, d], seq, weight, turns);
                let (q, k) = (part(0, Some(&weight_q), Some(&turns)), part(1, Some(&weight_k), Some(&turns)));
                ops::attention(&q, &k, &part(2, None, None), d, seq, Keys::Own, None, scale)
            };
            judge.case(format!("{q:?}"), launch, &expected);
        }
        judge.finish();
    });
}
