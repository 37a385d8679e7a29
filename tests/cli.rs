//! What the program says and does about everything that can be wrong: one clear message, the right exit code, no panic,
//! nothing left behind.

#[path = "program/mod.rs"]
mod program;
#[path = "tiny_model/mod.rs"]
mod tiny_model;

use std::path::Path;

use program::{Ran, names, residua, run, run_with_input, scratch};
use serde_json::{Value, json};
use tiny_model::Tensors;

/// Runs `generate` with a model and expects a refusal that says each of `words` and leaves the folder as it was.
#[track_caller]
fn refused_with(model: &Path, args: &[&str], exit: i32, words: &[&str]) {
    let dir = scratch();
    let args = [&["generate", "-m", model.to_str().unwrap()], args].concat();
    judge(&run(dir.path(), &args), exit, words);
    assert_eq!(names(dir.path()), [""; 0]);
}

#[track_caller]
fn judge(ran: &Ran, exit: i32, words: &[&str]) {
    assert_eq!(ran.exit, exit, "{}", ran.err);
    let message: Vec<&str> = ran.err.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(message.len(), 1, "one message: {}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
    }
}

/// [`refused_with`] the tiny model.
#[track_caller]
fn refused(args: &[&str], exit: i32, words: &[&str]) {
    refused_with(tiny_model::folder(), args, exit, words);
}

/// A copy of the tiny model, changed.
fn broken(change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let dir = scratch();
    tiny_model::write(dir.path());
    change(dir.path());
    dir
}

const GOOD: [&str; 4] = ["-p", "a red circle", "-o", "a.mp4"];

#[track_caller]
fn refused_model(change: impl FnOnce(&Path), words: &[&str]) {
    refused_with(broken(change).path(), &GOOD, 3, words);
}

#[test]
fn model_folders() {
    refused_with(Path::new("/nowhere/model"), &GOOD, 3, &["/nowhere/model", "no such model folder", "-m"]);
    refused_with(Path::new("no-such-name"), &GOOD, 3, &["no-such-name"]);
    for part in ["transformer", "vae", "text_encoder", "tokenizer"] {
        refused_model(|m| std::fs::remove_dir_all(m.join(part)).unwrap(), &[part]);
    }
    let file = broken(|_| {}).path().join("model_index.json");
    refused_with(&file, &GOOD, 3, &["model_index.json"]);
    for lost in
        ["transformer/config.json", "transformer/model.safetensors", "tokenizer/spiece.model", "vae/config.json"]
    {
        refused_model(|m| std::fs::remove_file(m.join(lost)).unwrap(), &[lost.split('/').next().unwrap()]);
    }
}

#[test]
fn truncated_and_hostile_weights() {
    for part in ["transformer", "vae", "text_encoder"] {
        let file = format!("{part}/model.safetensors");
        let set = |bytes: &[u8]| refused_model(|m| std::fs::write(m.join(&file), bytes).unwrap(), &[&file]);
        let whole = std::fs::read(tiny_model::folder().join(&file)).unwrap();
        for cut in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
            set(&whole[..cut]);
        }
        set(b"not a safetensors file at all, but long enough to look at");
        set(&u64::MAX.to_le_bytes());
        let with_header =
            |header: &str| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat();
        for header in [
            r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,99999999]}}"#,
            r#"{"a":{"dtype":"F32","shape":[18446744073709551615,8],"data_offsets":[0,64]}}"#,
            r#"{"a":{"dtype":"F32","shape":[16],"data_offsets":[64,0]}}"#,
            r#"{"a":{"dtype":"Z9","shape":[16],"data_offsets":[0,64]}}"#,
            "[[[[[[[[",
            "{}",
        ] {
            set(&with_header(header));
        }
        set(&with_header(&"[".repeat(200_000)));
    }
}

