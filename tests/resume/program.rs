//! The program, killed in the middle of its work, and its states.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::library::rewritten;
use super::running::{Ran, names, residua, run, scratch};
use super::tiny_model;

const STATE: &str = "states/a.state.safetensors";

fn model() -> &'static str {
    tiny_model::folder().to_str().unwrap()
}

/// Everything that a run can leave behind, under these flags.
fn words<'a>(own: &[&'a str]) -> Vec<&'a str> {
    let steps = if own.contains(&"--steps") { &[][..] } else { &["--steps", "6"] };
    let frames = if own.contains(&"-f") { &[][..] } else { &["-f", "17"] };
    let files = ["--latents-out", "l.safetensors", "--trace", "t.json", "--sidecar", "-o", "a.rgb"];
    [&["generate", "-m", model(), "-p", "a red circle", "-s", "3"], steps, frames, &files, own].concat()
}

fn bytes(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// JSON without the times in it.
fn timeless(dir: &Path, name: &str) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|name, _| name != "seconds" && name != "saved_seconds");
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::from_slice(&bytes(dir, name)).unwrap();
    strip(&mut value);
    value
}

/// What an uninterrupted run leaves, and an interrupted one has to.
#[track_caller]
fn same(whole: &Path, dir: &Path, what: &str) {
    for name in ["a.rgb", "l.safetensors"] {
        assert!(bytes(whole, name) == bytes(dir, name), "{what}: another {name}");
    }
    for name in ["a.json", "t.json"] {
        assert_eq!(timeless(whole, name), timeless(dir, name), "{what}: {name}");
    }
}

/// Runs the program and kills it behind the first event for which `when` holds; whether it was over before.
fn killed(dir: &Path, args: &[&str], mut when: impl FnMut(&Value) -> bool) -> bool {
    let mut child =
        residua(dir).args(args).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_ne!(event["event"], "error", "{event}");
        if when(&event) {
            child.kill().unwrap();
            break;
        }
    }
    let ran = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&ran.stderr).contains("panicked"));
    ran.status.success()
}

/// An event of this name, with this number if it has one.
fn at(name: &'static str, i: u64) -> impl FnMut(&Value) -> bool {
    move |event| event["event"] == name && event.get("i").is_none_or(|n| *n == i)
}

#[test]
fn killed_again_and_again() {
    for (what, own) in [
        ("uncached", &[][..]),
        ("adacache", &["--cache", "adacache:codebook=0.02:3/9:2,moreg=on,window=1-6"]),
        ("taylorseer", &["--cache", "taylorseer:every=3,order=2", "--rng", "philox", "--crf", "9"]),
        ("pab", &["--cache", "pab:window=0-1000,ranges=2/3/4", "--save-fps", "7"]),
    ] {
        let (whole, dir) = (scratch(), scratch());
        run(whole.path(), &words(own)).ok();
        let d = dir.path();
        let saving = [&words(own)[..], &["--save-state", "states", "--state-every", "1"]].concat();
        assert!(!killed(d, &saving, at("step", 3)), "{what}");
        assert!(!d.join("a.rgb").exists());
        assert!(!killed(d, &["resume", "states"], at("step", 5)), "{what}");
        // right behind the last state: latents and trace are there or not
        assert!(!killed(d, &["resume", STATE], |e| e["event"] == "state" && e["steps"] == 6), "{what}");
        // (what is left is short: on a busy machine it may be over before it is killed)
        if !killed(d, &["resume", STATE], |e| e["event"] == "decode") {
            let ran = run(d, &["resume", STATE]).ok();
            assert!(ran.err.contains("goes on behind step 6 of 6"), "{}", ran.err);
            assert_eq!(ran.text(), std::path::absolute(d.join("a.rgb")).unwrap().to_str().unwrap());
        }
        same(whole.path(), d, what);
        assert_eq!(names(d), ["a.json", "a.rgb", "l.safetensors", "t.json"], "state and folder are gone");
    }
}

#[test]
fn clips_and_given_frames() {
    let (whole, dir) = (scratch(), scratch());
    for d in [whole.path(), dir.path()] {
        image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 5, y as u8 * 7, 90]))
            .save(d.join("i.png"))
            .unwrap();
    }
    let own = ["-f", "34", "--loop", "2", "--steps", "3", "-i", "i.png", "--cache", "adacache:codebook=9:2,moreg=on"];
    let own = [&own[..], &["--condition-edit", "0.8", "--camera-motion=-left", "--aes", "5.5"]].concat();
    run(whole.path(), &words(&own)).ok();
    let d = dir.path();
    let saving = [&words(&own)[..], &["--save-state", "states", "--state-every", "1"]].concat();
    assert!(!killed(d, &saving, |e| e["event"] == "state" && e["steps"] == 1));
    std::fs::remove_file(d.join("i.png")).unwrap();
    // between the clips, and in the second
    assert!(!killed(d, &["resume", STATE], |e| e["event"] == "state" && e["steps"] == 3));
    assert!(!killed(d, &["resume", STATE], |e| e["clip"] == 1 && e["i"] == 2));
    run(d, &["resume", STATE]).ok();
    same(whole.path(), d, "two clips");
}

