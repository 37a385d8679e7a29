//! The program from prompt to file, by its command line alone.

#[path = "program/mod.rs"]
mod program;
#[path = "tiny_model/mod.rs"]
mod tiny_model;
#[path = "torch_file/mod.rs"]
mod torch_file;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use program::{Ran, names, residua, run, run_with_input, scratch};
use residua::media::{Frames, quality, read_mp4, read_recipe};
use serde_json::Value;
use tiny_model::{FRAMES, SIZE};

const PROMPT: &str = "a red circle moving right on a blue background";

/// `generate` with the tiny model, the prompt and a seed.
fn generate(dir: &Path, args: &[&str]) -> Ran {
    let model = tiny_model::folder().to_str().unwrap();
    run(dir, &[&["generate", "-m", model, "-p", PROMPT, "-s", "7"], args].concat())
}

fn bytes(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn events(ran: &Ran) -> Vec<Value> {
    ran.text().lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
}

fn event<'a>(events: &'a [Value], name: &str) -> &'a Value {
    events.iter().find(|e| e["event"] == name).unwrap_or_else(|| panic!("no event `{name}`"))
}

/// Brightness of every pixel, with the weights of the MP4.
fn luma(frames: &Frames) -> Vec<u8> {
    let weigh = |p: &[u8]| 0.2126 * f64::from(p[0]) + 0.7152 * f64::from(p[1]) + 0.0722 * f64::from(p[2]);
    frames.rgb.chunks_exact(3).map(|p| weigh(p).round() as u8).collect()
}

#[test]
fn a_video_and_its_latents_are_the_same_video() {
    let dir = scratch();
    let d = dir.path();
    let model = tiny_model::folder().to_str().unwrap();
    let ran = generate(d, &["-o", "a.png", "--latents-out", "a.safetensors"]).ok();
    assert_eq!(ran.text(), "a.png");
    let decode = |name: &str| run(d, &["decode", "a.safetensors", "-m", model, "-o", name, "--crf", "2"]).ok();
    decode("b.png");
    assert_eq!(bytes(d, "a.png"), bytes(d, "b.png"), "frames and recipe");
    decode("b.rgb");
    decode("b.mp4");
    let exact = Frames { width: SIZE, height: SIZE, fps: 8.0, rgb: bytes(d, "b.rgb") };
    let lossy = read_mp4(&d.join("b.mp4")).unwrap();
    assert_eq!((lossy.width, lossy.height, lossy.count(), lossy.fps), (SIZE, SIZE, FRAMES, 8.0));
    // colour at half resolution costs a lot on noise, so brightness is judged
    let psnr = quality::psnr(&luma(&exact), &luma(&lossy));
    assert!(psnr > 30.0, "PSNR {psnr:.1} dB");
    generate(d, &["-o", "c.mp4", "--crf", "2"]).ok();
    assert_eq!(bytes(d, "b.mp4"), bytes(d, "c.mp4"));
    generate(d, &["-o", "frames"]).ok();
    assert_eq!(names(&d.join("frames")).len(), FRAMES);
    generate(d, &["-o", "c.gif"]).ok();
    assert_eq!(read_recipe(&d.join("c.gif")).unwrap().unwrap()["prompt"], PROMPT);
}

#[test]
fn a_seed_names_a_video() {
    let dir = scratch();
    let d = dir.path();
    for (name, seed) in [("a.mp4", "11"), ("b.mp4", "11"), ("c.mp4", "12")] {
        let model = tiny_model::folder().to_str().unwrap();
        run(d, &["generate", "-m", model, "-p", PROMPT, "-s", seed, "-o", name]).ok();
    }
    assert_eq!(bytes(d, "a.mp4"), bytes(d, "b.mp4"));
    assert_ne!(bytes(d, "a.mp4"), bytes(d, "c.mp4"));
    // a seed that was drawn is told
    let model = tiny_model::folder().to_str().unwrap();
    let ran = run(d, &["generate", "-m", model, "-p", PROMPT, "--seed", "-1", "--json", "-o", "d.mp4"]).ok();
    let seed = event(&events(&ran), "plan")["seed"].as_u64().unwrap();
    assert!(ran.err.contains(&format!("seed {seed}")), "{}", ran.err);
}

