//! What a run takes on the adapter is said beforehand, is what it takes, and can be made to fit.

#[path = "full_model/mod.rs"]
mod full_model;
#[path = "program/mod.rs"]
mod program;
#[path = "tiny_model/mod.rs"]
mod tiny_model;

use std::path::Path;

use program::{Ran, run, scratch};
use residua::error::Result;
use residua::gpu::{Class, DType, Gpu, Prefs};
use residua::pipeline::{Budget, OpenSora, Plan, Request, sizes};
use serde_json::Value;

const GIB: u64 = 1 << 30;

fn event(ran: &Ran, name: &str) -> Value {
    let events = ran.text().lines().map(|l| serde_json::from_str::<Value>(l).unwrap_or_else(|e| panic!("{l}: {e}")));
    let found = events.into_iter().find(|e| e["event"] == name);
    found.unwrap_or_else(|| panic!("no event `{name}`: {}", ran.err))
}

fn generate(dir: &Path, model: &Path, args: &[&str]) -> Ran {
    let model = model.to_str().unwrap();
    run(dir, &[&["generate", "-m", model, "-p", "a red circle moving right", "-s", "7", "--json"], args].concat())
}

/// The plan of a run of the published networks.
fn planned(args: &[&str]) -> Value {
    let dir = scratch();
    event(&generate(dir.path(), full_model::folder(), &[&["--dry-run"], args].concat()).ok(), "plan")
}

fn stage<'a>(plan: &'a Value, name: &str) -> &'a Value {
    let mut stages = plan["stages"].as_array().unwrap().iter();
    stages.find(|s| s["name"] == name).unwrap_or_else(|| panic!("no stage `{name}`: {plan}"))
}

#[test]
fn what_was_predicted_is_what_it_takes() {
    let dir = scratch();
    generate(dir.path(), tiny_model::folder(), &["-f", "1", "--steps", "1", "-o", "first.png"]).ok();
    let mut rgb = None;
    for (i, args) in [
        &["--memory", "auto"][..],
        &["--memory", "low"],
        &["--cache", "adacache:preset=fast", "--memory", "auto"],
        &["--cache", "taylorseer", "--memory", "low"],
        &["-i", "first.png", "--memory", "auto"],
        &["-i", "first.png", "--memory", "low"],
        &["-f", "34", "--loop", "2", "--memory", "auto"],
        &["-f", "34", "--loop", "2", "--memory", "low"],
    ]
    .iter()
    .enumerate()
    {
        let name = format!("{i}.rgb");
        let ran = generate(dir.path(), tiny_model::folder(), &[args, &["-o", &name][..]].concat()).ok();
        let (plan, done) = (event(&ran, "plan"), event(&ran, "done"));
        let (told, took) = (plan["peak_bytes"].as_f64().unwrap(), done["peak_bytes"].as_f64().unwrap());
        assert!((told / took - 1.0).abs() < 0.1, "{args:?}: {told} bytes predicted, {took} taken");
        assert_eq!(plan["streamed"], Value::from(args.contains(&"low")));
        if i < 2 {
            // memory changes nothing of the picture
            let made = std::fs::read(dir.path().join(&name)).unwrap();
            assert!(*rgb.get_or_insert_with(|| made.clone()) == made, "{args:?}");
        }
    }
}

#[test]
fn a_budget_is_kept_or_refused_with_what_would_fit() {
    let dir = scratch();
    let model = tiny_model::folder();
    let plan = |memory: &str| event(&generate(dir.path(), model, &["--dry-run", "--memory", memory]).ok(), "plan");
    let free = plan("auto")["peak_bytes"].as_u64().unwrap();
    let least = plan("low")["stages"].as_array().unwrap().iter().map(|s| s["tensor_bytes"].as_u64().unwrap()).max();
    let least = least.unwrap();
    assert!(least < free, "{least} of {free}");
    let between = (least + free) / 2;
    let gib = |bytes: u64| format!("{:.9}", bytes as f64 / GIB as f64);
    let ran = generate(dir.path(), model, &["--memory", &gib(between), "-o", "a.rgb"]).ok();
    assert!(event(&ran, "done")["peak_bytes"].as_u64().unwrap() <= between);
    let refused = generate(dir.path(), model, &["--memory", &gib(least * 3 / 4), "-o", "b.rgb"]);
    assert_eq!(refused.exit, 5, "{}", refused.err);
    assert!(refused.err.contains("at the least") && refused.err.contains("ask for"), "{}", refused.err);
    assert!(!dir.path().join("b.rgb").exists());
    for wrong in ["much", "0", "-1e9", "8GB"] {
        let ran = generate(dir.path(), model, &["--dry-run", "--memory", wrong]);
        assert_eq!(ran.exit, 2, "{wrong}: {}", ran.err);
    }
}