#[test]
fn wrong_tensors() {
    let file = "transformer/model.safetensors";
    let with = |change: &dyn Fn(&mut Tensors), words: &[&str]| {
        let mut tensors = tiny_model::transformer();
        change(&mut tensors);
        refused_model(|m| tiny_model::write_tensors(&m.join(file), &tensors), &[&[file], words].concat());
    };
    with(&|t| drop(t.remove("spatial_blocks.1.attn.qkv.weight")), &["spatial_blocks.1.attn.qkv.weight", "missing"]);
    with(
        &|t| drop(t.insert("temporal_blocks.0.mlp.fc1.bias".into(), (vec![95], vec![0.0; 95]))),
        &["temporal_blocks.0.mlp.fc1.bias", "[95]", "[96]"],
    );
    with(
        &|t| drop(t.insert("t_block.1.weight".into(), (vec![24, 144], vec![0.0; 24 * 144]))),
        &["t_block.1.weight", "[24, 144]", "[144, 24]"],
    );
    // a part of another model
    refused_model(
        |m| std::fs::write(m.join("transformer/config.json"), config(&[("caption_channels", json!(32))])).unwrap(),
        &["text_encoder", "64", "32"],
    );
}

/// The tiny transformer's config with other values.
fn config(changes: &[(&str, Value)]) -> String {
    let mut config = tiny_model::config();
    for (name, value) in changes {
        config[*name] = value.clone();
    }
    config.to_string()
}

#[test]
fn configs() {
    let file = "transformer/config.json";
    let set = |text: &str, words: &[&str]| {
        refused_model(|m| std::fs::write(m.join(file), text).unwrap(), &[&["transformer"], words].concat());
    };
    set("", &["config.json"]);
    set("{\"hidden_size\": 24", &["config.json"]);
    set("\"words\"", &["config.json"]);
    // fields that are missing are those of the published model, and the weights are not
    set("{\"caption_channels\": 64}", &["is [24", "expected [1152"]);
    for (name, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(22)),
        ("hidden_size", json!(-24)),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!("24")),
        ("depth", json!(0)),
        ("depth", json!(1_000_000_000)),
        ("num_heads", json!(5)),
        ("num_heads", json!(0)),
        ("mlp_ratio", json!(-4.0)),
        ("mlp_ratio", json!(1e300)),
        ("patch_size", json!([0, 2, 2])),
        ("patch_size", json!([1, 2])),
        ("in_channels", json!(0)),
        ("model_max_length", json!(0)),
        ("skip_y_embedder", json!(true)),
    ] {
        set(&config(&[(name, value)]), &["config.json"]);
    }
    for (file, text) in [
        ("vae/config.json", "{"),
        ("text_encoder/config.json", "{"),
        ("text_encoder/config.json", "{\"d_model\": 0, \"vocab_size\": 0}"),
        ("model_index.json", "no JSON"),
        ("scheduler/scheduler_config.json", "{\"cfg_scale\": \"much\"}"),
        ("tokenizer/spiece.model", "no model"),
    ] {
        refused_model(|m| std::fs::write(m.join(file), text).unwrap(), &[file]);
    }
}

#[test]
fn prompts() {
    for empty in ["", "   ", "\t\n"] {
        refused(&["-p", empty, "-o", "a.mp4"], 2, &["prompt", "empty"]);
    }
    refused(&["-p", "a {", "-o", "a.mp4"], 2, &["prompt"]);
    refused(&["-p", "a {\"reference_path\": \"x.png\"}", "-o", "a.mp4"], 3, &["x.png", "No such file"]);
    let ran = run(scratch().path(), &["generate", "-o", "a.mp4"]);
    judge(&ran, 2, &["--prompt"]);

    let dir = scratch();
    let model = tiny_model::folder().to_str().unwrap();
    let args = ["generate", "-m", model, "-p", "-", "--steps", "1", "-f", "1", "-s", "1", "-o", "a.png"];
    judge(&run_with_input(dir.path(), &args, b""), 2, &["prompt", "empty"]);
    judge(&run_with_input(dir.path(), &args, b"a snail \xff\xfe"), 2, &["prompt", "UTF-8", "byte 8"]);
    judge(&run_with_input(dir.path(), &args, &b"word ".repeat(20_000)), 2, &["prompt", "100000", "65536"]);
    judge(&run_with_input(dir.path(), &args, &b"word ".repeat(2_000_000)), 2, &["prompt"]);
    assert_eq!(names(dir.path()), [""; 0]);
    // long, but read: the model takes what it can and the rest is told to be ignored
    let ran = run_with_input(dir.path(), &args, "ein Wört\u{301} 蝸牛 🐌 ".repeat(2_000).as_bytes()).ok();
    assert!(ran.err.contains("tokens") && ran.err.contains("ignored"), "{}", ran.err);
}

