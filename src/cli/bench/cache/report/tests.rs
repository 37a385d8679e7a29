//! Whole pages of small numbers, kind and unkind.

use super::html::{DASH, flops, interval, seconds, shorten};
use super::record::{EQUAL_PSNR, Line, Quality, VERSION};
use super::svg::Scale;
use super::*;

const EVIL: &str = "</title><script>alert('1')</script> & \"two\"";

fn head() -> Head {
    Head {
        v: VERSION,
        model: "Model <b>".into(),
        weights: "tiny".into(),
        adapter: "adapter".into(),
        driver: "driver".into(),
        kernels: "plain".into(),
        dtype: "f32".into(),
        commit: None,
        steps: 6,
        guidance: 7.5,
        size: [64, 48, 5],
        fps: 8.0,
        repeats: 2,
        step_flops: 3e9,
        branches: 12,
    }
}

fn line(work: f64, i: usize) -> Line {
    let measured = |value: f64| (work > 0.0).then_some(value);
    Line {
        computed: work > 0.0,
        work,
        branches: None,
        seconds: 0.1 * work + 0.001,
        signal: measured(0.1),
        distance: measured(10f64.powi(-(i as i32))),
        motion: measured(1.0 + i as f64),
        rate: None,
    }
}

fn record(prompt: &str, group: &str, policy: &str, every: usize, psnr: Option<f64>) -> Record {
    Record {
        prompt: prompt.into(),
        group: Some(group.into()),
        seed: 3,
        policy: policy.into(),
        name: format!("{policy} itself"),
        seconds: vec![1.0 / every as f64],
        uncached_seconds: vec![1.0],
        steps: (0..6).map(|i| line(if i % every == 0 { 1.0 } else { 0.0 }, i)).collect(),
        cache_bytes: 2048,
        planned_bytes: 2048,
        motion: 2.0,
        quality: psnr.map(|psnr| Quality { psnr, ssim: 0.9, flip: 0.1, worst_frame: 1, worst_psnr: psnr - 3.0 }),
        picture: Some(format!("{policy}.png")),
    }
}

fn records() -> Vec<Record> {
    let prompts = [("a calm lake", "calm"), (EVIL, "calm"), ("a race", "lively"), ("fire & smoke", "lively")];
    let runs = |(i, (prompt, group)): (usize, (&str, &str))| {
        [
            record(prompt, group, "none", 1, None),
            record(prompt, group, "adacache:preset=<fast>", 2 + i % 2, Some(30.0 + i as f64)),
            record(prompt, group, "static:every=3", 3, Some(25.0)),
        ]
    };
    prompts.into_iter().enumerate().flat_map(runs).collect()
}

fn page_of(records: &[Record], png: Option<&[u8]>) -> String {
    page(&Results::new(&head(), records), records, &|_| png.map(<[u8]>::to_vec))
}

/// Panics where tags do not close each other; returns all text between them, as written.
fn text_of(html: &str) -> String {
    let (mut open, mut text, mut rest) = (Vec::new(), String::new(), html);
    while let Some((before, after)) = rest.split_once('<') {
        text += before;
        let (tag, next) = after.split_once('>').expect("a tag ends");
        assert!(tag.matches('"').count() % 2 == 0, "quotes of <{tag}>");
        let name = tag.split_whitespace().next().unwrap_or_default().trim_end_matches('/');
        let void = tag.ends_with('/') || matches!(name, "!DOCTYPE" | "meta" | "img" | "wbr");
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "</{name}>"),
            None if !void => open.push(name),
            None => {}
        }
        rest = next;
    }
    assert!(open.is_empty(), "left open: {open:?}");
    text + rest
}

/// What no page may hold, whatever the data.
fn check(html: &str) -> String {
    let text = text_of(html);
    for wrong in ["<script", "NaN", "inf ", "Model <b>", "http:", "https:", "url(", "\\"] {
        assert!(!html.contains(wrong), "{wrong}");
    }
    text
}

#[test]
fn everything_is_there() {
    let records = records();
    let html = page_of(&records, Some(b"\x89PNG\r\n\x1a\n"));
    let text = check(&html);
    for record in &records {
        assert!(text.contains(&escape(&record.prompt)), "{}", record.prompt);
        assert!(text.contains(&escape(&record.policy)), "{}", record.policy);
    }
    for heading in ["Speed against", "All numbers", "Step by step", "on the way", "Adapting", "Side by side", "mean"] {
        assert!(text.contains(heading), "{heading}");
    }
    assert_eq!(html.matches("data:image/png;base64,iVBORw0KGgo=").count(), records.len());
    assert!(html.contains("log scale"), "distances span five decades");
}

#[test]
fn little_is_enough() {
    let mut one = record(EVIL, "", "fbcache", 2, Some(EQUAL_PSNR));
    (one.group, one.picture) = (None, None);
    let text = check(&page_of(&[one.clone()], None));
    assert!(!text.contains("Adapting") && !text.contains("Side by side"));
    one.steps.clear();
    check(&page_of(&[one], None));
    check(&page_of(&[record("a", "b", "none", 1, None)], None));
    assert!(check(&page_of(&[], None)).contains("No cached run"));
}

