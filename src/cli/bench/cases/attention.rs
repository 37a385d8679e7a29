//! Attention, and the splitting of a projection into heads in front of it.
//! Shapes: of attention problems, heads, queries, keys, head; of splitting rows, heads, head, length of a sequence.

use residua::gpu::DType;
use residua::ops::{self, Keys, Sequences};

use super::{CAPTION, Case, FRAMES, HEADS, PATCHES, Ready, Sample, TOKENS, bytes};
use crate::cli::bench::numbers::{Numbers, some};
use crate::cli::bench::reference::Expected;
use crate::cli::bench::reference::attention::Attention;
use crate::cli::bench::reference::heads::{Split, floor, split};

pub fn cases(full: bool) -> Vec<Case> {
    let pick = |large, small| if full { large } else { small };
    let [heads, d] = HEADS;
    let few = pick(heads, 4);
    let (frames, across) = (pick(FRAMES, 1), pick(TOKENS, PATCHES));
    let spatial = Layout { problems: frames, heads: few, queries: PATCHES, keys: PATCHES, d, inner: 1 };
    let temporal = Layout { problems: PATCHES, heads: few, queries: FRAMES, keys: FRAMES, d, inner: PATCHES };
    let cross = Layout { problems: 1, heads: few, queries: across, keys: CAPTION, d, inner: 1 };
    let text = Layout { problems: 1, heads: pick(64, 8), queries: CAPTION, keys: CAPTION, d: 64, inner: 1 };
    let pixels = pick(60 * 106, 16 * 16);
    let image = Layout { problems: 1, heads: 1, queries: pixels, keys: pixels, d: 512, inner: 1 };
    vec![
        split_case("stdit3.480p.split.spatial", frames * PATCHES, Sequences { len: PATCHES, inner: 1 }, false),
        split_case(
            "stdit3.480p.split.temporal",
            pick(TOKENS, 150 * FRAMES),
            Sequences { len: FRAMES, inner: pick(PATCHES, 150) },
            true,
        ),
        case("stdit3.480p.attention.spatial", spatial, Kind::Own),
        case("stdit3.480p.attention.temporal", temporal, Kind::Own),
        case("stdit3.480p.attention.cross", cross, Kind::Packed),
        case("t5xxl.attention", text, Kind::Relative),
        case("vae.spatial.attention.512", image, Kind::Own),
    ]
}

#[derive(Clone, Copy)]
struct Layout {
    problems: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    d: usize,
    /// Sequences interleaved row by row.
    inner: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Every problem has its own keys.
    Own,
    /// Keys come packed, with their place in a table.
    Packed,
    /// Own keys, and a bias by distance.
    Relative,
}

fn case(name: &'static str, l: Layout, kind: Kind) -> Case {
    let Layout { problems, heads, queries, keys, d, inner } = l;
    let flops = 4.0 * (problems * heads * queries * keys * d) as f64;
    let prepare = move |gpu: &residua::gpu::Gpu, set: usize| {
        let (stream, width) = (8 * set, heads * d);
        let seq = Sequences { len: queries, inner };
        let key_problems = if kind == Kind::Packed { 1 } else { problems };
        let key_seq = if kind == Kind::Packed { Sequences { len: keys, inner: 1 } } else { seq };
        // as a layer makes them, so that they lie as the kernel wants them
        let part = |number: usize, rows: usize, seq: Sequences| {
            let x = Numbers::new(stream + number, rows * width, DType::F32).upload(gpu, [rows, width]);
            let [part] = ops::split_heads(&x, 0, [heads, d], seq, &[], None);
            part
        };
        let q = part(0, problems * queries, seq);
        let (k, v) = (part(1, key_problems * keys, key_seq), part(2, key_problems * keys, key_seq));
        let spans = (kind == Kind::Packed).then(|| {
            let words = (0..problems).flat_map(|_| [0, keys as u32]).map(f32::from_bits);
            gpu.upload(&words.collect::<Vec<_>>(), [problems, 2])
        });
        let relative =
            (kind == Kind::Relative).then(|| Numbers::new(stream + 3, heads * (2 * queries - 1), DType::F32));
        let relative_there = relative.map(|r| r.upload(gpu, [heads, 2 * queries - 1]));
        let reads = bytes(&[&q, &k, &v]);
        let matrices = gpu.matrices().is_some();
        let scale = (d as f32).sqrt().recip();
        let inputs = [q.clone(), k.clone(), v.clone()];
        let launch = move || {
            let keys = spans.as_ref().map_or(Keys::Own, |spans| Keys::Packed(spans, spans.dims()[0]));
            ops::attention(&q, &k, &v, d, seq, keys, relative_there.as_ref(), scale)
        };
        let sample = move || {
            // what the kernel reads, padding left out
            let [q, k, v] = inputs.each_ref().map(|t| {
                let padded = t.dims()[3];
                let all = t.read_blocking().unwrap_or_default();
                all.chunks_exact(padded).flat_map(|head| head[..d].iter().copied()).collect::<Vec<f32>>()
            });
            let (mut at, mut expected) = (Vec::new(), Expected::default());
            for (problem, head) in some(stream, 2, problems).into_iter().zip(some(stream, 2, heads)) {
                let (own, sequence) =
                    (problem * heads + head, if key_problems == 1 { head } else { problem * heads + head });
                // a bias belongs to places, so all queries are needed then
                let places = if relative.is_some() { (0..queries).collect() } else { some(stream, 12, queries) };
                let rows = |x: &[f32], from: usize, at: &[usize]| -> Vec<f32> {
                    at.iter().flat_map(|i| x[(from + i) * d..][..d].iter().copied()).collect()
                };
                let every: Vec<usize> = (0..keys).collect();
                let q = rows(&q, own * queries, &places);
                let (k, v) = (rows(&k, sequence * keys, &every), rows(&v, sequence * keys, &every));
                let span = 2 * queries - 1;
                let relative = relative.map(|r| r.pick(head * span..(head + 1) * span));
                let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
                let (q64, k64, v64) = (wide(&q), wide(&k), wide(&v));
                let one = One { queries: places.len(), keys, d, relative: relative.as_deref(), scale };
                let truth = one.of(&q64, &k64, &v64);
                let out = truth.out();
                let floor = truth.floor(&out, matrices);
                let judged = Expected::twice_plain(out, &one.of(&q, &k, &v).out(), &floor, |_| 0);
                for (i, place) in places.iter().enumerate() {
                    let row = (problem / inner * queries + place) * inner + problem % inner;
                    for e in 0..d {
                        at.push((row * heads + head) * d + e);
                        expected.push(judged.values[i * d + e], judged.bounds[i * d + e]);
                    }
                }
            }
            Sample { at, expected }
        };
        Ready { launch: Box::new(launch), reads, sample: Box::new(sample) }
    };
    Case { name, shape: vec![problems, heads, queries, keys, d], flops, prepare: Box::new(prepare) }
}

