//! Every policy in a row of numbers.

use super::html::{self, Cell, DASH, bracket, bytes, number, range, table, with};
use super::stats::{Results, Summary};

const HEADS: [&str; 13] = [
    "policy",
    "front",
    "steps computed",
    "work",
    "operations saved",
    "speedup|p10–p90",
    "denoising",
    "cache memory",
    "PSNR (dB)|95 % interval",
    "SSIM",
    "FLIP",
    "worst frame (dB)",
    "reused step",
];

/// The section, without its heading.
pub fn section(results: &Results) -> String {
    let rows: Vec<Vec<Cell>> = results.policies.iter().map(|s| row(s, results.head.steps)).collect();
    table(&HEADS, 1, &rows)
        + "<p>●: on the Pareto front. Speedup: median over runs, with the tenth and ninetieth percentile. Worst \
           frame: the lowest PSNR of any frame of any run; pointing at it shows the prompt. Reused step: the time of \
           a step of which nothing was computed, as a share of one that was computed in full.</p>\n"
}

fn row(s: &Summary, steps: usize) -> Vec<Cell> {
    let q = s.quality.as_ref();
    let of = |value: fn(&super::stats::Mean) -> f64| q.map_or(f64::NAN, value);
    let worst = q.map_or(String::new(), |q| q.worst_prompt.clone());
    let mark = if s.front && s.speedup.is_finite() { "●" } else { "" };
    vec![
        Cell::policy(&s.policy, &s.name),
        Cell::text(mark),
        Cell::quiet(number(s.computed, 1), format!("of {steps}")),
        Cell::text(with(s.work * 100.0, 1, " %")),
        Cell::text(html::flops(s.flops_saved)),
        Cell::quiet(with(s.speedup, 2, "×"), range(s.speedup_p10, s.speedup_p90, 2)),
        Cell::text(html::seconds(s.seconds)),
        Cell::text(if s.cache_bytes == 0 { DASH.into() } else { bytes(s.cache_bytes) }),
        Cell::quiet(number(of(|q| q.psnr), 2), bracket(of(|q| q.psnr_low), of(|q| q.psnr_high), 2)),
        Cell::text(number(of(|q| q.ssim), 4)),
        Cell::text(number(of(|q| q.flip), 4)),
        Cell::text(number(of(|q| q.worst_psnr), 2)).titled(worst),
        Cell::text(with(share(s) * 100.0, 1, " %")),
    ]
}

/// What a reused step costs, of a computed one.
fn share(s: &Summary) -> f64 {
    s.reused_step.unwrap_or(f64::NAN) / s.computed_step.unwrap_or(f64::NAN)
}