#[cfg(unix)]
#[test]
fn a_prompt_that_is_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let dir = scratch();
    let mut command = residua(dir.path());
    command.args(["generate", "-m"]).arg(tiny_model::folder()).args(["-o", "a.mp4", "-p"]);
    command.arg(std::ffi::OsStr::from_bytes(b"a snail \xff"));
    judge(&command.output().unwrap().into(), 2, &["prompt", "UTF-8"]);
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn numbers() {
    let wrong = |args: &[&str], words: &[&str]| refused(&[&["-p", "x", "-o", "a.mp4"], args].concat(), 2, words);
    wrong(&["--width", "0"], &["width", "0"]);
    wrong(&["-H", "7"], &["height", "7"]);
    wrong(&["-W", "1000000"], &["width", "1000000"]);
    wrong(&["-W", "wide"], &["--width", "wide"]);
    wrong(&["-f", "0"], &["frames", "0"]);
    wrong(&["-f", "100000"], &["frames", "100000"]);
    wrong(&["-f", "5"], &["frames", "17"]);
    wrong(&["-f", "5s"], &["frames", "5s", "4s"]);
    wrong(&["-f", "99999999999999999999999"], &["frames"]);
    wrong(&["--fps", "0"], &["fps", "0"]);
    wrong(&["--fps", "nan"], &["fps", "NaN"]);
    wrong(&["--cfg", "-1"], &["-1"]);
    wrong(&["--cfg", "inf"], &["guidance", "inf"]);
    wrong(&["-s", "-2"], &["--seed", "-2"]);
    wrong(&["-s", "18446744073709551616"], &["--seed"]);
    wrong(&["--aes", "much"], &["--aes", "much"]);
    wrong(&["--rng", "mersenne"], &["--rng", "mersenne", "torch-cpu", "philox"]);
    wrong(&["--rng", "torch-cuda:0x2048"], &["--rng", "0 multiprocessors"]);
    wrong(&["-r", "241p"], &["241p", "240p"]);
    wrong(&["-r", "240p", "--aspect", "7:1"], &["aspect", "1:7"]);
    wrong(&["-r", "240p", "--aspect", "wide"], &["aspect", "wide"]);
    wrong(&["-r", "240p", "-W", "64"], &["--resolution", "--width"]);
    wrong(&["--crf", "52"], &["--crf", "52"]);
    refused(
        &["-p", "x", "-o", "a.mp4", "-W", "8192", "-H", "8192", "-f", "816"],
        5,
        &["8192x8192", "MiB", "fewer frames"],
    );
    wrong(&["--steps", "0"], &["steps", "0"]);
    wrong(&["--steps", "10001"], &["steps", "10000"]);
    wrong(&["--steps", "18446744073709551615"], &["steps", "10000"]);
    wrong(&["--steps", "99999999999999999999"], &["--steps"]);
}

#[test]
fn cache_words() {
    let wrong = |cache: &str, words: &[&str]| refused(&["-p", "x", "-o", "a.mp4", "--cache", cache], 2, words);
    wrong("adacash", &["adacash", "adacache"]);
    wrong("adacache:preset=fats", &["fats", "fast"]);
    wrong("adacache:codebook=", &["codebook"]);
    wrong("adacache:codebook=0.1:0", &["codebook"]);
    wrong("adacache:layers=99", &["99"]);
    wrong("adacache:speed=9", &["speed"]);
    wrong("", &["policy"]);
    refused(&["-p", "x", "-o", "a.mp4", "--verify-cache"], 2, &["verify-cache", "--cache"]);
}

