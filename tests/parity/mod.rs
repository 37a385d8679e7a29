//! What all parity tests share: where the fixtures are, how a case is reported.

pub mod cache;
pub mod given;
pub mod guided;
pub mod latte;
pub mod misc;
pub mod osp;
pub mod pipeline;
pub mod stdit3;
pub mod t5;
pub mod text;
pub mod vae;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use residua::gpu::{DType, Gpu, Prefs};

/// The folder of fixtures: `RESIDUA_GOLDEN`, or `tests/golden` of this package.
pub fn root() -> PathBuf {
    std::env::var_os("RESIDUA_GOLDEN")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"))
}

/// The device of all parity tests: `RESIDUA_DEVICE` and `RESIDUA_KERNELS` choose another adapter or kernel family.
pub fn gpu(dtype: DType) -> Gpu {
    let prefs = Prefs {
        device: std::env::var("RESIDUA_DEVICE").ok(),
        class: std::env::var("RESIDUA_KERNELS")
            .ok()
            .map(|k| k.parse().unwrap_or_else(|e| panic!("RESIDUA_KERNELS: {e}"))),
        dtype: Some(dtype),
        ..Prefs::default()
    };
    pollster::block_on(Gpu::open(&prefs)).unwrap_or_else(|e| panic!("{e}"))
}

/// How operands are kept: both ways, or as `RESIDUA_DTYPE` says.
pub fn dtypes() -> Vec<DType> {
    match std::env::var("RESIDUA_DTYPE") {
        Ok(one) => vec![one.parse().unwrap_or_else(|e| panic!("RESIDUA_DTYPE: {e}"))],
        Err(_) => vec![DType::F32, DType::F16],
    }
}

/// Prints one line per case and counts; `main` turns a miss (or no case at all) into a failure.
#[derive(Default)]
pub struct Report {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
    filter: Vec<String>,
}

impl Report {
    pub fn new(filter: Vec<String>) -> Self {
        Self { filter, ..Self::default() }
    }

    /// Whether the command line's filters (substrings; none = all) ask for this case.
    pub fn wants(&self, case: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|f| case.contains(f.as_str()))
    }

    /// A case judged by its worst error; NaN fails.
    pub fn error(&mut self, case: &str, worst: f64, bound: f64) {
        let ok = worst <= bound;
        self.count(ok);
        println!(
            "{} {case}: worst {worst:.3e}, {:.1} % of {bound:.1e}",
            if ok { "ok  " } else { "FAIL" },
            100.0 * worst / bound
        );
    }

    /// A case that must agree exactly; `note` says what was compared, or how it differs.
    pub fn exact(&mut self, case: &str, ok: bool, note: impl std::fmt::Display) {
        self.count(ok);
        println!("{} {case}: {note}", if ok { "ok  " } else { "FAIL" });
    }

    /// A fixture of a family or kind that is not implemented: named, never silent.
    pub fn skip(&mut self, case: &str, why: impl std::fmt::Display) {
        self.skipped += 1;
        println!("skip {case}: {why}");
    }

    fn count(&mut self, ok: bool) {
        if ok { self.passed += 1 } else { self.failed += 1 }
    }
}

/// Sub-folders of `dir`, sorted by name; empty if there is no such folder.
pub fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect())
        .unwrap_or_default();
    found.sort();
    found
}

/// Files of `dir` with this extension, sorted by name.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .map(|entries| {
            entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect()
        })
        .unwrap_or_default();
    found.sort();
    found
}

/// Last component of a path, for case names.
pub fn name(path: &Path) -> String {
    path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Parses a JSON fixture; a broken fixture is a failure of the run.
pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One tensor of a fixture, numbers widened to f32.
#[derive(Clone, Debug)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// All tensors of a safetensors fixture; integers and halves are widened to f32.
pub fn arrays(path: &Path) -> BTreeMap<String, Array> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.tensors()
        .into_iter()
        .map(|(name, view)| {
            use safetensors::Dtype;
            let b = view.data();
            let data = match view.dtype() {
                Dtype::F32 => b.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect(),
                Dtype::F64 => b.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap()) as f32).collect(),
                Dtype::I32 => b.chunks_exact(4).map(|c| i32::from_le_bytes(c.try_into().unwrap()) as f32).collect(),
                Dtype::I64 => b.chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().unwrap()) as f32).collect(),
                Dtype::F16 => b.chunks_exact(2).map(|c| half::f16::from_le_bytes([c[0], c[1]]).to_f32()).collect(),
                Dtype::BF16 => b.chunks_exact(2).map(|c| half::bf16::from_le_bytes([c[0], c[1]]).to_f32()).collect(),
                Dtype::U8 | Dtype::BOOL => b.iter().map(|&v| v as f32).collect(),
                other => panic!("{}: `{name}` has dtype {other:?}", path.display()),
            };
            (name.to_string(), Array { shape: view.shape().to_vec(), data })
        })
        .collect()
}

/// How far a result may be from what upstream computed in f32.
#[derive(Clone, Copy)]
pub enum Measure {
    /// Operands in f32: the largest absolute difference, within what the fixtures' README states.
    Worst(f64),
    /// Operands in halves: the root mean square of the difference relative to that of the expected numbers.
    Rms(f64),
}

impl Measure {
    /// In f32 `stated`. In halves every one of the `roundings` of operands between input and output adds noise of
    /// up to u = 2⁻¹¹ relative to its tensor (u/√3 where numbers fill their binades evenly); they are independent,
    /// so that √roundings · u is the yardstick, and `gain` what the computation makes of noise.
    pub fn of(gpu: &Gpu, stated: f64, roundings: usize, gain: f64) -> Self {
        match gpu.operands() {
            DType::F32 => Measure::Worst(stated),
            DType::F16 => Measure::Rms(gain * (roundings as f64).sqrt() / 2048.0),
        }
    }

    pub fn bound(self) -> f64 {
        match self {
            Measure::Worst(bound) | Measure::Rms(bound) => bound,
        }
    }

    /// The distance in this measure; differences of f32 count relative to `scale`. NaN where either is NaN or the
    /// lengths differ.
    pub fn distance(self, got: &[f32], want: &[f32], scale: f64) -> f64 {
        match self {
            Measure::Worst(_) => max_abs(got, want) / scale,
            Measure::Rms(_) if got.len() != want.len() => f64::NAN,
            Measure::Rms(_) => {
                let square = |v: f64| v * v;
                let off: f64 = got.iter().zip(want).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
                let all: f64 = want.iter().map(|&b| square(f64::from(b))).sum();
                (off / all.max(f64::MIN_POSITIVE)).sqrt()
            }
        }
    }
}

/// Largest |a − b|; NaN where either is NaN or the lengths differ.
pub fn max_abs(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    a.iter()
        .zip(b)
        .map(|(x, y)| (*x as f64 - *y as f64).abs())
        .fold(0.0, |w, d| if d.is_nan() || w.is_nan() { f64::NAN } else { w.max(d) })
}
