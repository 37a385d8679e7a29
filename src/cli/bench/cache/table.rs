//! Results as a table in Markdown, for a terminal or a page.

use super::stats::{Group, Results, Summary};
use crate::cli::screen::size;

const COLUMNS: [&str; 10] = [
    "cache",
    "steps computed",
    "work",
    "speedup (p10–p90)",
    "denoise",
    "PSNR, dB (95 %)",
    "SSIM",
    "FLIP",
    "worst frame",
    "memory",
];

/// All policies, those on the front marked, and the groups of prompts if there are any.
pub fn of(results: &Results) -> String {
    let head = &results.head;
    let rows = results.policies.iter().map(|policy| row(policy, head.steps)).collect::<Vec<_>>();
    let mut out = vec![
        format!("{} ({}), kernels {}, {}", head.adapter, head.driver, head.kernels, head.dtype),
        format!("{}, {} runs a policy\n", head.line(), results.policies.first().map_or(0, |p| p.runs)),
        table(&COLUMNS, &rows),
        "\n* on the front: no other is both as fast and as close to the uncached frames".into(),
    ];
    if !results.groups.is_empty() {
        let rows = results.groups.iter().map(group).collect::<Vec<_>>();
        out.push(String::new());
        out.push(table(&["cache", "group", "runs", "motion", "steps computed (95 %)", "PSNR, dB"], &rows));
    }
    out.join("\n")
}

fn row(policy: &Summary, steps: usize) -> Vec<String> {
    let front = if policy.front { " *" } else { "" };
    let quality = policy.quality.as_ref();
    let of = |value: Option<String>| value.unwrap_or_else(|| "–".into());
    vec![
        format!("`{}`{front}", policy.policy),
        format!("{:.1} of {steps}", policy.computed),
        format!("{:.0} %", 100.0 * policy.work),
        format!("{:.2} ({:.2}–{:.2})", policy.speedup, policy.speedup_p10, policy.speedup_p90),
        format!("{:.2} s", policy.seconds),
        of(quality.map(|q| format!("{:.1} ({:.1}–{:.1})", q.psnr, q.psnr_low, q.psnr_high))),
        of(quality.map(|q| format!("{:.3}", q.ssim))),
        of(quality.map(|q| format!("{:.4}", q.flip))),
        of(quality.map(|q| format!("{:.1}", q.worst_psnr))),
        size(policy.cache_bytes),
    ]
}

fn group(group: &Group) -> Vec<String> {
    vec![
        format!("`{}`", group.policy),
        group.group.clone(),
        group.runs.to_string(),
        format!("{:.2}", group.motion),
        format!("{:.2} ({:.2}–{:.2})", group.computed, group.low, group.high),
        group.psnr.map_or("–".into(), |db| format!("{db:.1}")),
    ]
}

fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let head: Vec<String> = columns.iter().map(|c| (*c).to_string()).collect();
    let rule = format!("|{}", "---|".repeat(columns.len()));
    let lines = rows.iter().map(|row| line(row));
    [line(&head), rule].into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}