#[test]
fn a_cache_that_never_reuses_changes_nothing() {
    let dir = scratch();
    let d = dir.path();
    for (name, cache) in
        [("off", "off"), ("ones", "adacache:codebook=1.0:1"), ("moreg", "adacache:codebook=9:1,moreg=on")]
    {
        let (video, latents) = (format!("{name}.mp4"), format!("{name}.safetensors"));
        generate(d, &["--cache", cache, "--no-metadata", "-o", &video, "--latents-out", &latents]).ok();
    }
    for name in ["ones", "moreg"] {
        assert_eq!(bytes(d, "off.mp4"), bytes(d, &format!("{name}.mp4")));
        assert_eq!(bytes(d, "off.safetensors"), bytes(d, &format!("{name}.safetensors")));
    }
    assert!(read_recipe(&d.join("off.mp4")).unwrap().is_none());
}

#[test]
fn every_cache_spares_work() {
    let dir = scratch();
    let d = dir.path();
    for cache in [
        "static:every=3",
        "static:mask=#.##.#",
        "teacache:threshold=900",
        "fbcache:threshold=900,order=1",
        "magcache:threshold=9",
        "taylorseer:every=2,order=2",
        "delta-dit",
        "pab:window=0-1000,skip=1",
        "tgate:gate=2",
    ] {
        let ran = generate(d, &["--cache", cache, "--steps", "6", "--trace", "t.json", "-o", "a.mp4", "--force"]).ok();
        let trace: Value = serde_json::from_slice(&bytes(d, "t.json")).unwrap();
        let work = trace["cache"]["work"].as_f64().expect("a share");
        assert!(work > 0.1 && work < 0.99, "{cache}: {work}, {}", ran.err);
        let asks = cache.starts_with("teacache") || cache.starts_with("fbcache");
        let signals = trace["steps"].as_array().unwrap().iter().filter(|s| s["signal"].is_number()).count();
        assert_eq!(signals > 0, asks, "{cache}: {signals} signals");
    }
}

#[test]
fn what_a_cache_did_is_told() {
    let dir = scratch();
    let d = dir.path();
    let cache = "adacache:codebook=0.02:4/9.0:2,moreg=on";
    let args = ["--cache", cache, "--steps", "12", "--verify-cache", "--trace", "t.json", "--sidecar", "-o", "a.mp4"];
    let ran = generate(d, &args).ok();
    let strip = ran.err.lines().find(|l| l.starts_with("steps ")).expect(&ran.err);
    let marks = strip.split_whitespace().nth(1).unwrap();
    let computed = marks.matches('#').count();
    assert!(marks.len() == 12 && (2..12).contains(&computed), "{marks}");
    let line = ran.err.lines().find(|l| l.starts_with("cache adacache+moreg: ")).expect(&ran.err);
    assert!(line.contains(&format!(" {computed} of 12 steps computed (")), "{line}");
    assert!(
        line.contains("x fewer), ") && line.contains(" % of the work, saved ") && line.contains(" s, cache memory "),
        "{line}"
    );
    let line = ran.err.lines().find(|l| l.starts_with("vs uncached, same seed: PSNR ")).expect(&ran.err);
    assert!(line.contains(" dB, SSIM ") && line.contains(", worst frame "), "{line}");

    let trace: Value = serde_json::from_slice(&bytes(d, "t.json")).unwrap();
    let steps = trace["steps"].as_array().unwrap();
    assert_eq!(steps.iter().filter(|s| s["computed"] == true).count(), computed);
    assert!(steps.iter().all(|s| s["seconds"].as_f64().is_some_and(|v| v > 0.0)));
    let row = steps.iter().flat_map(|s| s["rows"].as_array().unwrap()).next().expect("a measurement");
    for field in ["avg_diff", "motion_score", "motion_gradient", "motion_factor", "cache_diff"] {
        assert!(row[field].is_number(), "{field}: {row}");
    }
    assert!(row["new_rate"].as_u64().is_some_and(|r| r >= 1));
    let sidecar: Value = serde_json::from_slice(&bytes(d, "a.json")).unwrap();
    assert!(sidecar["seconds"]["denoise"].as_f64().is_some_and(|v| v > 0.0));
    let recipe = read_recipe(&d.join("a.mp4")).unwrap().unwrap();
    assert!(recipe.get("seconds").is_none(), "times differ between two runs of one recipe");
    assert_eq!(recipe["cache"]["computed"], computed);
}