#[test]
fn outputs() {
    let wrong = |output: &str, exit: i32, words: &[&str]| refused(&["-p", "x", "-o", output], exit, words);
    wrong("a.webm", 2, &[".webm", ".mp4"]);
    wrong("no/such/folder/a.mp4", 7, &["no/such/folder"]);
    wrong("/dev/null/a.mp4", 7, &["/dev/null"]);
    wrong("/proc/a.mp4", 7, &["/proc"]);
    wrong("..", 7, &[".."]);
    refused(&["-p", "x", "-o", "a.mp4", "--trace", "a.mp4"], 2, &["trace", "a.mp4"]);
    refused(&["-p", "x", "-o", "a.mp4", "--trace", "no/t.json"], 7, &["no"]);
    refused(&["-p", "x", "-o", "a.mp4", "--latents-out", "-"], 2, &["latents-out"]);
    refused(&["-p", "x", "-o", "-", "--json"], 2, &["--json"]);
    refused(&["-p", "x", "-o", "-", "--sidecar"], 2, &["sidecar"]);
}

#[test]
fn what_is_there_stays() {
    let dir = scratch();
    let d = dir.path();
    let model = tiny_model::folder().to_str().unwrap();
    std::fs::write(d.join("a.mp4"), "precious").unwrap();
    std::fs::create_dir(d.join("frames")).unwrap();
    std::fs::write(d.join("frames/diary.txt"), "precious").unwrap();
    let go = |args: &[&str]| {
        run(d, &[&["generate", "-m", model, "-p", "x", "-s", "1", "-f", "1", "--steps", "1"], args].concat())
    };
    judge(&go(&["-o", "a.mp4"]), 7, &["a.mp4", "exists", "--force"]);
    judge(&go(&["-o", "frames", "--force"]), 7, &["frames", "other files"]);
    judge(&go(&["-o", "b.mp4", "--trace", "a.mp4"]), 7, &["trace", "a.mp4", "exists"]);
    judge(&go(&["-o", "b.mp4", "--latents-out", "a.mp4"]), 7, &["latents-out", "a.mp4", "exists"]);
    assert_eq!(std::fs::read(d.join("a.mp4")).unwrap(), b"precious");
    assert_eq!((names(d), names(&d.join("frames"))), (vec!["a.mp4".into(), "frames".into()], vec!["diary.txt".into()]));
    go(&["-o", "a.mp4", "--force"]).ok();
    assert_ne!(std::fs::read(d.join("a.mp4")).unwrap(), b"precious");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_and_a_closed_pipe() {
    let dir = scratch();
    let model = tiny_model::folder().to_str().unwrap();
    let args = ["generate", "-m", model, "-p", "x", "-s", "1", "-f", "17", "--steps", "1", "-o"];
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran: Ran = residua(dir.path()).args(args).arg("-").stdout(full).output().unwrap().into();
    judge(&ran, 7, &["No space left"]);
    // nobody reads the path of the result: the result is there all the same
    let line = format!("'{}' {} a.mp4 --json | true", env!("CARGO_BIN_EXE_residua"), args.join(" "));
    let ran: Ran =
        std::process::Command::new("sh").args(["-c", &line]).current_dir(dir.path()).output().unwrap().into();
    assert!(ran.err.contains("wrote   a.mp4"), "{}", ran.err);
    assert_eq!(names(dir.path()), ["a.mp4"]);
}

#[test]
fn latents() {
    let dir = scratch();
    let file = dir.path().join("l.safetensors");
    let path = file.to_str().unwrap();
    let set = |name: &str, shape: &[usize], value: f32| {
        let count = shape.iter().product();
        let tensors = [(name.to_string(), (shape.to_vec(), vec![value; count]))].into();
        tiny_model::write_tensors(&file, &tensors);
    };
    let wrong = |words: &[&str]| {
        refused(&["-p", "x", "-o", "a.mp4", "--latents-in", path], 3, &[&["l.safetensors"], words].concat());
        let scratch = scratch();
        let model = tiny_model::folder().to_str().unwrap();
        let ran = run(scratch.path(), &["decode", path, "-m", model, "-o", "a.mp4"]);
        assert!(ran.exit != 0 && names(scratch.path()).is_empty(), "{}", ran.err);
    };
    wrong(&["no such"]);
    std::fs::write(&file, "short").unwrap();
    wrong(&["safetensors"]);
    set("noise", &[1, 4, 6, 4, 4], 0.0);
    wrong(&["`latents`", "noise"]);
    set("latents", &[4, 6, 4, 4], 0.0);
    wrong(&["[4, 6, 4, 4]", "[1, 4, T, H, W]"]);
    set("latents", &[1, 4, 6, 8, 4], 0.0);
    wrong(&["[1, 4, 6, 8, 4]", "[1, 4, 6, 4, 4]", "-H 64"]);
    set("latents", &[1, 4, 6, 4, 4], f32::NAN);
    wrong(&["NaN"]);
    let bytes = vec![0; 8 * 384];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1, 4, 6, 4, 4], &bytes).unwrap();
    std::fs::write(&file, safetensors::serialize([("latents", view)], None).unwrap()).unwrap();
    wrong(&["I64", "float type"]);
}

