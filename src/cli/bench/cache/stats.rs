//! From runs to numbers: medians, means with their confidence, who is beaten by whom.

use serde::Serialize;

use super::record::{Head, Record};

/// A policy over all its runs.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// As `--cache` takes it.
    pub policy: String,
    /// In its own words.
    pub name: String,
    pub runs: usize,
    /// Mean number of steps computed.
    pub computed: f64,
    /// Mean share of the blocks' operations.
    pub work: f64,
    /// Floating point operations of the blocks that a run is spared, in the mean.
    pub flops_saved: f64,
    /// Denoising: of each prompt's median, the median.
    pub seconds: f64,
    /// Times faster than uncached, of each prompt's medians: median, tenth and ninetieth percentile.
    pub speedup: f64,
    pub speedup_p10: f64,
    pub speedup_p90: f64,
    /// The most of all runs.
    pub cache_bytes: u64,
    /// Against the uncached twins; none of the uncached runs.
    pub quality: Option<Mean>,
    /// Median seconds of a step of which nothing, and of one of which everything was computed.
    pub reused_step: Option<f64>,
    pub computed_step: Option<f64>,
    /// No other policy is faster at a PSNR as high, or has a higher one at the speed.
    pub front: bool,
}

/// Means over runs.
#[derive(Clone, Debug, Serialize)]
pub struct Mean {
    /// In dB, with its 95 % confidence interval over prompts.
    pub psnr: f64,
    pub psnr_low: f64,
    pub psnr_high: f64,
    pub ssim: f64,
    pub flip: f64,
    /// The worst frame of all: its PSNR and the run's prompt.
    pub worst_psnr: f64,
    pub worst_prompt: String,
}

/// A policy over the runs of one group of prompts.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    pub group: String,
    pub policy: String,
    pub runs: usize,
    /// Mean number of steps computed, with its 95 % confidence interval over prompts.
    pub computed: f64,
    pub low: f64,
    pub high: f64,
    /// Mean motion of the uncached frames, 0 to 255.
    pub motion: f64,
    /// Mean PSNR in dB, if it is not the uncached one.
    pub psnr: Option<f64>,
}

/// Everything about a set of runs.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    pub head: Head,
    /// In the order in which policies first ran; the uncached one first.
    pub policies: Vec<Summary>,
    /// By policy, then group; empty if prompts have none.
    pub groups: Vec<Group>,
}

impl Results {
    pub fn new(head: &Head, records: &[Record]) -> Self {
        let mut names: Vec<&str> = Vec::new();
        let mut kinds: Vec<&str> = Vec::new();
        for record in records {
            if !names.contains(&record.policy.as_str()) {
                names.push(&record.policy);
            }
            if let Some(group) = record.group.as_deref().filter(|g| !kinds.contains(g)) {
                kinds.push(group);
            }
        }
        let of = |policy: &str| records.iter().filter(|r| r.policy == policy).collect::<Vec<_>>();
        let mut policies: Vec<Summary> = names.iter().map(|name| summary(head, &of(name))).collect();
        let places: Vec<(f64, f64)> = policies.iter().map(place).collect();
        for (policy, &own) in policies.iter_mut().zip(&places) {
            policy.front = !places.iter().any(|&other| beats(other, own));
        }
        let grouped = names.iter().flat_map(|name| kinds.iter().map(move |kind| (*name, *kind)));
        let groups = grouped.filter_map(|(name, kind)| group(kind, &of(name))).collect();
        Self { head: head.clone(), policies, groups }
    }
}

/// Where a policy stands: speed and PSNR; the uncached run is as close as can be.
fn place(summary: &Summary) -> (f64, f64) {
    (summary.speedup, summary.quality.as_ref().map_or(f64::INFINITY, |q| q.psnr))
}

fn beats(a: (f64, f64), b: (f64, f64)) -> bool {
    a.0 >= b.0 && a.1 >= b.1 && a != b
}

