//! Weights in eight bits: what they cost in closeness, and that every way to a device gives the same numbers.

#[path = "tiny_model/mod.rs"]
mod tiny_model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use residua::gpu::{DType, Gpu, Prefs};
use residua::media::quality;
use residua::models::t5::{self, T5Encoder};
use residua::pipeline::{OpenSora, Request};
use residua::tensor::{Checkpoint, Conversion, Converted, Stored, Weights};

fn open(dtype: DType) -> Gpu {
    let prefs = Prefs { device: std::env::var("RESIDUA_DEVICE").ok(), dtype: Some(dtype), ..Prefs::default() };
    pollster::block_on(Gpu::open(&prefs)).expect("a device for the tests")
}

fn toybox() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/toybox")
}

fn golden(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(part)
}

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("residua-test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Converts a part and takes its configuration along.
fn convert(from: &Path, into: &Path, to: Stored) -> Converted {
    std::fs::create_dir_all(into).unwrap();
    std::fs::copy(from.join("config.json"), into.join("config.json")).unwrap();
    let how = Conversion { to: Some(to), table: &t5::EMBEDDING, shard: None };
    Checkpoint::open(from).unwrap().convert(into, "model", &how, &mut |_, _| true).unwrap()
}

/// Root mean square of the difference over that of the first.
fn relative(of: &[f32], other: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v).powi(2);
    let off: f64 = of.iter().zip(other).map(|(a, b)| square(a - b)).sum();
    (off / of.iter().map(|&v| square(v)).sum::<f64>()).sqrt()
}

#[test]
fn captions() {
    let dir = scratch();
    for (name, from) in [("toybox", toybox().join("text_encoder")), ("golden", golden("t5/model_a"))] {
        let into = dir.path().join(name);
        let converted = convert(&from, &into, Stored::Int8);
        println!("{name}: {} to {} bytes, worst {:?}", converted.before(), converted.after(), converted.worst());
        for dtype in [DType::F32, DType::F16] {
            let gpu = open(dtype);
            let [plain, eight] = [&from, &into].map(|folder| T5Encoder::load(&gpu, folder).unwrap());
            let ids: Vec<u32> = (0..24).map(|i| (7 * i + 3) % plain.config().vocab_size as u32).chain([1]).collect();
            let [plain, eight] = [plain, eight].map(|e| e.forward(&ids).unwrap().read_blocking().unwrap());
            let off = relative(&plain, &eight);
            println!("{name}, {dtype:?}: {off:.5}");
        }
    }
}

#[test]
fn videos() {
    let gpu = open(DType::F16);
    let dir = scratch();
    let shipped = toybox();
    let model = |name: &str, eight: &[&str]| {
        let folder = dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for part in ["transformer", "vae", "text_encoder", "tokenizer", "scheduler", "model_index.json"] {
            let (from, to) = (shipped.join(part), folder.join(part));
            if eight.contains(&part) {
                convert(&from, &to, Stored::Int8);
                if part == "vae" { std::os::unix::fs::symlink(from.join("vae_2d"), to.join("vae_2d")).unwrap(); }
            } else {
                std::os::unix::fs::symlink(from, to).unwrap();
            }
        }
        OpenSora::open(&gpu, &folder).unwrap()
    };
    let prompts = ["a red circle moving right on a blue background", "a purple square moving up slowly on a gray background",
        "a blue ring rising on a gray background", "a large green circle getting bigger over a cyan background"];
    let steps = std::env::var("STEPS").map_or(6, |s| s.parse().unwrap());
    let video = |sora: &OpenSora, prompt: &str, seed| {
        let request = Request { seed, steps: Some(steps), ..Request::new(prompt) };
        pollster::block_on(sora.generate(&request, &mut |_| true)).unwrap()
    };
    let plain = model("plain", &[]);
    let base: Vec<_> = prompts.iter().zip(1..).map(|(p, s)| video(&plain, p, s)).collect();
    for eight in [&["text_encoder"][..], &["transformer"], &["vae"], &["text_encoder", "transformer"]] {
        let sora = model(&eight.join("+"), eight);
        let psnr: Vec<f64> = prompts.iter().zip(1..).zip(&base).map(|((p, s), base)| quality::psnr(&base.frames.rgb, &video(&sora, p, s).frames.rgb)).collect();
        println!("{eight:?}: {psnr:.1?} mean {:.1}", psnr.iter().sum::<f64>() / psnr.len() as f64);
    }
    let _ = (Arc::new(0), Weights::random(&gpu), tiny_model::SIZE);
}
