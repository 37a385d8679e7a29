//! What a run with a cache is told to have done.

use residua::diffusion::sampler::Step;
use residua::pipeline::Sampled;
use serde_json::{Value, json};

use super::screen::{round, size};

/// Steps drawn on one line.
const LINE: usize = 100;

/// Steps computed and reused, and what that saved.
pub struct Summary {
    /// Name of the policy, in its own words.
    pub policy: String,
    pub computed: usize,
    pub skipped: usize,
    /// Share of the blocks' operations that were done.
    pub work: f64,
    /// Steps done in part or not at all times what a whole one takes longer.
    pub saved: f64,
    pub bytes: u64,
}

impl Summary {
    pub fn new(sampled: &Sampled) -> Self {
        let count = |computed: bool| sampled.steps.iter().filter(|s| s.computed == computed).count();
        Self {
            policy: sampled.cache.clone(),
            computed: count(true),
            skipped: count(false),
            work: sampled.steps.iter().map(|s| s.work).sum::<f64>() / sampled.steps.len().max(1) as f64,
            saved: saved(&sampled.steps),
            bytes: sampled.cache_bytes,
        }
    }

    /// One line, for people.
    pub fn line(&self) -> String {
        let (all, computed) = (self.computed + self.skipped, self.computed);
        format!(
            "cache {}: {computed} of {all} steps computed ({:.1}x fewer), {:.0} % of the work, saved {:.1} s, cache memory {}",
            self.policy,
            all as f64 / computed.max(1) as f64,
            100.0 * self.work,
            self.saved,
            size(self.bytes)
        )
    }

    /// The same for programs.
    pub fn event(&self) -> Value {
        json!({
            "policy": self.policy, "computed": self.computed, "skipped": self.skipped,
            "work": round(self.work), "saved_seconds": round(self.saved), "bytes": self.bytes
        })
    }
}

/// Steps that were not whole times (mean whole step - mean of these). The first step also builds pipelines, so it
/// counts as a whole one only if there is no other.
fn saved(steps: &[Step]) -> f64 {
    let mean = |steps: &mut dyn Iterator<Item = &Step>| {
        let seconds: Vec<f64> = steps.map(|s| s.seconds.as_secs_f64()).collect();
        (!seconds.is_empty()).then(|| seconds.iter().sum::<f64>() / seconds.len() as f64)
    };
    let whole = mean(&mut steps.iter().skip(1).filter(|s| s.work >= 1.0));
    let whole = whole.or_else(|| mean(&mut steps.iter().filter(|s| s.work >= 1.0)));
    let fewer = steps.iter().filter(|s| s.work < 1.0);
    match (whole, mean(&mut fewer.clone())) {
        (Some(whole), Some(short)) => fewer.count() as f64 * (whole - short),
        _ => 0.0,
    }
}

/// The steps in order, `#` computed, `.` reused, `+` computed in part.
pub fn strip(steps: &[Step]) -> String {
    let mark = |step: &Step| match step.work {
        0.0 => '.',
        w if w < 1.0 => '+',
        _ => '#',
    };
    let marks: Vec<char> = steps.iter().map(mark).collect();
    let lines: Vec<String> = marks.chunks(LINE).map(|line| line.iter().collect()).collect();
    let partly = if marks.contains(&'+') { ", + in part" } else { "" };
    format!("steps   {}  (# computed, . reused{partly})", lines.join("\n        "))
}

/// Everything that was measured, step by step.
pub fn trace(recipe: &Value, sampled: &Sampled, summary: &Summary) -> Value {
    json!({"v": 1, "recipe": recipe, "cache": summary.event(), "steps": sampled.steps})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn steps(marks: &str, computed: u64, reused: u64) -> Vec<Step> {
        let step = |(i, mark): (usize, char)| Step {
            step: i + 1,
            timestep: 1.0,
            computed: mark == '#',
            work: if mark == '#' { 1.0 } else { 0.0 },
            branches: None,
            signal: None,
            changes: Vec::new(),
            seconds: Duration::from_millis(if i == 0 {
                9000
            } else if mark == '#' {
                computed
            } else {
                reused
            }),
            rows: Vec::new(),
        };
        marks.chars().enumerate().map(step).collect()
    }

    #[test]
    fn what_reuse_saved() {
        assert!((saved(&steps("##..#.", 500, 100)) - 1.2).abs() < 1e-9);
        assert!((saved(&steps("#..", 0, 1000)) - 16.0).abs() < 1e-9, "only the first was computed");
        assert_eq!(saved(&steps("###", 500, 0)), 0.0);
        assert_eq!(saved(&[]), 0.0);
    }

    #[test]
    fn strips() {
        assert_eq!(strip(&steps("##..#", 1, 1)), "steps   ##..#  (# computed, . reused)");
        let mut partly = steps("##.", 1, 1);
        partly[1].work = 0.5;
        assert_eq!(strip(&partly), "steps   #+.  (# computed, . reused, + in part)");
        assert!(strip(&steps(&"#".repeat(150), 1, 1)).contains("\n        #"));
    }
}
