//! The choice between kernels: measured once, remembered, never in the way.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use residua::gpu::{DType, Gpu, Prefs, Tune, tuned};
use residua::ops::{self, Activation, Store, Target};
use residua::tensor::Tensor;
use serde_json::{Value, json};

fn open(tune: Tune, folder: &Path) -> Gpu {
    let prefs = Prefs {
        device: std::env::var("RESIDUA_DEVICE").ok(),
        dtype: Some(DType::F32),
        tune,
        cache_folder: Some(folder.into()),
        ..Prefs::default()
    };
    pollster::block_on(Gpu::open(&prefs)).expect("a device for the tests")
}

/// Candidates that differ in how many passes they take: the last is by far the fastest. Says which was chosen and how
/// often each ran.
fn choose(gpu: &Gpu, work: f64) -> (usize, Vec<usize>) {
    let x = gpu.upload(&vec![1.0; 1 << 20], [1 << 20]);
    let runs = RefCell::new(vec![0; 3]);
    let names = ["six passes", "four passes", "one pass"].map(String::from);
    let run = |at: usize| {
        runs.borrow_mut()[at] += 1;
        (0..[6, 4, 1][at]).for_each(|_| drop(ops::silu(&x)));
    };
    let at = gpu.fastest("passes", work, &names, run, |_| true);
    (at, runs.into_inner())
}

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn json_of(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn the_fastest_is_found_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let gpu = open(Tune::Always, folder.path());
    let (at, runs) = choose(&gpu, 0.0);
    assert_eq!(at, 2, "{runs:?}");
    assert!(runs.iter().all(|&n| n >= 2), "{runs:?}");
    let doubted = |at: usize| (0..[6, 1][at]).for_each(|_| drop(ops::silu(&gpu.upload(&[1.0; 1 << 18], [1 << 18]))));
    let names = ["right", "fast but wrong"].map(String::from);
    assert_eq!(gpu.fastest("doubted", 0.0, &names, doubted, |at| at != 1), 0, "an unsound kernel never wins");
    assert_eq!(choose(&gpu, 0.0), (2, vec![0; 3]), "asked again");
    assert_eq!(choose(&open(Tune::Always, folder.path()), 0.0), (2, vec![0; 3]), "from the file");
    // what is known is used without measuring as well
    assert_eq!(choose(&open(Tune::Auto, folder.path()), 0.0), (2, vec![0; 3]), "from the file");
    assert_eq!(tuned(gpu.info(), Some(folder.path())), Some((only_file(folder.path()), 2)));
}

#[test]
fn off_and_too_small_measure_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for tune in [Tune::Off, Tune::Auto] {
        assert_eq!(choose(&open(tune, folder.path()), 1e6), (0, vec![0; 3]), "{tune:?}");
    }
    let gpu = open(Tune::Off, folder.path());
    assert_eq!(choose(&gpu, 1e15), (0, vec![0; 3]));
    let software = gpu.info().device_type == residua::wgpu::DeviceType::Cpu;
    assert_eq!(choose(&open(Tune::Auto, folder.path()), 1e15).0 == 0, software, "a GPU measures large work");
    // off does not look at what is known either
    let made = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(made, usize::from(!software));
    choose(&open(Tune::Always, folder.path()), 0.0);
    assert_eq!(choose(&gpu, 1e15), (0, vec![0; 3]));
}