#[test]
fn cards_people_own() {
    // what drivers and screens take of a card is not ours
    let card = |gib: u64| gib * GIB * 9 / 10;
    for (resolution, gib) in [("480p", 8), ("720p", 12)] {
        let plan = planned(&["-r", resolution, "-f", "2s", "--memory", "low"]);
        let peak = plan["peak_bytes"].as_u64().unwrap();
        assert!(peak < card(gib), "{resolution}: {peak} bytes");
        assert_eq!(plan["streamed"], true);
        // with a cache as well
        let cached = planned(&["-r", resolution, "-f", "2s", "--memory", "low", "--cache", "adacache"]);
        let with = cached["peak_bytes"].as_u64().unwrap();
        assert!(peak < with && with < card(gib), "{resolution}: {with} bytes with a cache, {peak} without");
    }
    // the budget of a card decides by itself what is streamed
    assert_eq!(planned(&["-r", "480p", "-f", "2s", "--memory", "7"])["streamed"], false);
    assert_eq!(planned(&["-r", "480p", "-f", "2s", "--memory", "3.5"])["streamed"], true);
}

/// The published networks on an adapter that binds and allocates 2 GiB at a time, as desktop GPUs do, running nothing.
fn desktop() -> OpenSora {
    let prefs = Prefs {
        device: std::env::var("RESIDUA_DEVICE").ok(),
        class: Some(Class::Portable),
        dtype: Some(DType::F16),
        ..Prefs::default()
    };
    let gpu = pollster::block_on(Gpu::open(&prefs)).expect("a device for the tests");
    let most = (2 << 30) - 1;
    OpenSora::open(&gpu.rehearsal_within(most, most), full_model::folder()).expect("a model")
}

fn plan_of(sora: &OpenSora, resolution: &str, length: &str, memory: Budget) -> Result<Plan> {
    let (height, width) = sizes::image_size(resolution, "9:16")?;
    let (height, width, frames) = (Some(height), Some(width), Some(sizes::frames(length)?));
    let prompt = Request::new("a snail crawls over a wet leaf in the morning light");
    sora.plan(&Request { height, width, frames, memory, ..prompt })
}

#[test]
fn cards_people_own_with_large_bindings() {
    let sora = desktop();
    for (resolution, gib) in [("480p", 8), ("720p", 12)] {
        let plan = plan_of(&sora, resolution, "2s", Budget::Low).expect("it fits");
        assert!(plan.memory.peak_bytes() < gib * GIB * 9 / 10, "{resolution}: {:?}", plan.memory);
    }
}

#[test]
#[ignore = "prints the README's table"]
fn table() {
    let sora = desktop();
    for resolution in ["240p", "360p", "480p", "720p"] {
        for length in ["2s", "4s", "8s", "16s"] {
            let [free, low] = [Budget::Gib(1e3), Budget::Low].map(|memory| plan_of(&sora, resolution, length, memory));
            match (free, low) {
                (Ok(free), Ok(low)) => {
                    let gib = |plan: &Plan| plan.memory.peak_bytes() as f64 / GIB as f64;
                    let work: f64 = free.memory.stages.iter().map(|s| s.flops).sum();
                    println!("| {resolution}, {length} | {:.1} | {:.1} | {:.1} |", gib(&free), gib(&low), work / 1e15);
                }
                (free, low) => println!("| {resolution}, {length} | {:?} {:?}", free.err(), low.err()),
            }
        }
    }
}

#[test]
fn the_work_is_that_of_the_networks() {
    let plan = planned(&["-r", "480p", "-f", "2s", "--steps", "10"]);
    let steps = stage(&plan, "denoise")["flops"].as_f64().unwrap();
    // 109.1 TFLOP a step beside the caption, and 3.7 for one of 300 tokens
    assert!((109.1..112.8).contains(&(steps / 1e13)), "{steps} operations");
    assert!((stage(&plan, "decode")["flops"].as_f64().unwrap() / 1e12 - 246.3).abs() < 0.5);
}

#[test]
fn the_time_is_that_of_the_work() {
    // of an adapter of which nothing is known but a product, measured at the first look and kept
    let caches = scratch();
    let told = |steps: &str| {
        let model = full_model::folder().to_str().unwrap();
        let args =
            ["generate", "-m", model, "-p", "x", "-r", "240p", "-f", "2s", "--dry-run", "--json", "--steps", steps];
        let mut command = program::residua(caches.path());
        let ran: Ran = command.env("RESIDUA_CACHE_DIR", caches.path()).args(args).output().unwrap().into();
        let plan = event(&ran.ok(), "plan");
        assert_eq!(plan["seconds_measured"], false);
        let work: f64 = plan["stages"].as_array().unwrap().iter().map(|s| s["flops"].as_f64().unwrap()).sum();
        work / plan["seconds"].as_f64().unwrap()
    };
    let (few, many) = (told("10"), told("40"));
    assert!(few > 0.0 && (few / many - 1.0).abs() < 0.01, "{few} and {many} operations a second");
}