#[test]
fn events_for_programs() {
    let dir = scratch();
    let args = ["--json", "-q", "--cache", "adacache:codebook=9:2", "--verify-cache", "--latents-out", "l.safetensors"];
    let ran = generate(dir.path(), &[&args[..], &["-o", "a.mp4"]].concat()).ok();
    assert_eq!(ran.err, "");
    let events = events(&ran);
    assert_eq!((events[0]["event"].as_str(), events[0]["v"].as_u64()), (Some("plan"), Some(1)));
    assert_eq!(events[0]["size"], serde_json::json!([SIZE, SIZE]));
    let steps: Vec<&Value> = events.iter().filter(|e| e["event"] == "step" && e.get("run").is_none()).collect();
    let numbers: Vec<u64> = steps.iter().map(|s| s["i"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert!(steps.iter().all(|s| s["n"] == 6 && s["computed"].is_boolean()));
    let place = |name: &str| events.iter().position(|e| e["event"] == name).expect(name);
    assert!(place("latents") < place("decode"), "latents are saved before decoding starts");
    let output = event(&events, "output");
    assert_eq!(output["bytes"].as_u64().unwrap() as usize, bytes(dir.path(), "a.mp4").len());
    assert_eq!(output["sha256"].as_str().map(str::len), Some(64));
    assert!(event(&events, "verify")["ssim"].is_number());
    assert_eq!(events.last().unwrap()["event"], "done");
    assert!(event(&events, "done")["cache"]["skipped"].as_u64().is_some_and(|n| n > 0));
    assert!(events.iter().all(|e| e["event"] != "error"));
}

#[test]
fn a_cache_is_verified_against_the_uncached_video() {
    let dir = scratch();
    let ran =
        generate(dir.path(), &["--json", "--cache", "adacache:codebook=9:1", "--verify-cache", "-o", "a.mp4"]).ok();
    let verify = event(&events(&ran), "verify").clone();
    assert_eq!(verify["equal"], true);
    assert!(verify["psnr"].is_null() && verify["ssim"].as_f64().is_some_and(|s| s > 0.999_999), "{verify}");
}

#[test]
fn a_prompt_from_standard_input() {
    let dir = scratch();
    let d = dir.path();
    let model = tiny_model::folder().to_str().unwrap();
    generate(d, &["-o", "a.mp4"]).ok();
    let args = ["run", "-m", model, "-p", "-", "-s", "7", "-o", "b.mp4"];
    run_with_input(d, &args, format!("{PROMPT}\n").as_bytes()).ok();
    assert_eq!(bytes(d, "a.mp4"), bytes(d, "b.mp4"));
}

#[test]
fn video_on_standard_output() {
    let dir = scratch();
    let ran = generate(dir.path(), &["-o", "-"]).ok();
    generate(dir.path(), &["-o", "a.y4m"]).ok();
    assert_eq!(names(dir.path()), ["a.y4m"]);
    assert_eq!(ran.out, bytes(dir.path(), "a.y4m"));
    let header = format!("YUV4MPEG2 W{SIZE} H{SIZE} F8:1 ");
    assert!(ran.out.starts_with(header.as_bytes()));
    let line = ran.out.iter().position(|b| *b == b'\n').unwrap() + 1;
    assert_eq!(ran.out.len() - line, FRAMES * (3 * SIZE * SIZE + "FRAME\n".len()));
}

#[test]
fn noise_from_a_file() {
    let dir = scratch();
    let d = dir.path();
    // 21 frames are 6 latent frames, 32 pixels 4 latent cells
    let shape = vec![1, 4, 6, 4, 4];
    let noise = residua::diffusion::noise::torch_cpu_randn(7, shape.iter().product());
    let tensors = [("latents".to_string(), (shape, noise))].into();
    tiny_model::write_tensors(&d.join("noise.safetensors"), &tensors);
    generate(d, &["--no-metadata", "-o", "a.mp4"]).ok();
    let model = tiny_model::folder().to_str().unwrap();
    let given = ["generate", "-m", model, "-p", PROMPT, "-s", "99", "--latents-in", "noise.safetensors"];
    run(d, &[&given[..], &["--no-metadata", "-o", "b.mp4"]].concat()).ok();
    assert_eq!(bytes(d, "a.mp4"), bytes(d, "b.mp4"));
    // a file without a recipe can be decoded with -f
    run(d, &["decode", "noise.safetensors", "-m", model, "-f", "21", "-o", "c.mp4"]).ok();
}

#[test]
fn the_recipe_makes_the_video_again() {
    let dir = scratch();
    let d = dir.path();
    std::fs::create_dir(d.join("weights")).unwrap();
    tiny_model::write(&d.join("weights/tiny"));
    let args =
        ["generate", "-m", "tiny", "-p", "it's \"a\" snail", "-W", "24", "-f", "17", "--fps", "12.5", "--aes", "6"];
    let more = [
        "--cfg",
        "2.5",
        "--steps",
        "5",
        "--cache",
        "adacache:codebook=9:2",
        "--camera-motion",
        "pan left",
        "-o",
        "a.mp4",
    ];
    run(d, &[&args[..], &more].concat()).ok();
    let command = run(d, &["info", "a.mp4", "--rerun"]).ok().text().to_string();
    let program = command.strip_prefix("residua ").expect(&command);
    let line = format!("'{}' {program} -o b.mp4", env!("CARGO_BIN_EXE_residua"));
    let ran: Ran = std::process::Command::new("sh").args(["-c", &line]).current_dir(d).output().unwrap().into();
    ran.ok();
    assert_eq!(bytes(d, "a.mp4"), bytes(d, "b.mp4"), "{command}");
    let told = run(d, &["info", "a.mp4", "--json"]).ok();
    assert_eq!(events(&told)[0]["recipe"]["text"], "it's \"a\" snail aesthetic score: 6.0. camera motion: pan left.");
    let told = run(d, &["info", "weights/tiny"]).ok();
    assert!(told.text().contains("STDiT3, 24 wide, 2 deep, 2 heads"), "{}", told.text());
}

/// The text encoder as two torch shards, as T5 v1.1 XXL is published, and the others under other names.
#[test]
fn torch_files_are_the_same_model() {
    let dir = scratch();
    let d = dir.path();
    let model = d.join("published");
    tiny_model::write(&model);
    let convert = |part: &str, stem: &str, parts: usize| {
        let safe = model.join(part).join("model.safetensors");
        torch_file::convert(&safe, &model.join(part), stem, parts);
        std::fs::remove_file(safe).unwrap();
    };
    convert("text_encoder", "pytorch_model", 2);
    convert("vae", "diffusion_pytorch_model", 1);
    let transformer = model.join("transformer");
    let named = transformer.join("diffusion_pytorch_model.safetensors");
    std::fs::rename(transformer.join("model.safetensors"), named).unwrap();

    let args = ["generate", "-m", "published", "-p", PROMPT, "-s", "7"];
    generate(d, &["--no-metadata", "-o", "a.mp4", "--latents-out", "a.safetensors"]).ok();
    let outputs = ["--no-metadata", "-o", "b.mp4", "--latents-out", "b.safetensors"];
    run(d, &[&args[..], &outputs].concat()).ok();
    for kind in ["mp4", "safetensors"] {
        assert_eq!(bytes(d, &format!("a.{kind}")), bytes(d, &format!("b.{kind}")), "{kind}");
    }
    // a recipe says which files made the video
    run(d, &[&args[..], &["--steps", "1", "-f", "1", "-o", "c.png"]].concat()).ok();
    let recipe = read_recipe(&d.join("c.png")).unwrap().unwrap().to_string();
    assert!(recipe.contains("text_encoder/pytorch_model-00002-of-00002.bin"), "{recipe}");
    let shard = "published/text_encoder/pytorch_model-00001-of-00002.bin";
    assert!(run(d, &["info", shard]).ok().text().starts_with("weights: "));
}

#[test]
fn names_are_found_and_never_taken_twice() {
    let dir = scratch();
    let d = dir.path();
    let name = tiny_model::folder().file_name().unwrap().to_str().unwrap();
    let stem = format!("{name}-7-a-red-circle-moving-right-on-a-blue-back");
    assert_eq!(generate(d, &["-q"]).ok().text(), format!("{stem}.mp4"));
    assert_eq!(generate(d, &["-q"]).ok().text(), format!("{stem}-1.mp4"));
    assert_eq!(generate(d, &["-q", "-f", "1"]).ok().text(), format!("{stem}.png"), "one frame is an image");
    assert_eq!(names(d).len(), 3);
    let before = names(d);
    let plan = generate(d, &["--dry-run", "--json"]).ok();
    assert_eq!((events(&plan).len(), names(d)), (1, before), "a dry run leaves nothing");
}

#[test]
fn sizes_are_rounded_down_aloud() {
    let dir = scratch();
    let ran = generate(dir.path(), &["-W", "39", "-H", "29", "-f", "17", "--steps", "2", "-o", "a.mp4"]).ok();
    assert!(ran.err.contains("39x29 is rounded down to 32x24"), "{}", ran.err);
    let frames = read_mp4(&dir.path().join("a.mp4")).unwrap();
    assert_eq!((frames.width, frames.height, frames.count()), (32, 24, 17));
    for (flag, ratio) in [("--aspect", "16:9"), ("--aspect-ratio", "9:16")] {
        let ran = generate(dir.path(), &["-r", "144p", flag, ratio, "-f", "2s", "--dry-run", "--json"]).ok();
        let plan = &events(&ran)[0];
        assert_eq!((plan["size"].clone(), plan["frames"].as_u64()), (serde_json::json!([256, 144]), Some(51)));
        assert_eq!(ran.err.contains("height:width"), flag == "--aspect-ratio", "{}", ran.err);
    }
}

#[test]
fn adapters_are_listed() {
    let dir = scratch();
    let ran = run(dir.path(), &["devices"]).ok();
    assert_eq!(ran.text().lines().filter(|l| l.starts_with("* ")).count(), 1, "{}", ran.text());
    for word in ["driver ", "kernels ", "limits ", "features "] {
        assert!(ran.text().contains(word), "{}", ran.text());
    }
    let listed = &events(&run(dir.path(), &["devices", "--json"]).ok())[0];
    let default = listed["devices"].as_array().unwrap().iter().find(|d| d["default"] == true).unwrap();
    assert!(default["limits"]["max_buffer_size"].as_u64().is_some_and(|b| b > 1 << 20));
}

/// Stops a run after its first step by a signal.
#[cfg(unix)]
#[test]
fn stopped_in_mid_run() {
    for (signal, exit) in [("INT", 130), ("TERM", 143)] {
        let dir = scratch();
        let model = tiny_model::folder().to_str().unwrap();
        let args = ["generate", "-m", model, "-p", PROMPT, "--steps", "9000", "--json", "-o", "a.mp4"];
        let mut child = residua(dir.path())
            .args(args)
            .args(["--latents-out", "l.safetensors", "--trace", "t.json", "--sidecar"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while !lines.next().expect("a step").unwrap().contains("\"event\":\"step\"") {}
        let kill = std::process::Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let last = lines.map(Result::unwrap).last().unwrap();
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.exit, exit, "{}", ran.err);
        assert!(ran.err.contains("nothing is left half-written"), "{}", ran.err);
        assert!(last.contains("\"event\":\"error\"") && last.contains("\"code\":\"cancelled\""), "{last}");
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

/// The model that comes with the project, found without being named: the video shows what the prompt says.
#[test]
fn the_shipped_model() {
    let dir = scratch();
    let d = dir.path();
    let args = ["generate", "-p", PROMPT, "-s", "1", "-o", "out.mp4", "--latents-out", "out.safetensors"];
    let ran = run(d, &args).ok();
    assert!(ran.err.starts_with("toybox  64x64 "), "{}", ran.err);
    let video = read_mp4(&d.join("out.mp4")).unwrap();
    assert_eq!((video.width, video.height, video.count()), (64, 64, 17));
    let recipe = read_recipe(&d.join("out.mp4")).unwrap().unwrap();
    assert_eq!((&recipe["prompt"], &recipe["model"]["name"]), (&PROMPT.into(), &"toybox".into()));

    run(d, &["decode", "out.safetensors", "-o", "out.rgb"]).ok();
    let exact = Frames { rgb: bytes(d, "out.rgb"), ..video.clone() };
    let psnr = quality::psnr(&exact.rgb, &video.rgb);
    assert!(psnr > 28.0, "compression to H.264 costs too much: PSNR {psnr:.1} dB");

    let (first, last) = (red(exact.frame(0)), red(exact.frame(16)));
    for (count, blue, x) in [first, last] {
        assert!((60..1500).contains(&count) && blue > 64 * 64 / 2, "{count} red, {blue} blue pixels around x = {x}");
    }
    assert!(last.2 > first.2 + 10.0, "moves from x = {} to {}", first.2, last.2);
}

/// Red pixels and blue ones of a frame 64 wide, and the mean column of the red.
fn red(frame: &[u8]) -> (usize, usize, f64) {
    let pixels: Vec<[i32; 2]> = frame.chunks_exact(3).map(|p| [p[0].into(), p[2].into()]).collect();
    let columns: Vec<usize> = (0..pixels.len()).filter(|&i| pixels[i][0] > pixels[i][1] + 40).map(|i| i % 64).collect();
    let blue = pixels.iter().filter(|[r, b]| *b > r + 20).count();
    (columns.len(), blue, columns.iter().sum::<usize>() as f64 / columns.len().max(1) as f64)
}

/// The shipped model with a cache: fewer steps, nearly the same video.
#[test]
fn the_shipped_model_with_a_cache() {
    let dir = scratch();
    let args = ["generate", "-p", PROMPT, "-s", "1", "--cache", "adacache:preset=fast", "--verify-cache", "--json"];
    let ran = run(dir.path(), &[&args[..], &["-q", "-o", "out.mp4"]].concat()).ok();
    let events = events(&ran);
    let cache = &event(&events, "done")["cache"];
    assert!(
        cache["computed"].as_u64().is_some_and(|n| n < 25) && cache["saved_seconds"].as_f64() > Some(0.0),
        "{cache}"
    );
    let verify = event(&events, "verify");
    assert!(verify["psnr"].as_f64() > Some(20.0) && verify["ssim"].as_f64() > Some(0.8), "{verify}");
}

#[test]
fn noise_by_name() {
    let dir = scratch();
    let d = dir.path();
    for (name, rng) in [("cpu", "torch-cpu"), ("a", "philox"), ("b", "cuda"), ("c", "torch-cuda:108x2048")] {
        generate(d, &["--no-metadata", "--rng", rng, "-o", &format!("{name}.png")]).ok();
    }
    assert_ne!(bytes(d, "cpu.png"), bytes(d, "a.png"));
    // a latent this small is the same on every GPU
    assert!(bytes(d, "a.png") == bytes(d, "b.png") && bytes(d, "a.png") == bytes(d, "c.png"));
    generate(d, &["--rng", "torch-cuda:108x2048", "-o", "d.png"]).ok();
    let command = run(d, &["info", "d.png", "--rerun"]).ok();
    assert!(command.text().contains("--rng torch-cuda:108x2048"), "{}", command.text());
}
