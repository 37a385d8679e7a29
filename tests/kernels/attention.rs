//! Attention in all its forms (`lanes`, `lanes_wide`; `short`, `flash`, `wide`; `coop`): which of them, the op decides.

use residua::Error;
use residua::gpu::{DType, Gpu};
use residua::ops::{self, Keys, Sequences};

use super::device::{kept, on_each_type, operands, words};
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
        let [q, k, v] = [q, k, v].map(|x| kept(gpu, x));
        let scale = 1.0 / (d as f32).sqrt();
        let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let (q64, k64, v64) = (wide(&q), wide(&k), wide(&v));
        let spans = self.spans.as_deref();
        let truth =
            Attention { q: &q64, k: &k64, v: &v64, problems, heads, queries, keys, d, inner, spans, relative, scale };
        let plain = Attention { q: &q, k: &k, v: &v, problems, heads, queries, keys, d, inner, spans, relative, scale };
        let out = truth.out();
        let floor = truth.floor(&out, gpu.matrices().is_some() && gpu.operands() == DType::F16);
        let expected = as_kept(gpu, d, Expected::twice_plain(out, &plain.out(), &floor, |_| 0));

        let wide = ops::padded_head(gpu, d);
        let q = operands(gpu, &padded(gpu, &q, d), [problems, heads, queries, wide]);
        let k = operands(gpu, &padded(gpu, &k, d), [key_problems, heads, keys, wide]);
        let v = operands(gpu, &padded(gpu, &v, d), [key_problems, heads, keys, wide]);
        let spans = self.spans.as_ref().map(|s| {
            let flat: Vec<u32> = s.iter().flat_map(|&(first, count)| [first as u32, count as u32]).collect();
            words(gpu, &flat, &[problems, 2])
        });
        let keys = spans.as_ref().map_or(Keys::Own, |spans| Keys::Packed(spans, spans.dims()[0]));
        let relative = relative.map(|r| gpu.upload(r, [heads, 2 * queries - 1]));
        let seq = Sequences { len: queries, inner };
        let launch = || ops::attention(&q, &k, &v, d, seq, keys, relative.as_ref(), scale);
        judge.case(format!("{self:?}, bias {}, {:?}", relative.is_some(), gpu.operands()), launch, &expected);
    }
}

/// The output feeds products: it is kept as operands are, heads of odd width excepted.
fn as_kept(gpu: &Gpu, d: usize, expected: Expected) -> Expected {
    if gpu.operands() == DType::F16 && d.is_multiple_of(2) { expected.in_halves() } else { expected }
}