#[test]
fn missing_numbers_are_dashes() {
    let mut broken = record("a", "b", "adacache", 2, Some(f64::NAN));
    (broken.seconds, broken.uncached_seconds) = (Vec::new(), Vec::new());
    broken.motion = f64::NAN;
    for step in &mut broken.steps {
        (step.seconds, step.distance, step.signal) = (f64::NAN, Some(f64::NAN), Some(f64::INFINITY));
    }
    let whole = record("a", "b", "static", 3, Some(30.0));
    assert!(check(&page_of(&[broken.clone(), whole], None)).contains(DASH));
    broken.steps.iter_mut().for_each(|s| s.work = f64::NAN);
    check(&page_of(&[broken], None));
}

#[test]
fn many_runs_fold() {
    let many: Vec<Record> =
        (0..15).map(|i| record(&format!("prompt {i}"), "g", "adacache", 1 + i % 3, Some(30.0))).collect();
    let html = page_of(&many, Some(b"png"));
    check(&html);
    assert!(html.contains("<summary>3 runs more</summary>") && html.contains("<summary><h3>7 · prompt 6"));
    // alike all over: one row
    let alike: Vec<Record> = (0..15).map(|i| record(&format!("{i}"), "g", "static", 2, Some(30.0))).collect();
    assert!(page_of(&alike, None).contains("all 15 runs"));
}

#[test]
fn intervals_decide_the_sentence() {
    let of = |calm: usize, lively: usize| {
        let run = |i: usize, group: &str, every| record(&format!("{group} {i}"), group, "adacache", every, Some(30.0));
        let both: Vec<Record> = (0..4).flat_map(|i| [run(i, "calm", calm), run(i, "lively", lively)]).collect();
        check(&page_of(&both, None))
    };
    assert!(of(3, 1).contains("do not overlap, “lively” has more computed"));
    assert!(of(1, 3).contains("do not overlap, “calm” has more computed"));
    assert!(of(2, 2).contains("the intervals overlap"));
    let single = [record("a", "calm", "adacache", 1, Some(30.0)), record("b", "lively", "adacache", 2, Some(30.0))];
    assert!(check(&page_of(&single, None)).contains("one run has no spread"));
}

#[test]
fn round_ticks() {
    let words = |scale: Scale, want| scale.ticks(want).into_iter().map(|(_, word)| word).collect::<Vec<_>>();
    let exact = |low, high| Scale::exact((low, high), (0.0, 100.0));
    assert_eq!(words(exact(0.93, 4.1), 6), ["1", "2", "3", "4"]);
    assert_eq!(words(exact(0.0, 0.3), 3), ["0.0", "0.1", "0.2", "0.3"]);
    assert_eq!(words(exact(24.0, 33.9), 5), ["24", "26", "28", "30", "32"]);
    assert_eq!(words(exact(-120.0, 310.0), 4), ["0", "200"]);
    assert_eq!(words(Scale::log([0.01, 3.0], (0.0, 1.0)), 4), ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"]);
    assert_eq!(words(Scale::log([1e-4, 1e3], (0.0, 1.0)), 4).len(), 8);
    assert!(words(exact(f64::NAN, 1.0), 4).is_empty() && words(exact(1.0, 1.0), 4).is_empty());
}

#[test]
fn places_on_scales() {
    let scale = Scale::exact((1.0, 3.0), (100.0, 0.0));
    assert_eq!([0.0, 1.0, 2.0, 9.0].map(|v| scale.at(v)), [100.0, 100.0, 50.0, 0.0]);
    for scale in [Scale::linear([], (0.0, 1.0)), Scale::linear([5.0], (0.0, 1.0)), Scale::log([2.0], (0.0, 1.0))] {
        assert!(scale.at(2.0).is_finite() && !scale.ticks(4).is_empty());
    }
}

#[test]
fn labels_keep_apart() {
    use super::labels::{Area, place};
    let points = [(50.0, 50.0), (52.0, 51.0), (54.0, 50.0), (199.0, 52.0)];
    let frame = Area { left: 0.0, top: 0.0, right: 200.0, bottom: 100.0 };
    let areas = place(&points, &[(40.0, 10.0); 4], frame, &[]);
    for (i, a) in areas.iter().enumerate() {
        assert!((a.overlap(&frame) - a.size()).abs() < 1e-6, "{a:?} is in the frame");
        assert!(areas[..i].iter().all(|b| a.overlap(b) == 0.0), "{areas:?}");
    }
}

#[test]
fn words_for_numbers() {
    assert_eq!(escape("<a href=\"x\">'&\u{0}\n"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\u{fffd} ");
    assert_eq!(interval(30.0, f64::NAN, 1.0, 1), "30.0");
    assert_eq!([flops(5.1e14), flops(2.34e9), flops(f64::NAN)], ["510\u{a0}TFLOP", "2.34\u{a0}GFLOP", DASH]);
    assert_eq!([seconds(0.0123), seconds(12.34), seconds(f64::NAN)], ["12.3\u{a0}ms", "12.3\u{a0}s", DASH]);
    assert_eq!(shorten("adacache:preset=slow,moreg=on", 16), "adacache:p…eg=on");
    assert_eq!(shorten("short", 16), "short");
}