#[test]
fn decode() {
    let dir = scratch();
    let d = dir.path();
    let model = tiny_model::folder().to_str().unwrap();
    let tensors = [("latents".to_string(), (vec![1, 4, 6, 4, 4], vec![0.5; 384]))].into();
    tiny_model::write_tensors(&d.join("l.safetensors"), &tensors);
    let go = |args: &[&str]| run(d, &[&["decode", "l.safetensors", "-m", model], args].concat());
    judge(&go(&[]), 2, &["frames", "-f 21"]);
    judge(&go(&["-f", "17"]), 2, &["frames", "17", "5", "6"]);
    judge(&go(&["-f", "21", "--fps", "0"]), 2, &["fps"]);
    judge(&go(&["-f", "21", "-o", "no/a.mp4"]), 7, &["no"]);
    judge(&run(d, &["decode", "l.safetensors", "-m", "/nowhere", "-f", "21"]), 3, &["/nowhere"]);
    assert_eq!(names(d), ["l.safetensors"]);
    assert_eq!(go(&["-f", "18"]).ok().text(), "l.mp4");
}

#[test]
fn decoding_that_fails_keeps_what_was_denoised() {
    let bad = broken(|m| {
        let file = m.join("vae/model.safetensors");
        // not a number in every weight: found only when the frames are looked at
        let mut bytes = std::fs::read(&file).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[header..].chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&f32::NAN.to_le_bytes()));
        std::fs::write(file, bytes).unwrap();
    });
    let dir = scratch();
    let d = dir.path();
    let args = ["generate", "-p", "x", "-s", "1", "--steps", "2", "-o", "a.mp4", "-m"];
    let ran = run(d, &[&args[..], &[bad.path().to_str().unwrap()]].concat());
    judge(&ran, 1, &["NaN", "a.mp4.latents.safetensors", "residua decode"]);
    assert_eq!(names(d), ["a.mp4.latents.safetensors"]);
    let good = tiny_model::folder().to_str().unwrap();
    run(d, &["decode", "a.mp4.latents.safetensors", "-m", good, "-o", "a.mp4"]).ok();
}