const WIDTHS: [usize; 11] = [1, 2, 6, 8, 24, 64, 72, 128, 132, 256, 512];
// up to 64 keys make a short problem in buckets of 16, 32 and 64; longer ones come in blocks of 8, 16, 32 or 64
const KEYS: [usize; 14] = [1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 101, 300];
// a workgroup takes 16 or 32 queries, 64, 8 or 4 of a wide head
const QUERIES: [usize; 11] = [1, 3, 4, 5, 15, 33, 40, 63, 64, 65, 77];

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
    on_each_type("attention", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "attention"), Random::new("attention"));
        for d in WIDTHS {
            for i in 0..5 {
                let (mut queries, mut keys) = sizes(&mut random, d);
                match i {
                    0 => keys = random.pick(&[1, 15, 32]), // as patches through time
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
    on_each_type("attention packed", |gpu| {
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
    on_each_type("attention bias", |gpu| {
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
    on_each_type("attention unkind", |gpu| {
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
    on_each_type("attention layer", |gpu| {
        let (mut judge, mut random) = (Judge::new(gpu, "attention layer"), Random::new("attention layer"));
        for (d, len) in [(72, 15), (72, 40), (24, 64), (6, 33)] {
            let q = random_split(&mut random, d, len);
            let width = 3 * q.heads * d;
            let part = |i: usize| Split { first: i * q.heads * d, width, ..q };
            let x = kept(gpu, random.numbers(q.rows * width));
            let weights = [random.numbers(d), random.numbers(d)];
            let turns = angles(len, d);
            let scale = 1.0 / (d as f32).sqrt();
            let (weight_q, weight_k) = (Some(&weights[0][..]), Some(&weights[1][..]));
            let problems = q.rows / len;
            let halved = gpu.matrices().is_some() && gpu.operands() == DType::F16;
            macro_rules! layer {
                ($real:ty, $then:expr) => {{
                    let q_heads = split::<$real>(&x, &part(0), weight_q, Some(&turns));
                    let k_heads = split::<$real>(&x, &part(1), weight_k, Some(&turns));
                    let v_heads = split::<$real>(&x, &part(2), None, None);
                    let then = $then;
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
            let (truth, floor) = layer!(f64, |a: Attention<'_, f64>| {
                let out = a.out();
                let floor = a.floor(&out, halved);
                (out, floor)
            });
            let plain = layer!(f32, |a: Attention<'_, f32>| a.out());
            // queries and keys arrive rounded: some ten roundings each (see heads::floor), as a relative
            // error of every term of a score; attention's own floor counts two. Kept as halves they are rounded
            // once more: a rounding of those is 2^13 of f32.
            let rounds = if gpu.operands() == DType::F16 { 11.0 + 8192.0 } else { 11.0 };
            let floor: Vec<f64> = floor.iter().map(|f| rounds * f).collect();
            let expected = as_kept(gpu, d, Expected::twice_plain(truth, &plain, &floor, |_| 0));

            let x = operands(gpu, &x, [q.rows, width]);
            let [weight_q, weight_k] = weights.map(|w| gpu.upload(&w, [d]));
            let turns = gpu.upload(&turns, [len, d / 2, 2]);
            let seq = Sequences { len, inner: q.inner };
            let launch = || {
                let norms = [&weight_q, &weight_k];
                let [q, k, v] = ops::split_heads(&x, 0, [q.heads, d], seq, &norms, Some(&turns));
                ops::attention(&q, &k, &v, d, seq, Keys::Own, None, scale)
            };
            judge.case(format!("{q:?}, {:?}", gpu.operands()), launch, &expected);
        }
        judge.finish();
    });
}

/// Software drivers end an invocation after 65 535 loop iterations without a word: what would need more is refused,
/// and whatever is not refused has seen every key.
#[test]
fn long_sequences_are_whole_or_refused() {
    on_each_type("attention long", |gpu| {
        for keys in [20_000, 45_000, 70_000] {
            let wide = ops::padded_head(gpu, 8);
            let q = operands(gpu, &vec![0.0; wide], [1, 1, 1, wide]);
            let k = operands(gpu, &vec![0.0; keys * wide], [1, 1, keys, wide]);
            // equal scores, so the mean of the values: a share of the keys, the last ones
            let last = keys / 50;
            let mut v = vec![0.0; keys * wide];
            v[(keys - last) * wide..].fill(1.0);
            let v = operands(gpu, &v, [1, 1, keys, wide]);
            let seq = Sequences { len: 1, inner: 1 };
            match ops::attention(&q, &k, &v, 8, seq, Keys::Own, None, 1.0).read_blocking() {
                Ok(mean) => {
                    let want = last as f32 / keys as f32;
                    let off = mean.iter().map(|m| (m - want).abs()).fold(0.0, f32::max);
                    // rounding to halves, and of a sum of up to 70 000 ones (exact in f32)
                    assert!(off <= want * 1e-3, "{keys} keys on {:?}: {mean:?}, not {want}", gpu.class());
                }
                Err(Error::Limit { .. }) => assert!(keys > 45_000, "{keys} keys on {:?} are refused", gpu.class()),
                Err(other) => panic!("{keys} keys on {:?}: {other}", gpu.class()),
            }
        }
    });
}
