//! Watches a run without sparing anything: what calibration learns from.

use std::ops::Range;

use super::{AdaCache, CachePolicy, Decision, Evaluation, Measure, Run, Settings, Site};
use crate::error::Result;

/// Computes everything, compares each measured residual with those of some evaluations before, and keeps the sums of
/// all pairs as long, so that [`super::ResidualCache::suppose`] can ask what their reuse would have given.
pub struct Recorder {
    /// Says where and how is measured.
    probe: AdaCache,
    back: usize,
    depth: usize,
}

impl Recorder {
    /// Measures as AdaCache would with these settings, but with `back` evaluations.
    pub fn new(settings: Settings, back: usize) -> Self {
        Self { probe: AdaCache::new(settings), back, depth: 0 }
    }
}

impl CachePolicy for Recorder {
    fn describe(&self) -> String {
        "recorder".into()
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        self.depth = run.depth;
        self.probe.begin(run)
    }

    fn bytes(&self, run: &Run) -> u64 {
        let measured = self.probe.bytes(run) / run.stream_bytes() - self.probe.history() as u64;
        (self.history() as u64 + measured * self.back as u64) * run.stream_bytes()
    }

    fn decide(&mut self, _at: &Evaluation) -> Decision {
        Decision::Compute
    }

    fn stores(&self) -> Option<Range<usize>> {
        Some(0..self.depth)
    }

    fn history(&self) -> usize {
        // the newest is that of the evaluation itself
        1 + self.back
    }

    fn measures(&self, site: Site) -> Option<Measure<'_>> {
        self.probe.measures(site).map(|measure| Measure { back: self.back, ..measure })
    }
}
