//! What policies measured on the way: distances, motion factors and signals, step by step.

use super::cases::{Case, Cases};
use super::html::{self, escape, number};
use super::look::colour;
use super::record::{Line, Record};
use super::stats::Results;
use super::svg::{Axes, Scale, Svg, place, through};

/// The largest value over the smallest from which on the axis is logarithmic.
const WIDE: f64 = 30.0;

/// A run's values, of those steps that have one.
struct Curve {
    title: String,
    class: String,
    points: Vec<Point>,
}

struct Point {
    /// From 1.
    step: usize,
    value: f64,
    computed: bool,
}

/// What is drawn of a line: its name, where to find it, and whether it spans magnitudes.
struct Kind {
    name: &'static str,
    of: fn(&Line) -> Option<f64>,
    log: bool,
}

const KINDS: [Kind; 3] = [
    Kind { name: "distance per step", of: |l| l.distance, log: true },
    Kind { name: "motion factor", of: |l| l.motion, log: false },
    Kind { name: "signal", of: |l| l.signal, log: true },
];

/// The section, without its heading; nothing if no policy measured anything.
pub fn section(results: &Results, records: &[Record], cases: &Cases) -> Option<String> {
    let mut panels = String::new();
    let mut flat: Vec<(String, Vec<String>)> = Vec::new();
    for policy in results.policies.iter().map(|s| s.policy.as_str()) {
        for kind in &KINDS {
            let curves = curves(kind, records, policy, cases);
            match level(&curves) {
                Some(value) => file(&mut flat, format!("{} {}", kind.name, number(value, 2)), html::policy(policy)),
                None if curves.is_empty() => {}
                None => panels += &panel(kind, policy, &curves, results.head.steps),
            }
        }
    }
    if !panels.is_empty() {
        panels = format!("{}<div class=\"panels\">\n{panels}</div>\n", legend(&cases.groups));
    }
    // a drawing of one flat line says less than a sentence
    let sentence = |(what, who): &(String, Vec<String>)| {
        format!("<p>Not drawn, {what} at every step of every run: {}.</p>\n", who.join("; "))
    };
    let all = panels + &flat.iter().map(sentence).collect::<String>();
    (!all.is_empty()).then(|| format!("{INTRODUCTION}{all}"))
}

fn file(drawers: &mut Vec<(String, Vec<String>)>, name: String, item: String) {
    match drawers.iter_mut().find(|(n, _)| *n == name) {
        Some((_, items)) => items.push(item),
        None => drawers.push((name, vec![item])),
    }
}

const INTRODUCTION: &str = "<p>One line a run, a dot where the step was computed. AdaCache multiplies the distance \
per step by the motion factor and looks up for how many steps it may reuse; a signal is what other policies asked for \
before they decided.</p>\n";

/// The value that all points have, if they have one.
fn level(curves: &[Curve]) -> Option<f64> {
    let mut values = curves.iter().flat_map(|c| c.points.iter().map(|p| p.value));
    let first = values.next()?;
    values.all(|v| v == first).then_some(first)
}

fn panel(kind: &Kind, policy: &str, curves: &[Curve], steps: usize) -> String {
    format!("<figure>\n<figcaption>{}</figcaption>\n{}</figure>\n", html::policy(policy), plot(kind, curves, steps))
}

fn curves(kind: &Kind, records: &[Record], policy: &str, cases: &Cases) -> Vec<Curve> {
    let curve = |(case, record): (&Case, &Record)| {
        let value = |line: &Line| (kind.of)(line).filter(|v| v.is_finite());
        let lines = record.steps.iter().enumerate();
        let points: Vec<Point> =
            lines.filter_map(|(i, l)| Some(Point { step: i + 1, value: value(l)?, computed: l.computed })).collect();
        Curve { title: case.title(&cases.groups), class: colour(case.group.unwrap_or(0)), points }
    };
    cases.runs(records, policy).into_iter().map(curve).filter(|c| !c.points.is_empty()).collect()
}

fn plot(kind: &Kind, curves: &[Curve], steps: usize) -> String {
    let (width, height, line) = (360.0, 210.0, 11.0);
    let values = || curves.iter().flat_map(|c| c.points.iter().map(|p| p.value));
    let places = (height - line * 3.2, line * 2.0);
    let log = kind.log && spans_wide(values());
    let last = curves.iter().flat_map(|c| &c.points).map(|p| p.step).fold(steps, usize::max);
    let name = format!("{}{}", kind.name, if log { ", log scale" } else { "" });
    let axes = Axes {
        x: Scale::exact((0.5, last as f64 + 0.5), (line * 4.0, width - 4.0)),
        y: if log { Scale::log(values(), places) } else { Scale::linear(values(), places) },
        ticks: (6, 5),
        names: ("step", &name),
        line,
    };
    let mut svg = Svg::new(width, height);
    axes.draw(&mut svg);
    for curve in curves {
        let drawn = curve.points.iter().filter(|p| !log || p.value > 0.0);
        let spots: Vec<((f64, f64), bool)> = drawn.map(|p| (axes.at(p.step as f64, p.value), p.computed)).collect();
        let line: Vec<(f64, f64)> = spots.iter().map(|(at, _)| *at).collect();
        svg.path(&format!("curve {}", curve.class), &through(&line), &curve.title);
        svg.path(&format!("dots {}", curve.class), &dots(&spots), &curve.title);
    }
    svg.finish(&format!("{} of {} runs over the steps", kind.name, curves.len()))
}

/// Of the values above 0.
fn spans_wide(values: impl Iterator<Item = f64>) -> bool {
    let (low, high) = values.filter(|&v| v > 0.0).fold((f64::INFINITY, 0.0f64), |(a, b), v| (a.min(v), b.max(v)));
    high > low * WIDE
}

/// Strokes of no length: their round ends are the dots.
fn dots(spots: &[((f64, f64), bool)]) -> String {
    let computed = spots.iter().filter(|(_, computed)| *computed);
    computed.map(|((x, y), _)| format!("M{} {}h0", place(*x), place(*y))).collect()
}

/// Which colour is which group; nothing without groups.
pub fn legend(groups: &[&str]) -> String {
    let key = |(i, group): (usize, &&str)| {
        let mut svg = Svg::new(16.0, 16.0);
        svg.path(&format!("dots big {}", colour(i)), "M8 8h0", "");
        format!("<span class=\"key\">{}{}</span> ", svg.sample(), escape(group))
    };
    let keys: String = groups.iter().enumerate().map(key).collect();
    if keys.is_empty() { keys } else { format!("<p class=\"legend\">{keys}</p>\n") }
}
