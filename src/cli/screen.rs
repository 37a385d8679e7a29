//! What people see on standard error, and what programs read on standard output.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use residua::diffusion::sampler::Step;
use serde_json::{Value, json};

use super::exit::Failure;

/// The bar that is drawn now, if any: other lines go above it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Of the events, in the first of them.
const SCHEMA: u32 = 1;

/// Writes a line to standard error, above the bar. A closed standard error is nobody listening, no failure.
pub fn above(line: &str) {
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner);
    let write = || drop(writeln!(std::io::stderr(), "{line}"));
    match &*bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// [`above`] as a writer, for the log.
pub struct AboveBar;

impl Write for AboveBar {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        above(String::from_utf8_lossy(data).trim_end_matches('\n'));
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Where a run tells how it goes.
pub struct Screen {
    quiet: bool,
    pub json: bool,
    first: Cell<bool>,
}

impl Screen {
    pub fn new(quiet: bool, json: bool) -> Self {
        Self { quiet, json, first: Cell::new(true) }
    }

    /// A line for people.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            above(line.as_ref());
        }
    }

    /// A line of data on standard output. Nobody reading it is no failure: what was asked for is done.
    pub fn data(&self, line: impl std::fmt::Display) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    /// An event for programs, with `--json`.
    pub fn event(&self, name: &str, fields: Value) {
        if self.json {
            self.data(event_line(name, &fields, self.first.replace(false)));
        }
    }

    /// The last words.
    pub fn failure(&self, failure: &Failure) {
        self.event("error", json!({"code": failure.code, "message": failure.message, "hint": failure.hint}));
        let sentence = if failure.exit >= super::exit::code::INTERRUPTED { "" } else { "error: " };
        above(&format!("{sentence}{}", failure.message));
        if let Some(hint) = &failure.hint {
            above(&format!("hint: {hint}"));
        }
    }

    /// A bar on a terminal; elsewhere nothing.
    pub fn bar(&self, label: &str, count: usize) -> Bar<'_> {
        let bar = (!self.quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(count as u64), ProgressDrawTarget::stderr());
            let template = format!("{label:7} [{{bar:24}}] {{pos}}/{{len}}  {{msg}}");
            bar.set_style(
                ProgressStyle::with_template(&template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("#>-"),
            );
            bar.tick();
            *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
            bar
        });
        Bar { screen: self, bar, count, began: Instant::now(), reused: Cell::new(0) }
    }
}

/// One event as a line: its name first, the version in the first of a run.
fn event_line(name: &str, fields: &Value, first: bool) -> String {
    let body = fields.to_string();
    let body = body.strip_prefix('{').unwrap_or("}");
    let comma = if body == "}" { "" } else { "," };
    let version = if first { format!(",\"v\":{SCHEMA}") } else { String::new() };
    format!("{{\"event\":\"{name}\"{version}{comma}{body}")
}

/// Progress of one stage. Gone from the terminal when dropped.
pub struct Bar<'a> {
    screen: &'a Screen,
    bar: Option<ProgressBar>,
    count: usize,
    began: Instant,
    reused: Cell<usize>,
}

impl Bar<'_> {
    /// A denoising step is done, of the n-th of `clips`. `run` tells the steps of several runs apart.
    pub fn step(&self, step: &Step, (clip, clips): (usize, usize), run: &str) {
        let (seconds, steps) = (step.seconds.as_secs_f64(), self.count / clips.max(1));
        let mut fields = json!({"i": step.step, "n": steps, "computed": step.computed, "seconds": round(seconds)});
        if clips > 1 {
            fields["clip"] = clip.into();
        }
        self.screen.event("step", named(run, fields));
        self.reused.set(self.reused.get() + usize::from(!step.computed));
        let mark = if step.computed { "computed" } else { "reused" };
        let cached = match self.reused.get() {
            0 => String::new(),
            n => format!("  cached {n}"),
        };
        self.at(clip * steps + step.step, &format!("{seconds:.2} s/it  {mark}{cached}"));
    }

    /// Some frames are decoded.
    pub fn frames(&self, done: usize, all: usize, run: &str) {
        self.screen.event("decode", named(run, json!({"i": done, "n": all})));
        self.at(done, "frames");
    }

    /// Some of many runs are done.
    pub fn runs(&self, done: usize, what: &str) {
        self.at(done, what);
    }

    fn at(&self, done: usize, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            if done > 0 {
                let left = self.began.elapsed().mul_f64(self.count.saturating_sub(done) as f64 / done as f64);
                bar.set_message(format!("{message}  eta {}", duration(left)));
            }
        }
    }

    /// Time since the stage began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            *BAR.lock().unwrap_or_else(PoisonError::into_inner) = None;
            bar.finish_and_clear();
        }
    }
}

/// Events of a second run carry its name.
fn named(run: &str, mut fields: Value) -> Value {
    if !run.is_empty() {
        fields["run"] = run.into();
    }
    fields
}

/// `17 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(d: Duration) -> String {
    match d.as_secs_f64().round() as u64 {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// `2.3 MiB`, `212 MiB`; kibibytes below one.
pub fn size(bytes: u64) -> String {
    let mib = bytes as f64 / (1 << 20) as f64;
    if bytes < 1 << 20 {
        format!("{:.0} KiB", bytes as f64 / 1024.0)
    } else if mib < 100.0 {
        format!("{mib:.1} MiB")
    } else if mib < 4096.0 {
        format!("{mib:.0} MiB")
    } else {
        format!("{:.1} GiB", mib / 1024.0)
    }
}

/// Milliseconds are enough for programs.
pub fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_objects() {
        for (fields, first) in
            [(json!({}), true), (json!({}), false), (json!({"a": 1}), true), (json!({"a": 1}), false)]
        {
            let line = event_line("x", &fields, first);
            let back: Value = serde_json::from_str(&line).unwrap();
            assert!(line.starts_with("{\"event\":\"x\"") && back.get("v").is_some() == first, "{line}");
            assert_eq!(back.get("a"), fields.get("a"));
        }
    }

    #[test]
    fn words_for_numbers() {
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_secs_f64(59.4)), "59 s");
        assert_eq!(size(2411724), "2.3 MiB");
        assert_eq!(size(222298112), "212 MiB");
        assert_eq!(size(2048), "2 KiB");
    }
}
