//! Whether policies compute more where there is more to see: steps computed by kind of content.

use super::curves::legend;
use super::html::{self, Cell, begin, count, escape, interval, number, table};
use super::look::colour;
use super::stats::{Group, Results};
use super::svg::{Scale, Svg, place};

/// In user units: the drawing, its words, a row.
const WIDTH: f64 = 360.0;
const LEFT: f64 = 100.0;
const ROW: f64 = 22.0;
/// Rows of a table that is not folded away.
const OPEN: usize = 24;

/// The section, without its heading; nothing if prompts have no groups.
pub fn section(results: &Results, groups: &[&str]) -> Option<String> {
    if results.groups.is_empty() {
        return None;
    }
    let mut own: Vec<(&str, Vec<&Group>)> = Vec::new();
    for policy in &results.policies {
        let name = policy.policy.as_str();
        let of: Vec<&Group> = results.groups.iter().filter(|g| g.policy == name).collect();
        if !of.is_empty() {
            own.push((name, of));
        }
    }
    let mut out = String::new();
    out += &legend(groups);
    out += "<div class=\"panels\">\n";
    let ends: Vec<f64> = own.iter().flat_map(|(_, g)| g).flat_map(|g| [g.computed, g.low, g.high]).collect();
    let x = Scale::linear(ends, (LEFT, WIDTH - 8.0));
    for (policy, of) in &own {
        out += &panel(policy, of, groups, x);
    }
    out += "</div>\n<p>Dots: mean number of steps computed; whiskers: its 95\u{a0}% confidence interval. All axes are the \
        same. Others than AdaCache that compute the same number for every prompt are left out.</p>\n";
    let open = if results.groups.len() <= OPEN { " open" } else { "" };
    let numbers = numbers(&results.groups);
    Some(format!("{out}<details{open}><summary>All groups under all policies</summary>\n{numbers}</details>\n"))
}

/// A policy's dots, and whether its first and its last group can be told apart.
fn panel(policy: &str, of: &[&Group], groups: &[&str], x: Scale) -> String {
    let verdict = match of {
        [first, .., last] => format!("<p>{}</p>", sentence((first, last))),
        _ => String::new(),
    };
    let caption = format!("<figcaption>{}{verdict}</figcaption>", html::policy(policy));
    format!("<figure>\n{caption}\n{}</figure>\n", dots(of, groups, x))
}

fn sentence((a, b): (&Group, &Group)) -> String {
    let side = |g: &Group| {
        let mean = interval(g.computed, g.low, g.high, 1);
        format!("{mean} steps for “{}” (motion {})", escape(&g.group), number(g.motion, 2))
    };
    let more = if b.computed > a.computed { b } else { a };
    let verdict = match overlap(a, b) {
        _ if a.runs < 2 || b.runs < 2 => "one run has no spread, so the intervals say nothing".into(),
        None => "there is nothing to compare".into(),
        Some(true) => "the intervals overlap, the difference may be chance".into(),
        Some(false) => format!("the intervals do not overlap, “{}” has more computed", escape(&more.group)),
    };
    format!("{}, {}: {verdict}.", side(a), side(b))
}

/// Whether two intervals have a number in common, if both are known.
fn overlap(a: &Group, b: &Group) -> Option<bool> {
    let known = [a.low, a.high, b.low, b.high].iter().all(|v| v.is_finite());
    known.then_some(a.low <= b.high && b.low <= a.high)
}

fn dots(of: &[&Group], groups: &[&str], x: Scale) -> String {
    let bottom = of.len() as f64 * ROW + 4.0;
    let mut svg = Svg::new(WIDTH, bottom + 30.0);
    for (value, word) in x.ticks(7) {
        svg.line("grid", (x.at(value), 0.0), (x.at(value), bottom));
        svg.text("tick middle", (x.at(value), bottom + 12.0), &word);
    }
    svg.line("axis", (LEFT, bottom), (x.places().1, bottom));
    svg.text("name end", (x.places().1, bottom + 26.0), "steps computed");
    for (i, group) in of.iter().enumerate().filter(|(_, g)| g.computed.is_finite()) {
        let y = (i as f64 + 0.5) * ROW + 2.0;
        let class = colour(groups.iter().position(|g| *g == group.group).unwrap_or(0));
        if group.low.is_finite() && group.high.is_finite() {
            svg.line(&format!("whisker bold {class}"), (x.at(group.low), y), (x.at(group.high), y));
        }
        let mean = interval(group.computed, group.low, group.high, 2);
        let title = format!("{}: {mean} steps computed in {}", group.group, count(group.runs, "run"));
        svg.path(&format!("dots big {class}"), &format!("M{} {}h0", place(x.at(group.computed)), place(y)), &title);
        svg.titled("label end", (LEFT - 10.0, y + 4.0), &begin(&group.group, 15), &title);
    }
    svg.finish("Mean number of steps computed by group")
}

fn numbers(groups: &[Group]) -> String {
    let row = |g: &Group| {
        vec![
            Cell::policy(&g.policy, ""),
            Cell::text(&g.group),
            Cell::text(g.runs.to_string()),
            Cell::text(number(g.motion, 2)),
            Cell::text(interval(g.computed, g.low, g.high, 1)),
            Cell::text(number(g.psnr.unwrap_or(f64::NAN), 2)),
        ]
    };
    let heads = ["policy", "group", "runs", "measured motion", "steps computed|95 % interval", "PSNR (dB)"];
    table(&heads, 2, &groups.iter().map(row).collect::<Vec<_>>())
}
