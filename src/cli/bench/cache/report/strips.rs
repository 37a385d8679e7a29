//! What each run did at each step: rows of cells, one row a prompt.

use super::cases::{Case, Cases};
use super::html::{self, begin, count, escape, number};
use super::record::{Line, Record};
use super::stats::Results;
use super::svg::{Svg, place};

/// Rows that are shown at once; more are folded away.
const ROWS: usize = 12;
/// In user units: the drawing, its words on both sides, a row.
const WIDTH: f64 = 360.0;
const LEFT: f64 = 112.0;
const RIGHT: f64 = 26.0;
const ROW: f64 = 14.0;

type Run<'a, 'r> = (&'a Case<'a>, &'r Record);

/// The section, without its heading.
pub fn section(results: &Results, records: &[Record], cases: &Cases) -> String {
    let mut out = legend() + "<div class=\"panels\">\n";
    for policy in &results.policies {
        let runs = cases.runs(records, &policy.policy);
        out += &format!(
            "<figure>\n<figcaption>{}</figcaption>\n{}</figure>\n",
            html::policy(&policy.policy),
            rows(&runs, cases)
        );
    }
    out + "</div>\n" + &cases.list()
}

fn legend() -> String {
    let key = |works: &[f64], words: &str| {
        let sample = |work: &f64| {
            let mut svg = Svg::new(16.0, 16.0);
            cells(&mut svg, (2.0, 8.0), (12.0, *work), "", "");
            svg.sample()
        };
        format!("<span class=\"key\">{}{words}</span> ", works.iter().map(sample).collect::<String>())
    };
    let computed = key(&[1.0], "all blocks computed");
    let part = key(&[0.75, 0.4, 0.05], "in part, darker for more work");
    let reused = key(&[0.0], "all reused");
    format!(
        "<p class=\"legend\">{computed}{part}{reused}</p>\n<p>One row a prompt and seed, or one for all runs where \
         they are alike; on the right the number of steps computed.</p>\n"
    )
}

/// The rows of a policy; one for all where all are alike.
fn rows(runs: &[Run], cases: &Cases) -> String {
    let works = |r: &Record| r.steps.iter().map(|s| s.work).collect::<Vec<_>>();
    let Some((first, rest)) = runs.split_first() else {
        return "<p>No runs.</p>\n".into();
    };
    if !rest.is_empty() && rest.iter().all(|r| works(r.1) == works(first.1)) {
        return drawing(&runs[..1], cases, Some(&format!("all {}", count(runs.len(), "run"))));
    }
    let (shown, folded) = runs.split_at(runs.len().min(ROWS));
    let mut out = drawing(shown, cases, None);
    if !folded.is_empty() {
        let more = drawing(folded, cases, None);
        out += &format!("<details><summary>{} more</summary>\n{more}</details>\n", count(folded.len(), "run"));
    }
    out
}

/// `name` is that of the only row, if it stands for all.
fn drawing(runs: &[Run], cases: &Cases, name: Option<&str>) -> String {
    let steps = runs.iter().map(|(_, r)| r.steps.len()).max().unwrap_or(0).max(1);
    let cell = (WIDTH - LEFT - RIGHT) / steps as f64;
    let bottom = runs.len() as f64 * ROW + 2.0;
    let mut svg = Svg::new(WIDTH, bottom + 16.0);
    // a gap as wide as the eye needs to count cells, while they have the room
    let gap = (cell * 0.15).min(1.0);
    svg.push(format_args!("<g stroke-dasharray=\"{} {}\">", number(cell - gap, 4), number(gap, 4)));
    for (i, (case, record)) in runs.iter().enumerate() {
        row(&mut svg, record, (LEFT, (i as f64 + 0.5) * ROW), cell, name.unwrap_or(&case.label));
    }
    svg.push(format_args!("</g>"));
    for (i, (case, record)) in runs.iter().enumerate() {
        let y = (i as f64 + 0.76) * ROW;
        let short = format!("{} {}", case.label, case.prompt);
        let title = if name.is_some() { String::new() } else { case.title(&cases.groups) };
        svg.titled("tick end", (LEFT - 5.0, y), &begin(name.unwrap_or(&short), 18), &title);
        svg.titled("tick end", (WIDTH, y), &record.computed().to_string(), "steps computed");
    }
    axis(&mut svg, steps, cell, bottom);
    svg.finish(&format!("Steps of {}", count(runs.len(), "run")))
}

/// A row as runs of steps with the same work: dashes make cells of them.
fn row(svg: &mut Svg, record: &Record, (left, y): (f64, f64), cell: f64, of: &str) {
    let mut start = 0;
    for alike in record.steps.chunk_by(|a, b| a.work.to_bits() == b.work.to_bits()) {
        let title = format!("{of}: {}", words(start + 1, alike));
        let (x, length) = (left + start as f64 * cell, alike.len() as f64 * cell);
        cells(svg, (x, y), (length, alike[0].work), "row", &title);
        start += alike.len();
    }
}

fn words(first: usize, steps: &[Line]) -> String {
    let last = first + steps.len() - 1;
    let which = if last > first { format!("steps {first} to {last}") } else { format!("step {first}") };
    match steps[0].work {
        0.0 => format!("{which} all reused"),
        w if w >= 1.0 => format!("{which} all computed"),
        w => format!("{which} {} % of the work", number(w * 100.0, 1)),
    }
}

/// A stroke as long as its steps are wide, as dark as their work is much.
fn cells(svg: &mut Svg, (x, y): (f64, f64), (length, work): (f64, f64), class: &str, title: &str) {
    let title = if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
    let kind = if work > 0.0 { "work" } else { "idle" };
    let dark = match work {
        w if w > 0.0 && w < 1.0 => format!(" stroke-opacity=\"{}\"", exact(0.2 + 0.7 * w)),
        _ => String::new(),
    };
    svg.push(format_args!(
        "<path class=\"cell {kind} {class}\"{dark} d=\"M{} {}h{}\">{title}</path>",
        exact(x),
        place(y),
        exact(length)
    ));
}

/// To a hundredth: rounding must not add up over a row.
fn exact(value: f64) -> String {
    number(value, 2)
}

fn axis(svg: &mut Svg, steps: usize, cell: f64, bottom: f64) {
    let every = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500].into_iter().find(|e| steps / e <= 6).unwrap_or(1000);
    for step in std::iter::once(1).chain((1..=steps).filter(|s| every > 1 && s % every == 0)) {
        svg.text("tick middle", (LEFT + (step as f64 - 0.5) * cell, bottom + 11.0), &step.to_string());
    }
    svg.text("name end", (LEFT - 5.0, bottom + 11.0), "step");
}
