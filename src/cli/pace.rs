//! How long a run will take: from what runs on this adapter took before, or, at the first, from a product of matrices.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use residua::gpu::{Facts, Gpu, cache_folder};
use residua::models::stdit3::Residence;
use residua::ops::{self, Activation, Store, Target};
use residua::pipeline::{Footprint, Stage};
use residua::tensor::Weights;

use super::bench::measure;
use super::output::write_file;
use super::screen::size;

/// Rows, columns and depth of the product: one of a denoiser's.
const PRODUCT: [usize; 3] = [1024, 1152, 1152];
/// Products are repeated for so many seconds.
const LONG_ENOUGH: f64 = 0.06;
/// Share of a product's speed that whole networks reach, roughly: the rest is norms, attention and convolutions.
const WHOLE: f64 = 0.5;
/// Stages of sizes up to so many doublings apart are taken to run at the same speed.
const ALIKE: i32 = 2;
/// Weight of what was measured last.
const LATEST: f64 = 0.5;
/// Share of the whole below which a guess does not matter.
const MINOR: f64 = 0.05;
/// Shorter stages tell more about loading than about work.
const TELLS: f64 = 0.05;

/// Operations a second by adapter, stage and size of the work.
pub struct Paces {
    file: Option<PathBuf>,
    adapter: String,
    known: RefCell<BTreeMap<String, f64>>,
}

/// A prediction.
#[derive(Clone)]
pub struct Seconds {
    pub of_stages: Vec<f64>,
    /// Whether stages like these were timed here before: those that count.
    pub measured: bool,
}

impl Seconds {
    pub fn total(&self) -> f64 {
        self.of_stages.iter().sum()
    }
}

/// What a run will take on the adapter, for people; whether its networks stay for the next one.
pub fn memory_line(footprint: &Footprint, stay: bool) -> String {
    let stages: Vec<String> = footprint.stages.iter().map(|s| format!("{} {}", s.name, size(s.peak_bytes))).collect();
    let of = footprint.available.map_or_else(String::new, |have| format!(" of {}", size(have)));
    let mut line = format!("memory  peak {}{of} ({})", size(footprint.peak_bytes()), stages.join(", "));
    if stay {
        line += &format!(", and {} for networks that stay for the next video", size(footprint.weights));
    }
    if let Some(budget) = footprint.budget {
        line += &format!(", kept within {}", size(budget));
    }
    if footprint.residence == Residence::Streamed {
        line += ", weights streamed";
    }
    line
}

/// How long runs will take together, for people.
pub fn seconds_line<'a>(predictions: impl Iterator<Item = &'a Seconds> + Clone, cached: bool) -> String {
    let total: f64 = predictions.clone().map(Seconds::total).sum();
    let time = match total {
        t if t < 120.0 => format!("{t:.1} s"),
        t if t < 7200.0 => format!("{:.0} min", t / 60.0),
        t => format!("{:.1} h", t / 3600.0),
    };
    let cache = if cached { ", less what the cache saves" } else { "" };
    let measured = predictions.clone().all(|p| p.measured);
    let guess = if measured { "" } else { " (a first guess: nothing like it ran here yet)" };
    format!("time    about {time}{cache}{guess}")
}

impl Paces {
    /// What is known of this adapter. A file that is damaged counts as none.
    pub fn read(gpu: &Gpu) -> Self {
        let file = cache_folder().map(|folder| folder.join("paces.json"));
        let text = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let known: BTreeMap<_, _> = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let Facts { name, driver, kernels, dtype, .. } = gpu.facts();
        let adapter = format!("{name}, {driver}, {kernels}, {dtype}");
        Self { file, adapter, known: known.into() }
    }

    fn key(&self, stage: &str, size: i32) -> String {
        format!("{}, {stage} of 2^{size}", self.adapter)
    }

    fn of(&self, stage: &str, flops: f64) -> Option<f64> {
        let size = flops.log2().round() as i32;
        let near = (0..=ALIKE).flat_map(|d| [size - d, size + d]);
        let known = self.known.borrow();
        near.filter_map(|size| known.get(&self.key(stage, size)).copied()).find(|pace| *pace > 0.0)
    }