/// A seeded generator of delays.
struct Delays(u64);

impl Delays {
    fn next(&mut self, most: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        most.mul_f64((self.0 >> 33) as f64 / (1u64 << 31) as f64)
    }
}

#[test]
fn killed_at_any_time() {
    let whole = scratch();
    let own = ["--cache", "adacache:codebook=0.02:3/9:2", "--steps", "40"];
    let began = Instant::now();
    run(whole.path(), &words(&own)).ok();
    let took = began.elapsed();
    let saving = [&words(&own)[..], &["--save-state", "states", "--state-every", "1"]].concat();
    let mut delays = Delays(11);
    for round in 0..6 {
        let dir = scratch();
        let d = dir.path();
        // three kills, then to the end
        for kill in 0.. {
            let begun = d.join(STATE).exists();
            let args = if begun { vec!["resume", "states"] } else { saving.clone() };
            let mut child = residua(d).args(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            if kill < 3 {
                std::thread::sleep(delays.next(took));
                child.kill().unwrap();
            }
            let ran = child.wait_with_output().unwrap();
            // a kill may also come when the video is there already
            if ran.status.success() || d.join("a.rgb").exists() {
                break;
            }
            assert!(kill < 3, "{}", String::from_utf8_lossy(&ran.stderr));
        }
        assert!(bytes(whole.path(), "a.rgb") == bytes(d, "a.rgb"), "round {round}");
        assert!(bytes(whole.path(), "l.safetensors") == bytes(d, "l.safetensors"), "round {round}");
    }
}

/// Stopped by a signal: the state is saved, and what is printed goes on.
#[cfg(unix)]
#[test]
fn stopped_by_a_signal() {
    for (signal, exit) in [("INT", 130), ("TERM", 143)] {
        let dir = scratch();
        let d = dir.path();
        let own = ["--steps", "400", "--save-state", "a b", "--state-every", "1000", "--json"];
        let mut child = residua(d).args(words(&own)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while !lines.next().expect("a step").unwrap().contains("\"event\":\"step\"") {}
        let kill = std::process::Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        lines.for_each(drop);
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.exit, exit, "{}", ran.err);
        let advice = "go on with: residua resume 'a b/a.state.safetensors'";
        assert!(ran.err.contains(advice), "{}", ran.err);
        assert_eq!((names(d), names(&d.join("a b"))), (vec!["a b".into()], vec!["a.state.safetensors".into()]));
        // another run does not take its place
        let ran = run(d, &words(&own[..4]));
        assert!(ran.exit == 7 && ran.err.contains("interrupted run") && ran.err.contains(advice), "{}", ran.err);
        let half = |e: &Value| e["event"] == "step";
        assert!(!killed(d, &["resume", "a b"], half), "and it goes on");
    }
}

#[test]
fn states_that_are_refused() {
    let dir = scratch();
    let d = dir.path();
    let saving = [&words(&[])[..], &["--save-state", "states", "--state-every", "1"]].concat();
    assert!(!killed(d, &saving, |e| e["event"] == "state" && e["steps"] == 2));
    let state = bytes(d, STATE);
    let refused = |args: &[&str], exit: i32, says: &[&str]| {
        let ran = run(d, &[&["resume"], args].concat());
        assert_eq!(ran.exit, exit, "{args:?}: {}", ran.err);
        assert_eq!(ran.err.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{}", ran.err);
        for word in says {
            assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
        }
        assert!(!d.join("a.rgb").exists() && bytes(d, STATE) == state, "nothing has changed");
    };
    refused(&["nowhere"], 3, &["nowhere", "no such state"]);
    refused(&["."], 3, &["holds no state"]);
    std::fs::write(d.join("half.state.safetensors"), &state[..state.len() / 2]).unwrap();
    refused(&["half.state.safetensors"], 3, &["half.state.safetensors", "cut short"]);
    std::fs::write(d.join("other.state.safetensors"), b"words").unwrap();
    refused(&["other.state.safetensors"], 3, &["no state of a run"]);
    refused(&["."], 3, &["holds 2 states", "name one"]);
    std::fs::write(d.join("new.safetensors"), rewritten(&state, |h| h["v"] = 2.into())).unwrap();
    refused(&["new.safetensors"], 3, &["version 2", "version 1"]);
    std::fs::write(d.join("new.safetensors"), rewritten(&state, |h| h["note"] = json!({"by": "another"}))).unwrap();
    refused(&["new.safetensors"], 3, &["another program"]);
    std::fs::write(d.join("new.safetensors"), rewritten(&state, |h| h["note"]["recipe"]["steps"] = 7.into())).unwrap();
    refused(&["new.safetensors"], 3, &["another run", "steps is 6, here it is 7"]);
    let weights = tiny_model::folder().join("vae/model.safetensors");
    refused(&[weights.to_str().unwrap()], 3, &["no state of a run"]);
    let told = run(d, &["info", STATE]).ok();
    assert!(
        told.text().starts_with("state behind 2 steps") && told.text().contains("\"a red circle\""),
        "{}",
        told.text()
    );
    assert!(run(d, &["info", STATE, "--rerun"]).ok().text().contains("-p 'a red circle'"));
    // another model of the same shape, by name and by weights
    let other = scratch();
    tiny_model::write(other.path());
    let mut tensors = tiny_model::transformer();
    tensors.values_mut().next().unwrap().1[0] += 1.0;
    tiny_model::write_tensors(&other.path().join("transformer/model.safetensors"), &tensors);
    let names = ["tiny-model-", other.path().to_str().unwrap(), "transformer/model.safetensors"];
    refused(&["states", "-m", other.path().to_str().unwrap()], 3, &names);
    refused(&["states", "-m", "/nowhere/model"], 3, &["/nowhere/model"]);
    // a place that is taken
    std::fs::write(d.join("b.rgb"), "mine").unwrap();
    refused(&["states", "-o", "b.rgb"], 7, &["b.rgb", "--force"]);
    // elsewhere now, and from then on
    assert!(!killed(d, &["resume", "states", "-o", "b.rgb", "--force"], |e| e["event"] == "state" && e["steps"] == 4));
    run(d, &["resume", "states"]).ok();
    assert!(d.join("b.json").exists() && !d.join("states").exists() && !d.join("a.rgb").exists());
    assert!(bytes(d, "b.rgb") != b"mine");
    // --force begins anew: nobody goes on with another run by mistake
    std::fs::create_dir(d.join("states")).unwrap();
    std::fs::write(d.join(STATE), &state).unwrap();
    assert!(!killed(d, &[&saving[..], &["--force"]].concat(), |e| e["event"] == "text"));
    let gone = |name: &str| !d.join(name).exists();
    assert!(gone(STATE) || bytes(d, STATE) != state);
}

#[test]
fn flags_that_do_not_go_together() {
    let dir = scratch();
    let d = dir.path();
    for (own, exit, says) in [
        (&["--state-every", "2"][..], 2, "--save-state"),
        (&["--save-state", "s", "--state-every", "0"], 2, "--state-every"),
        (&["--save-state", "file"], 7, "not a folder"),
    ] {
        std::fs::write(d.join("file"), "").unwrap();
        let ran = run(d, &words(own));
        assert!(ran.exit == exit && ran.err.contains(says), "{own:?}: {}", ran.err);
    }
    assert_eq!(names(d), ["file"]);
    // a dry run makes no folder, and a run without interruption leaves none
    run(d, &words(&["--save-state", "s", "--dry-run"])).ok();
    assert_eq!(names(d), ["file"]);
    run(d, &words(&["--save-state", "s/t"])).ok();
    assert_eq!(names(&d.join("s")), [""; 0]);
}

#[test]
fn several_videos() {
    let (whole, dir) = (scratch(), scratch());
    let d = dir.path();
    for d in [whole.path(), d] {
        image::RgbImage::from_pixel(20, 30, image::Rgb([200, 30, 90])).save(d.join("i.png")).unwrap();
    }
    let own = ["generate", "-m", model(), "-p", "a b", "-p", "c", "--num-videos", "2", "-s", "7", "-f", "17"];
    let own = [&own[..], &["--steps", "4", "-i", "i.png", "--cache", "taylorseer:every=2", "-o", "out"]].concat();
    run(whole.path(), &own).ok();
    let expected = ["0000-a-b.mp4", "0001-a-b.mp4", "0002-c.mp4", "0003-c.mp4"];
    assert_eq!(names(&whole.path().join("out")), expected);
    let saving = [&own[..], &["--save-state", "states", "--state-every", "1"]].concat();
    // in the second video, before the third has a state, in the third
    let mut second = false;
    let in_second = |e: &Value| {
        second |= e["event"] == "video" && e["video"] == 1;
        second && e["event"] == "step" && e["i"] == 3
    };
    assert!(!killed(d, &saving, in_second));
    assert_eq!(names(&d.join("states")).len(), 2, "a list and the state");
    let elsewhere = [&own[..own.len() - 1], &["out2", "--save-state", "states"]].concat();
    let ran = run(d, &elsewhere);
    assert!(ran.exit == 7 && ran.err.contains("go on with: residua resume states"), "{}", ran.err);
    assert!(!d.join("out2").exists());
    let ran = run(d, &["resume", "states", "-o", "x.mp4"]);
    assert!(ran.exit == 2 && ran.err.contains("several"), "{}", ran.err);
    assert!(!killed(d, &["resume", "states"], |e| e["event"] == "text"));
    assert_eq!(names(&d.join("out")), expected[..2]);
    assert!(!killed(d, &["resume", "states"], |e| e["event"] == "state" && e["steps"] == 2));
    let picture = bytes(d, "i.png");
    std::fs::write(d.join("i.png"), "another").unwrap();
    let ran = run(d, &["resume", "states"]);
    assert!(ran.exit == 3 && ran.err.contains("is not what it was"), "{}", ran.err);
    assert_eq!(names(&d.join("out")), expected[..3], "the third has its picture in its state");
    std::fs::write(d.join("i.png"), picture).unwrap();
    run(d, &["resume", "states"]).ok();
    assert_eq!(names(&d.join("out")), expected);
    for name in expected {
        assert!(bytes(&whole.path().join("out"), name) == bytes(&d.join("out"), name), "{name}");
    }
    assert!(!d.join("states").exists());
}

/// Without being asked to: a run that is expected to take long keeps its state beside the video.
#[test]
fn long_runs_keep_their_state() {
    let (dir, caches) = (scratch(), scratch());
    let d = dir.path();
    let args = ["generate", "-m", model(), "-p", "a red circle", "-s", "3", "-f", "34", "-o"];
    let started = |name: &str| {
        let mut command = residua(d);
        command.env("RESIDUA_CACHE_DIR", caches.path()).args(args).args([name, "--json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let whole = started("whole.rgb").wait_with_output().unwrap();
    assert!(whole.status.success() && !String::from_utf8_lossy(&whole.stdout).contains("\"event\":\"state\""));
    // the same adapter, a million times slower
    let paces = caches.path().join("paces.json");
    let mut known: std::collections::BTreeMap<String, f64> =
        serde_json::from_slice(&std::fs::read(&paces).unwrap()).unwrap();
    assert!(known.keys().any(|key| key.contains("denoise")), "{known:?}");
    known.values_mut().for_each(|pace| *pace /= 1e6);
    std::fs::write(&paces, serde_json::to_string(&known).unwrap()).unwrap();
    let mut child = started("a.rgb");
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "plan" {
            assert!(event["seconds"].as_f64().unwrap() > 300.0, "{event}");
        }
        if event["event"] == "state" {
            child.kill().unwrap();
            break;
        }
    }
    assert!(!child.wait().unwrap().success());
    assert!(!d.join("a.rgb").exists());
    run(d, &["resume", "a.rgb.state"]).ok();
    assert!(bytes(d, "a.rgb") == bytes(d, "whole.rgb"));
    assert_eq!(names(d), ["a.rgb", "whole.rgb"]);
}

/// Latents outlive a run that dies while it decodes them.
#[test]
fn killed_while_decoding() {
    let dir = scratch();
    let d = dir.path();
    let args =
        |name: &'static str| ["generate", "-m", model(), "-p", "a red circle", "-s", "3", "--steps", "2", "-o", name];
    run(d, &args("whole.rgb")).ok();
    // (what is left is short: on a busy machine it may be over before it is killed)
    let in_time = (0..5).any(|_| {
        let _ = std::fs::remove_file(d.join("a.rgb"));
        !killed(d, &args("a.rgb"), |e| e["event"] == "decode")
    });
    if !in_time {
        return println!("left out: every run was over before it could be killed");
    }
    assert_eq!(names(d), ["a.rgb.latents.safetensors", "whole.rgb"]);
    run(d, &["decode", "a.rgb.latents.safetensors", "-m", model(), "-o", "a.rgb"]).ok();
    assert!(bytes(d, "a.rgb") == bytes(d, "whole.rgb"));
}
