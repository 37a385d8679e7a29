//! Which of several kernels is fastest here: measured once on the device itself, then remembered on disk.
//!
//! An op that can do the same work with several programs names them, best guess first, and says how to run each on the
//! operands at hand. Measuring costs a compilation and a few runs of every candidate, so it is only done where it pays:
//! on a device of our own that is no CPU (compiling is slow there, and the guesses were measured on one), and for work
//! above [`WORTH`]. Everyone else gets the best guess, or what was remembered.
//!
//! What is remembered belongs to one adapter, driver and set of shader files; a file that is damaged or of another
//! device counts as none. The same machine therefore makes the same choice at every run after the first. A choice may
//! change bits: tiles of one kernel add in the order of k and agree to the last one, different kernels need not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Gpu, lock, shader};

/// Whether kernels are measured against each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tune {
    /// Best guesses only: nothing is measured, read or written.
    Off,
    /// Large work on a GPU of our own is measured, once for each kind.
    #[default]
    Auto,
    /// Everything is, on software drivers as well: for tests, and to warm up a machine.
    Always,
}

/// Operations (a product and a sum are two) from which on measuring pays.
const WORTH: f64 = 1e9;
/// A candidate must be this much faster than the best guess, or noise decides.
const CLEARLY: f64 = 0.97;
/// What one decision may take, compilation aside.
const PATIENCE: Duration = Duration::from_millis(400);
/// Runs are repeated until they last this long together: a submission alone takes a tenth of it.
const LONG_ENOUGH: f64 = 2e-3;
/// The layout of the file.
const VERSION: u32 = 1;

/// What was found out about one kind of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Choice {
    winner: String,
    /// Milliseconds of a run of each.
    ms: BTreeMap<String, f64>,
}

/// A file of choices.
#[derive(Serialize, Deserialize)]
struct Memory {
    version: u32,
    device: String,
    shaders: String,
    choices: BTreeMap<String, Choice>,
}

/// The choices of one device.
pub(super) struct Tuner {
    tune: Tune,
    file: Option<PathBuf>,
    device: String,
    /// Read at the first question.
    known: Mutex<Option<BTreeMap<String, Choice>>>,
    /// Held while something is measured: what is asked meanwhile gets the best guess.
    measuring: Mutex<()>,
}

impl Tuner {
    /// `folder`: where files are kept; `None`: [`cache_folder`].
    pub(super) fn new(tune: Tune, info: &wgpu::AdapterInfo, folder: Option<&Path>) -> Self {
        let folder = folder.map(Path::to_path_buf).or_else(cache_folder).filter(|_| tune != Tune::Off);
        let device = device(info);
        let file = folder.map(|f| file_of(&f, &device));
        Self { tune, file, device, known: Mutex::default(), measuring: Mutex::default() }
    }

    fn remembered(&self, key: &str) -> Option<String> {
        let mut known = lock(&self.known);
        let known = known
            .get_or_insert_with(|| self.file.as_deref().and_then(|file| read(file, &self.device)).unwrap_or_default());
        known.get(key).map(|c| c.winner.clone())
    }

    fn remember(&self, key: &str, choice: Choice) {
        let mut known = lock(&self.known);
        let known = known.get_or_insert_default();
        known.insert(key.into(), choice);
        let Some(file) = &self.file else { return };
        // another process may have found out other things
        let mut choices = read(file, &self.device).unwrap_or_default();
        choices.extend(known.iter().map(|(key, choice)| (key.clone(), choice.clone())));
        if let Err(e) = write(file, &self.device, choices) {
            log::debug!("choice of kernels not kept in {}: {e}", file.display());
        }
    }
}

