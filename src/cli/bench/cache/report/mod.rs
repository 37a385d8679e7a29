//! A comparison of caches as one page of HTML: no scripts, no network, nothing beside it.

mod cases;
mod curves;
mod groups;
mod html;
mod labels;
mod look;
mod numbers;
mod pictures;
mod plane;
mod strips;
mod svg;
#[cfg(test)]
mod tests;

use super::record::{Head, Record};
use super::{record, stats};
use cases::Cases;
use html::{begin, count, escape};
use stats::Results;

const STYLE: &str = include_str!("style.css");
const WORDS: &str = include_str!("words.html");
/// Of whatever a page like this could load or run, it may only use its own style and pictures.
const ALLOWED: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The whole page. `pictures` has the PNG behind a record's file name, if there is one.
pub fn page(results: &Results, records: &[Record], pictures: &dyn Fn(&str) -> Option<Vec<u8>>) -> String {
    let cases = Cases::of(records);
    let families = families(results);
    let sections = [
        ("Speed against quality", Some(plane::section(results, &families))),
        ("All numbers", Some(numbers::section(results))),
        ("Step by step", Some(strips::section(results, records, &cases))),
        ("What was measured on the way", curves::section(results, records, &cases)),
        ("Adapting to content", groups::section(results, &cases.groups)),
        ("Side by side", pictures::section(results, records, &cases, pictures)),
        ("What the numbers mean", Some(WORDS.into())),
    ];
    let body: String = sections
        .into_iter()
        .filter_map(|(title, html)| Some(format!("<section>\n<h2>{title}</h2>\n{}</section>\n", html?)))
        .collect();
    let model = escape(&results.head.model);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{ALLOWED}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Caching policies compared: {model}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n{}</header>\n<main>\n{body}</main>\n</body>\n</html>\n",
        opening(&results.head, results, &cases)
    )
}

/// In the order of their first policies; the uncached run is of none.
fn families(results: &Results) -> Vec<&str> {
    let mut families = Vec::new();
    for policy in results.policies.iter().filter(|p| p.quality.is_some()) {
        let family = look::family(&policy.policy);
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

fn opening(head: &Head, results: &Results, cases: &Cases) -> String {
    let [width, height, frames] = head.size;
    let what = [
        format!("{width} × {height}"),
        format!("{} at {} fps", count(frames, "frame"), head.fps),
        count(head.steps, "step"),
        format!("guidance {}", head.guidance),
        format!("weights {}", head.weights),
    ];
    let commit = head.commit.as_deref().map(|c| format!("commit {}", begin(c, 13)));
    let on = [&head.adapter, &head.driver, &head.kernels, &head.dtype].map(Clone::clone).into_iter().chain(commit);
    let runs = [
        match cases.all.len() {
            n if n > cases.prompts.len() => {
                format!("{} from {}", count(n, "video"), count(cases.prompts.len(), "prompt"))
            }
            n => count(n, "prompt"),
        },
        format!("each timed {}", count(head.repeats, "time")),
        match results.policies.len() {
            1 => "1 policy".into(),
            n => format!("{n} policies"),
        },
    ];
    let line = |parts: Vec<String>| format!("<p class=\"facts\">{}</p>\n", escape(&parts.join(" · ")));
    format!("<h1>Caching policies compared: {}</h1>\n", escape(&head.model))
        + &line(what.into())
        + &line(on.filter(|part| !part.is_empty()).collect())
        + &line(runs.into())
        + &format!(
            "<p>Each policy made the videos of the uncached run again, from the same prompts and seeds: this page \
             shows how much faster it was and how close it stayed. All blocks at one step are {}; doing them at every \
             step is 100\u{a0}% of the work.</p>\n",
            html::flops(head.step_flops)
        )
}