#[test]
fn adapters() {
    for verb in
        [&["devices"][..], &["generate", "-m", tiny_model::folder().to_str().unwrap(), "-p", "x", "-o", "a.mp4"]]
    {
        let dir = scratch();
        let mut command = residua(dir.path());
        for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            command.env(name, "/nonexistent");
        }
        let ran: Ran = command.env_remove("VK_ADD_DRIVER_FILES").args(verb).output().unwrap().into();
        if cfg!(target_os = "linux") {
            judge(&ran, 4, &["no usable graphics adapter", "apt install mesa-vulkan-drivers"]);
        }
        assert_eq!(names(dir.path()), [""; 0]);
    }
    refused(&["-p", "x", "-o", "a.mp4", "--device", "GeForce of 2099"], 4, &["GeForce of 2099", "0: "]);
    refused(&["-p", "x", "-o", "a.mp4", "--device", "77"], 4, &["77", "0: "]);
    refused(&["-p", "x", "-o", "a.mp4", "--kernels", "fast"], 2, &["--kernels", "fast", "portable"]);
    let dir = scratch();
    let ran: Ran =
        residua(dir.path()).env("RESIDUA_KERNELS", "fast").args(["generate", "-p", "x"]).output().unwrap().into();
    judge(&ran, 2, &["fast", "portable"]);
}

#[test]
fn info_about_what_is_none_of_ours() {
    let dir = scratch();
    let d = dir.path();
    std::fs::write(d.join("a.txt"), "words").unwrap();
    std::fs::write(d.join("a.mp4"), "\0\0\0\x18ftypisom and then nothing").unwrap();
    std::fs::write(d.join("a.json"), "{\"prompt\": 1}").unwrap();
    for (path, exit, word) in [
        ("nothing", 3, "no such"),
        ("a.txt", 3, "no recipe"),
        ("a.mp4", 3, "a.mp4"),
        (".", 3, "neither"),
        ("a.json", 2, "model"),
    ] {
        judge(&run(d, &["info", path, "--rerun"]), exit, &[word]);
    }
}

#[test]
fn programs_are_told_of_errors_too() {
    let dir = scratch();
    let model = tiny_model::folder().to_str().unwrap();
    let ran = run(dir.path(), &["generate", "-m", model, "-p", "", "-o", "a.mp4", "--json"]);
    let event: Value = serde_json::from_str(ran.text().lines().last().unwrap()).unwrap();
    assert_eq!((&event["event"], &event["code"], &event["v"]), (&json!("error"), &json!("request.invalid"), &json!(1)));
    assert!(event["message"].as_str().is_some_and(|m| m.contains("prompt")));
    judge(&ran, 2, &["prompt"]);
    let ran = run(dir.path(), &["generate", "-q", "-m", model, "-p", "", "-o", "a.mp4"]);
    judge(&ran, 2, &["prompt"]);
}

#[test]
fn bench_model_scaled_down() {
    let dir = scratch();
    let args = ["bench", "model", "--config", "tiny", "--weights", "random", "--seconds", "0.05", "--json"];
    let ran = run(dir.path(), &args).ok();
    let events: Vec<Value> = ran.text().lines().map(|l| serde_json::from_str(l).expect("a line of JSON")).collect();
    assert_eq!(events[0]["event"], "ceilings");
    let parts: Vec<&str> = events[1..].iter().filter_map(|e| e["part"].as_str()).collect();
    assert_eq!(parts, ["step", "step.skipped", "metric", "run", "decode", "text"]);
    for part in &events[1..] {
        assert!(part["seconds"].as_f64().is_some_and(|s| s > 0.0), "{part}");
        if part["flops"].as_f64().is_some_and(|f| f > 0.0) {
            assert_eq!(part["finite"], true, "{part}");
            assert_eq!(part["peak_bytes"], part["peak_bytes_rehearsed"], "{part}");
        }
    }
    let full = ["bench", "model", "--config", "open-sora-240p", "--dry-run", "--parts", "step", "--json"];
    let ran = run(dir.path(), &full).ok();
    let step: Value = serde_json::from_str(ran.text()).expect("a line of JSON");
    assert!(step["peak_bytes_rehearsed"].as_u64().is_some_and(|b| b > 2 << 30), "{step}");
}