impl Gpu {
    /// The index of the candidate to use. Each has a name, the best guess first; `work` counts operations, `key` names the
    /// kind of work that one choice is good for, and `run` records one run of a candidate, any number of times, on
    /// tensors whose contents do not matter yet. `sound` is asked before anything but the best guess is chosen: the
    /// fastest kernel may be one that this driver compiles wrongly.
    ///
    /// # Panics
    /// If there is no candidate.
    pub fn fastest(
        &self,
        key: &str,
        work: f64,
        names: &[String],
        run: impl Fn(usize),
        sound: impl Fn(usize) -> bool,
    ) -> usize {
        assert!(!names.is_empty(), "{key}: no candidates");
        let tuner = &self.0.tuner;
        if names.len() == 1 || tuner.tune == Tune::Off {
            return 0;
        }
        if let Some(at) = tuner.remembered(key).and_then(|winner| names.iter().position(|n| *n == winner)) {
            return at;
        }
        let software = self.0.info.device_type == wgpu::DeviceType::Cpu;
        let worth = tuner.tune == Tune::Always || (work >= WORTH && !software);
        if !worth || !self.0.owned || self.has_failed() {
            return 0;
        }
        let Ok(_alone) = tuner.measuring.try_lock() else { return 0 };
        let seconds = self.measure(names.len(), run);
        let Some(guess) = seconds[0] else { return 0 };
        let timed = || seconds.iter().enumerate().filter_map(|(i, s)| s.map(|s| (i, s)));
        let (best, least) = timed().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, guess));
        let winner = if least < CLEARLY * guess && sound(best) { best } else { 0 };
        let ms: BTreeMap<String, f64> = timed().map(|(i, s)| (names[i].clone(), s * 1e3)).collect();
        log::debug!("{key}: `{}` of {ms:?} ms", names[winner]);
        tuner.remember(key, Choice { winner: names[winner].clone(), ms });
        winner
    }

    /// Seconds a run of each candidate takes; none of one that failed, or whose turn did not come.
    fn measure(&self, count: usize, run: impl Fn(usize)) -> Vec<Option<f64>> {
        let finish = |runs: usize, at: usize| {
            let since = Instant::now();
            (0..runs).for_each(|_| run(at));
            self.wait().map(|()| since.elapsed().as_secs_f64())
        };
        let mut seconds = vec![None; count];
        if let Err(fault) = self.wait() {
            self.fail(fault); // not ours
            return seconds;
        }
        let mut spent = Duration::ZERO;
        for at in 0..count {
            if spent > PATIENCE && at > 0 {
                break;
            }
            // compiled, and the memory touched; what a candidate may not do here is no fault of the caller's
            let Ok(_) = finish(1, at) else { continue };
            let since = Instant::now();
            let Ok(mut best) = finish(1, at) else { continue };
            let least = seconds.iter().flatten().fold(f64::INFINITY, |a: f64, b| a.min(*b));
            if best < 2.0 * least {
                let runs = (LONG_ENOUGH / best).clamp(1.0, 50.0) as usize;
                for _ in 0..3 {
                    if let Ok(all) = finish(runs, at) {
                        best = best.min(all / runs as f64);
                    }
                }
            }
            seconds[at] = Some(best);
            spent += since.elapsed();
        }
        seconds
    }
}

impl Gpu {
    /// Everything that tells this device from another that may give other last digits: adapter, driver, kernel family,
    /// how operands are kept, and the text of all shaders.
    pub fn identity(&self) -> String {
        format!("{} | {:?} | {:?} | {}", device(&self.0.info), self.class(), self.operands(), shaders())
    }
}

/// How many choices are kept for an adapter, and where. `folder`: `None` for [`cache_folder`].
pub fn tuned(info: &wgpu::AdapterInfo, folder: Option<&Path>) -> Option<(PathBuf, usize)> {
    let device = device(info);
    let file = file_of(&folder.map(Path::to_path_buf).or_else(cache_folder)?, &device);
    let choices = read(&file, &device)?;
    Some((file, choices.len()))
}

/// Where what can be made again is kept: `RESIDUA_CACHE_DIR`, else a folder of ours where the system keeps such things.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(own) = set("RESIDUA_CACHE_DIR") {
        return Some(own);
    }
    let caches = if cfg!(target_os = "windows") {
        set("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        set("HOME").map(|home| home.join("Library/Caches"))
    } else {
        set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))
    };
    caches.map(|caches| caches.join("residua"))
}

/// Everything that another choice may depend on and a driver tells.
fn device(info: &wgpu::AdapterInfo) -> String {
    let (name, driver, version) = (&info.name, &info.driver, &info.driver_info);
    format!("{name} | {:04x}:{:04x} | {driver} {version} | {}", info.vendor, info.device, info.backend)
}

/// FNV-1a: small, and the same in every build.
fn hash<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let bytes = parts.flat_map(|p| p.bytes().chain([0]));
    format!("{:016x}", bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)))
}

fn shaders() -> String {
    hash(shader::ALL.iter().flat_map(|s| [s.path, s.text]))
}

fn file_of(folder: &Path, device: &str) -> PathBuf {
    folder.join(format!("kernels-{}.json", hash(std::iter::once(device))))
}

/// The choices in a file; none if it is not there, damaged, or of another device or set of shaders.
fn read(file: &Path, device: &str) -> Option<BTreeMap<String, Choice>> {
    let bytes = std::fs::read(file).ok()?;
    match serde_json::from_slice::<Memory>(&bytes) {
        Ok(m) if m.version == VERSION && m.device == device && m.shaders == shaders() => Some(m.choices),
        Ok(_) => {
            log::debug!("{} is of another device or version", file.display());
            None
        }
        Err(e) => {
            log::debug!("{} cannot be read: {e}", file.display());
            None
        }
    }
}

fn write(file: &Path, device: &str, choices: BTreeMap<String, Choice>) -> std::io::Result<()> {
    let memory = Memory { version: VERSION, device: device.into(), shaders: shaders(), choices };
    replace(file, &serde_json::to_vec_pretty(&memory)?)
}

/// Replaces a file of the [`cache_folder`] as a whole, so that nobody reads half of it.
pub(crate) fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut fresh, bytes)?;
    fresh.persist(file).map(drop).map_err(|e| e.error)
}