fn summary(head: &Head, runs: &[&Record]) -> Summary {
    let mean_of = |value: &dyn Fn(&Record) -> f64| mean(&runs.iter().map(|r| value(r)).collect::<Vec<_>>());
    let work = mean_of(&|r| r.work());
    let speedups: Vec<f64> = runs.iter().map(|r| median(&r.uncached_seconds) / median(&r.seconds)).collect();
    let qualities: Vec<_> = runs.iter().filter_map(|r| Some((r.quality?, &r.prompt))).collect();
    let quality = (!qualities.is_empty()).then(|| {
        let psnr: Vec<f64> = qualities.iter().map(|(q, _)| q.psnr).collect();
        let (psnr_low, psnr_high) = confidence(&psnr);
        let of = |value: &dyn Fn(&super::record::Quality) -> f64| {
            mean(&qualities.iter().map(|(q, _)| value(q)).collect::<Vec<_>>())
        };
        let worst = qualities.iter().min_by(|a, b| a.0.worst_psnr.total_cmp(&b.0.worst_psnr));
        Mean {
            psnr: mean(&psnr),
            psnr_low,
            psnr_high,
            ssim: of(&|q| q.ssim),
            flip: of(&|q| q.flip),
            worst_psnr: worst.map_or(f64::NAN, |(q, _)| q.worst_psnr),
            worst_prompt: worst.map_or(String::new(), |(_, prompt)| (*prompt).clone()),
        }
    });
    let step = |whole: bool| {
        let lines = runs.iter().flat_map(|r| &r.steps).filter(|s| if whole { s.work >= 1.0 } else { s.work == 0.0 });
        let seconds: Vec<f64> = lines.map(|s| s.seconds).collect();
        (!seconds.is_empty()).then(|| median(&seconds))
    };
    Summary {
        policy: runs.first().map_or(String::new(), |r| r.policy.clone()),
        name: runs.first().map_or(String::new(), |r| r.name.clone()),
        runs: runs.len(),
        computed: mean_of(&|r| r.computed() as f64),
        work,
        flops_saved: (1.0 - work) * head.step_flops * head.steps as f64,
        seconds: median(&runs.iter().map(|r| median(&r.seconds)).collect::<Vec<_>>()),
        speedup: median(&speedups),
        speedup_p10: quantile(&speedups, 0.1),
        speedup_p90: quantile(&speedups, 0.9),
        cache_bytes: runs.iter().map(|r| r.cache_bytes).max().unwrap_or(0),
        quality,
        reused_step: step(false),
        computed_step: step(true),
        front: false,
    }
}

fn group(kind: &str, runs: &[&Record]) -> Option<Group> {
    let own: Vec<&&Record> = runs.iter().filter(|r| r.group.as_deref() == Some(kind)).collect();
    let computed: Vec<f64> = own.iter().map(|r| r.computed() as f64).collect();
    let psnr: Vec<f64> = own.iter().filter_map(|r| r.quality.map(|q| q.psnr)).collect();
    let (low, high) = confidence(&computed);
    Some(Group {
        group: kind.into(),
        policy: own.first()?.policy.clone(),
        runs: own.len(),
        computed: mean(&computed),
        low,
        high,
        motion: mean(&own.iter().map(|r| r.motion).collect::<Vec<_>>()),
        psnr: (!psnr.is_empty()).then(|| mean(&psnr)),
    })
}

/// NaN of nothing, as all of these.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Linear between neighbours.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q * sorted.len().saturating_sub(1) as f64;
    let below = sorted.get(place as usize).copied().unwrap_or(f64::NAN);
    let above = sorted.get(place.ceil() as usize).copied().unwrap_or(below);
    below + (above - below) * place.fract()
}

/// 95 % confidence interval of a mean: the percentiles of the means of 2000 samples drawn with replacement, always the same.
pub fn confidence(values: &[f64]) -> (f64, f64) {
    const SAMPLES: usize = 2000;
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values[(state >> 11) as usize % values.len()]
    };
    let means: Vec<f64> =
        (0..SAMPLES).map(|_| (0..values.len()).map(|_| draw()).sum::<f64>() / values.len() as f64).collect();
    (quantile(&means, 0.025), quantile(&means, 0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[1.0, 2.0])), (2.0, 1.5));
        assert_eq!(quantile(&[0.0, 10.0], 0.9), 9.0);
        assert!(median(&[]).is_nan());
        let (low, high) = confidence(&[0.0, 1.0].repeat(50));
        // the mean's standard error is 0.05
        assert!((low - 0.4).abs() < 0.02 && (high - 0.6).abs() < 0.02, "{low} {high}");
        assert_eq!(confidence(&[7.0; 5]), (7.0, 7.0));
    }

    #[test]
    fn who_beats_whom() {
        assert!(beats((2.0, 30.0), (1.9, 30.0)) && beats((2.0, 31.0), (2.0, 30.0)));
        assert!(!beats((2.0, 30.0), (2.0, 30.0)) && !beats((2.0, 29.0), (1.0, 30.0)));
    }
}