#[test]
fn damaged_and_foreign_files_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    choose(&open(Tune::Always, folder.path()), 0.0);
    let file = only_file(folder.path());
    let good = json_of(&file);
    let with = |name: &str, value: Value| {
        let mut other = good.clone();
        other[name] = value;
        other["choices"]["passes"]["winner"] = json!("four passes");
        other.to_string()
    };
    let cut = good.to_string()[..good.to_string().len() / 2].to_string();
    let others = [
        String::new(),
        cut,
        "[1, 2]".into(),
        with("device", json!("Voodoo")),
        with("shaders", json!("0")),
        with("version", json!(0)),
    ];
    for other in others {
        std::fs::write(&file, &other).unwrap();
        let (at, runs) = choose(&open(Tune::Always, folder.path()), 0.0);
        assert!(at == 2 && runs[2] > 0, "{at} after {runs:?} with {other}");
        assert_eq!(json_of(&file)["choices"]["passes"]["winner"], "one pass", "{other}");
    }
    // a winner that no longer stands for election, and a folder that cannot be made
    std::fs::write(&file, good.to_string().replace("one pass", "no pass")).unwrap();
    assert_eq!(choose(&open(Tune::Always, folder.path()), 0.0).0, 2);
    let blocked = folder.path().join("a file");
    std::fs::write(&blocked, "").unwrap();
    let gpu = open(Tune::Always, &blocked.join("below"));
    assert_eq!(choose(&gpu, 0.0).0, 2);
    assert_eq!(choose(&gpu, 0.0), (2, vec![0; 3]), "in memory");
}

#[test]
fn what_fails_while_it_is_measured_is_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let gpu = open(Tune::Always, folder.path());
    let one = gpu.upload(&[1.0], [1]);
    let most = gpu.largest_tensor() as usize / 4 + 64;
    let names = ["fits", "does not fit"].map(String::from);
    let before = ops::add(&one, &one);
    let at = gpu.fastest("sizes", 0.0, &names, |at| drop(ops::window(&one, &[0], &[[1, most][at]])), |_| true);
    assert_eq!((at, before.read_blocking().unwrap()), (0, vec![2.0]));
}

/// Whichever tile a file names is used, and all of them give the same bits: they add in the order of k.
#[test]
fn every_candidate_makes_the_same_product() {
    let folder = tempfile::tempdir().unwrap();
    let [m, n, k] = [83, 101, 264];
    let number = |i: usize, step: usize| ((i * step + i / 7) % 61) as f32 / 30.0 - 1.0;
    let x: Vec<f32> = (0..m * k).map(|i| number(i, 5)).collect();
    let w: Vec<f32> = (0..n * k).map(|i| number(i, 11)).collect();
    let product = || -> Vec<f32> {
        let gpu = open(Tune::Always, folder.path());
        let (x, w): (Tensor, Tensor) = (gpu.upload(&x, [m, k]), gpu.upload(&w, [n, k]));
        let out = ops::linear(&x, &w, None, Activation::None, Target::Plain, Store::Full);
        out.read_blocking().unwrap()
    };
    let first = product();
    for (i, &v) in first.iter().enumerate() {
        let terms = x[i / n * k..][..k].iter().zip(&w[i % n * k..]).map(|(a, b)| f64::from(*a) * f64::from(*b));
        let (sum, size) = terms.fold((0.0, 0.0), |(s, m), t| (s + t, m + t.abs()));
        let u = 1.0 / f64::from(1 << 24);
        let bound = u * f64::abs(sum) + 4.0 * (k as f64).sqrt() * u * size;
        assert!((f64::from(v) - sum).abs() <= bound, "number {i}: {v}, expected {sum} within {bound:e}");
    }
    if std::fs::read_dir(folder.path()).unwrap().count() == 0 {
        return eprintln!("skipped: this adapter has one kernel for products in f32");
    }
    let file = only_file(folder.path());
    let measured = json_of(&file);
    let choices: BTreeMap<String, Value> = serde_json::from_value(measured["choices"].clone()).unwrap();
    let (key, choice) = choices.into_iter().next().unwrap();
    let names: Vec<String> = choice["ms"].as_object().unwrap().keys().cloned().collect();
    assert!(names.len() > 1, "{names:?}");
    for name in names {
        let mut named = measured.clone();
        named["choices"][&key]["winner"] = json!(name);
        std::fs::write(&file, named.to_string()).unwrap();
        let differs = product().iter().zip(&first).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(differs, None, "{name}");
        assert_eq!(json_of(&file), named, "{name}: nothing new was measured");
    }
}