    /// What a stage is taken to reach of which nothing is known. Measured once for an adapter, and kept.
    fn guess(&self, gpu: &Gpu) -> f64 {
        let key = format!("{}, a product", self.adapter);
        let known = self.known.borrow().get(&key).copied();
        WHOLE
            * known.filter(|pace| *pace > 0.0).unwrap_or_else(|| {
                // (what keeps it from being measured will be told by the run)
                let pace = product(gpu).unwrap_or(f64::INFINITY);
                if pace.is_finite() {
                    self.known.borrow_mut().insert(key, pace);
                    self.write();
                }
                pace
            })
    }

    /// How long each stage of a run takes, without what a cache saves.
    pub fn predict(&self, gpu: &Gpu, footprint: &Footprint) -> Seconds {
        let mut guessed = 0.0;
        let seconds = |stage: &Stage| match self.of(stage.name, stage.flops) {
            Some(pace) => stage.flops / pace,
            None => {
                let seconds = stage.flops / self.guess(gpu);
                guessed += seconds;
                seconds
            }
        };
        let of_stages: Vec<f64> = footprint.stages.iter().map(seconds).collect();
        let measured = guessed <= MINOR * of_stages.iter().sum::<f64>();
        Seconds { of_stages, measured }
    }

    /// Remembers what a stage took.
    pub fn learn(&self, stage: &str, flops: f64, took: Duration) {
        let seconds = took.as_secs_f64();
        if flops < 1.0 || seconds < TELLS {
            return;
        }
        let (key, new) = (self.key(stage, flops.log2().round() as i32), flops / seconds);
        let mut known = self.known.borrow_mut();
        let pace = known.get(&key).map_or(new, |old| old + LATEST * (new - old));
        known.insert(key, pace);
    }

    /// Keeps it for the next run, if there is where.
    pub fn write(&self) {
        let Some(file) = &self.file else { return };
        let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let text = serde_json::to_string_pretty(&*self.known.borrow()).unwrap_or_default();
        if folder.is_err() || write_file(file, text.as_bytes(), true).is_err() {
            log::debug!("how long stages take is not kept in {}", file.display());
        }
    }
}

/// Operations a second in a product, compilation aside.
fn product(gpu: &Gpu) -> residua::Result<f64> {
    let [m, n, k] = PRODUCT;
    let weights = Weights::random(gpu);
    let (x, w) = (weights.get("x", [m, k])?, weights.matrix("w", [n, k])?);
    let multiply = |_| drop(ops::linear(&x, &w, None, Activation::None, Target::Plain, Store::Full));
    let times = measure::repeat(gpu, &measure::Budget::new(gpu, LONG_ENOUGH), multiply)?;
    drop((x, w));
    gpu.take_flops();
    gpu.trim();
    gpu.reset_peak();
    Ok(2.0 * (m * n) as f64 * k as f64 / times.median())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paces() -> Paces {
        Paces { file: None, adapter: "one".into(), known: RefCell::default() }
    }

    #[test]
    fn sizes_that_are_alike() {
        let mut paces = paces();
        paces.learn("denoise", 1e12, Duration::from_secs(10));
        assert_eq!(paces.of("denoise", 1e12), Some(1e11));
        assert_eq!(paces.of("denoise", 3e12), Some(1e11));
        assert_eq!(paces.of("denoise", 1e14), None, "far larger");
        assert_eq!(paces.of("decode", 1e12), None);
        paces.learn("denoise", 1e12, Duration::from_secs(5));
        assert_eq!(paces.of("denoise", 1e12), Some(1.5e11), "half of the news");
        paces.learn("text", 1e9, Duration::from_millis(1));
        assert_eq!(paces.of("text", 1e9), None, "too short to tell");
        paces.adapter = "other".into();
        assert_eq!(paces.of("denoise", 1e12), None);
    }
}