/// One head of one problem, for the reference.
struct One<'a> {
    queries: usize,
    keys: usize,
    d: usize,
    relative: Option<&'a [f32]>,
    scale: f32,
}

impl<'a> One<'a> {
    fn of<F>(&self, q: &'a [F], k: &'a [F], v: &'a [F]) -> Attention<'a, F> {
        let One { queries, keys, d, relative, scale } = *self;
        Attention { q, k, v, problems: 1, heads: 1, queries, keys, d, inner: 1, spans: None, relative, scale }
    }
}

/// Queries, keys and values out of a joint projection, queries and keys with norm and, along time, rotary. The queries
/// are checked.
fn split_case(name: &'static str, rows: usize, seq: Sequences, rotary: bool) -> Case {
    let [heads, d] = HEADS;
    let width = 3 * heads * d;
    let prepare = move |gpu: &residua::gpu::Gpu, set: usize| {
        let stream = 8 * set;
        let x = Numbers::new(stream, rows * width, DType::F32);
        let weight = Numbers::new(stream + 1, d, DType::F32);
        let turns = rotary.then(|| angles(seq.len, d));
        let (x_there, weight_there) = (x.upload(gpu, [rows, width]), weight.upload(gpu, [d]));
        let turns_there = turns.as_ref().map(|t| gpu.upload(t, [seq.len, d / 2, 2]));
        let padded = ops::padded_head(gpu, d);
        // keys and values are written as well, but not returned
        let unseen = 2 * rows * heads * padded * gpu.operands().size();
        let reads = x_there.bytes() + unseen as u64;
        let launch = move || {
            let norms = [&weight_there, &weight_there];
            let [q, _, _] = ops::split_heads(&x_there, 0, [heads, d], seq, &norms, turns_there.as_ref());
            q
        };
        let sample = move || {
            let (mut at, mut expected) = (Vec::new(), Expected::default());
            for problem in some(stream, 3, rows / seq.len) {
                let own: Vec<usize> = (0..seq.len)
                    .map(|place| (problem / seq.inner * seq.len + place) * seq.inner + problem % seq.inner)
                    .collect();
                let x = x.rows(&own, width);
                let part = Split { rows: seq.len, width, first: 0, heads, d, len: seq.len, inner: 1 };
                let weight = weight.pick(0..d);
                let truth = split::<f64>(&x, &part, Some(&weight), turns.as_deref());
                let plain = split::<f32>(&x, &part, Some(&weight), turns.as_deref());
                let floor = floor(&truth, true, rotary);
                let judged = Expected::twice_plain(truth, &plain, &floor, |i| i / d);
                for i in 0..judged.values.len() {
                    at.push((problem * heads * seq.len + i / d) * padded + i % d);
                    expected.push(judged.values[i], judged.bounds[i]);
                }
            }
            Sample { at, expected }
        };
        Ready { launch: Box::new(launch), reads, sample: Box::new(sample) }
    };
    Case { name, shape: vec![rows, heads, d, seq.len], flops: 0.0, prepare: Box::new(prepare) }
}

/// cos and sin of place / 10000^(2j/d), `[len, d/2, 2]`.
fn angles(len: usize, d: usize) -> Vec<f32> {
    let angle = |place: usize, j: usize| place as f64 / 10_000f64.powf(2.0 * j as f64 / d as f64);
    (0..len).flat_map(|p| (0..d / 2).flat_map(move |j| [angle(p, j).cos() as f32, angle(p, j).sin() as f32])).collect()
}
