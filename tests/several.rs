//! Several videos a run: prompts, seeds, and where the files go.

#[path = "program/mod.rs"]
mod program;
#[path = "tiny_model/mod.rs"]
mod tiny_model;

use std::path::Path;

use program::{Ran, names, run, run_with_input, scratch};
use residua::media::read_recipe;
use serde_json::Value;

fn args<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let model = tiny_model::folder().to_str().unwrap();
    let frames = if args.contains(&"-f") { &[][..] } else { &["-f", "17"] };
    [&["generate", "-m", model, "--steps", "3"], frames, args].concat()
}

/// `generate` with the tiny model.
fn generate(dir: &Path, own: &[&str]) -> Ran {
    run(dir, &args(own))
}

fn bytes(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn events(ran: &Ran) -> Vec<Value> {
    ran.text().lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
}

#[test]
fn several_are_what_each_is_alone() {
    let dir = scratch();
    let d = dir.path();
    image::RgbImage::from_pixel(20, 30, image::Rgb([200, 30, 90])).save(d.join("a.png")).unwrap();
    let list = "# prompts\n\na red circle\n  |0|a green star|1|a blue ring  \n# a snail\nx {\"reference_path\": \"a.png\", \"mask_strategy\": \"0\"}\n";
    std::fs::write(d.join("list.txt"), list).unwrap();
    let own = ["-p", "a leaf", "--prompts", "list.txt", "--num-videos", "2", "-s", "7", "-f", "34", "--loop", "2"];
    let cache = ["--cache", "static:every=2", "--sidecar", "-o", "out/"];
    let ran = generate(d, &[&own[..], &cache].concat()).ok();
    let stems =
        ["0000-a-leaf", "0001-a-leaf", "0002-a-red-circle", "0003-a-red-circle", "0004-0-a-green-star-1-a-blue-ring"];
    let stems = [&stems[..], &["0005-0-a-green-star-1-a-blue-ring", "0006-x", "0007-x"]].concat();
    let mut expected: Vec<String> = stems.iter().flat_map(|s| [format!("{s}.json"), format!("{s}.mp4")]).collect();
    expected.sort();
    assert_eq!(names(&d.join("out")), expected);
    assert!(ran.err.contains("8 videos in "), "{}", ran.err);
    assert_eq!(ran.text().lines().count(), 8, "a path for each");
    for (index, prompt, seed) in [
        (1, "a leaf", "8"),
        (2, "a red circle", "7"),
        (5, "|0|a green star|1|a blue ring", "8"),
        (7, "x {\"reference_path\": \"a.png\", \"mask_strategy\": \"0\"}", "8"),
    ] {
        let alone = ["-p", prompt, "-s", seed, "-f", "34", "--loop", "2", "--cache", "static:every=2", "-o", "x.mp4"];
        generate(d, &[&alone[..], &["--force"]].concat()).ok();
        assert!(bytes(d, "x.mp4") == bytes(d, &format!("out/{}.mp4", stems[index])), "{prompt}");
    }
    assert_ne!(bytes(d, "out/0000-a-leaf.mp4"), bytes(d, "out/0001-a-leaf.mp4"));
    let recipe = read_recipe(&d.join("out/0007-x.mp4")).unwrap().unwrap();
    assert_eq!((&recipe["seed"], &recipe["given"]["references"][0]["file"]), (&8.into(), &"a.png".into()));
    // again: nothing is replaced
    let before = names(&d.join("out"));
    let again = generate(d, &[&own[..], &cache].concat());
    assert!(again.exit == 7 && again.err.contains("0000-a-leaf.mp4") && again.err.contains("--force"), "{}", again.err);
    assert_eq!(names(&d.join("out")), before);
}

#[test]
fn names_of_several() {
    let dir = scratch();
    let d = dir.path();
    let two = ["-p", "a b", "-p", "a b", "-s", "3"];
    let name = tiny_model::folder().file_name().unwrap().to_str().unwrap();
    generate(d, &two).ok();
    assert_eq!(names(d), [format!("{name}-3-a-b-1.mp4"), format!("{name}-3-a-b.mp4")]);
    assert_eq!(bytes(d, &names(d)[0]), bytes(d, &names(d)[1]), "the same prompt and seed");
    let other = scratch();
    let d = other.path();
    let beside = ["--latents-out", "{index:03}.safetensors", "--trace", "{seed}-{index}.trace"];
    generate(d, &[&two[..], &["--num-videos", "2", "-o", "{slug}-{seed:04}-{index}.gif"], &beside].concat()).ok();
    let mut expected: Vec<String> = (0..4).map(|i| format!("{i:03}.safetensors")).collect();
    expected.extend((0..4).flat_map(|i| [format!("{}-{i}.trace", 3 + i % 2), format!("a-b-000{}-{i}.gif", 3 + i % 2)]));
    expected.sort();
    assert_eq!(names(d), expected);
    generate(d, &["-p", "one", "-s", "5", "-o", "{model}-{seed}.png"]).ok();
    assert!(d.join(format!("{name}-5.png")).is_file(), "a template for one");
    // of one frame each
    generate(d, &[&two[..], &["-f", "1", "-o", "stills"]].concat()).ok();
    assert_eq!(names(&d.join("stills")), ["0000-a-b.png", "0001-a-b.png"]);
}

#[test]
fn events_of_several() {
    let dir = scratch();
    let ran = generate(dir.path(), &["-p", "a", "-p", "b", "-s", "1", "--json", "-q", "-o", "out"]).ok();
    let events = events(&ran);
    let of = |name: &str| -> Vec<u64> {
        events.iter().filter(|e| e["event"] == name).map(|e| e["video"].as_u64().expect(name)).collect()
    };
    for name in ["plan", "text", "video", "finished"] {
        assert_eq!(of(name), [0, 1], "{name}");
    }
    assert_eq!(events.iter().filter(|e| e["event"] == "step").count(), 6);
    assert_eq!(events.iter().filter(|e| e["event"] == "output").count(), 2);
    let done = events.last().unwrap();
    assert_eq!((&done["event"], &done["videos"]), (&"done".into(), &2.into()));
    let plan = generate(dir.path(), &["-p", "a", "-p", "b", "-s", "1", "--json", "--dry-run", "-o", "other"]).ok();
    assert_eq!(
        (plan.text().lines().count(), names(dir.path())),
        (2, vec!["out".to_string()]),
        "a dry run makes nothing"
    );
}

#[test]
fn mistakes_of_several() {
    let dir = scratch();
    let d = dir.path();
    std::fs::write(d.join("empty.txt"), "# nothing\n\n").unwrap();
    std::fs::write(d.join("bytes.txt"), b"one\ntwo\n\xff\n").unwrap();
    std::fs::write(d.join("good.txt"), "one\ntwo\n").unwrap();
    std::fs::write(d.join("bad.txt"), "one\ntwo {\n").unwrap();
    std::fs::write(d.join("ref.txt"), "one\ntwo {\"reference_path\": \"no.png\"}\n").unwrap();
    let before = names(d);
    let wrong = |own: &[&str], exit: i32, words: &[&str]| {
        let ran = generate(d, &[&["-s", "1"], own].concat());
        assert_eq!(ran.exit, exit, "{own:?}: {}", ran.err);
        for word in words {
            assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
        }
        assert_eq!(names(d), before, "{own:?}");
    };
    wrong(&["-o", "out/"], 2, &["--prompt"]);
    wrong(&["--prompts", "nothing.txt"], 3, &["nothing.txt", "No such file"]);
    wrong(&["--prompts", "empty.txt"], 3, &["empty.txt", "no prompt"]);
    wrong(&["--prompts", "bytes.txt"], 3, &["bytes.txt", "line 3"]);
    wrong(&["--prompts", "bad.txt", "-o", "out"], 2, &["prompt", "not a JSON object"]);
    wrong(&["--prompts", "ref.txt", "-o", "out"], 3, &["no.png", "No such file"]);
    wrong(&["-p", "x", "--num-videos", "0"], 2, &["num-videos", "0 videos"]);
    wrong(&["-p", "x", "--num-videos", "99999999999"], 2, &["num-videos", "10000"]);
    wrong(&["-p", "-", "-p", "-"], 2, &["prompt", "twice"]);
    let two = |own: &[&str], exit: i32, words: &[&str]| wrong(&[&["--prompts", "good.txt"], own].concat(), exit, words);
    two(&["-o", "a.mp4"], 2, &["output", "2 videos cannot all go to `a.mp4`", "{index:04}"]);
    two(&["-o", "-"], 2, &["output", "2 videos"]);
    two(&["-o", "{seed}.mp4"], 2, &["output", "two videos would go to `1.mp4`", "{index}"]);
    two(&["-o", "{number}.mp4"], 2, &["output", "`{number}`", "{slug}"]);
    two(&["-o", "{index:4x}.mp4"], 2, &["output", "{index:…}"]);
    two(&["-o", "{index.mp4"], 2, &["output", "without a `}`"]);
    two(&["-o", "{index}.webm"], 2, &["output", ".webm"]);
    two(&["-o", "out", "--trace", "t.json"], 2, &["trace", "2 videos"]);
    two(&["-o", "out", "--latents-out", "l.safetensors"], 2, &["latents-out", "2 videos"]);
    two(&["-o", "out", "--latents-in", "l.safetensors"], 2, &["latents-in", "one video"]);
    two(&["-o", "no/such/out"], 7, &["no/such"]);
    two(&["-o", "good.txt/"], 7, &["good.txt", "not a folder"]);
    two(&["-o", "/proc/out"], 7, &["/proc"]);
    two(&["-o", "out", "-W", "7"], 2, &["width"]);
}

#[test]
fn a_prompt_of_several_from_standard_input() {
    let dir = scratch();
    let d = dir.path();
    let own = args(&["-p", "a", "-p", "-", "-s", "2", "-o", "out"]);
    run_with_input(d, &own, b"from elsewhere\n").ok();
    assert_eq!(names(&d.join("out")), ["0000-a.mp4", "0001-from-elsewhere.mp4"]);
}

#[test]
fn names_as_prompts_and_what_is_there_already() {
    let dir = scratch();
    let d = dir.path();
    std::fs::write(
        d.join("list.jsonl"),
        "{\"prompt\": \"A red circle, moving\", \"seed\": 5}\n{\"prompt\": \"a/b\"}\n",
    )
    .unwrap();
    let own = ["--prompts", "list.jsonl", "--num-videos", "2", "-s", "9", "-o", "{prompt}-{take}.png"];
    let all = ["A red circle, moving-0.png", "A red circle, moving-1.png", "a_b-0.png", "a_b-1.png", "list.jsonl"];
    generate(d, &own).ok();
    assert_eq!(names(d), all);
    let seed = |name: &str| read_recipe(&d.join(name)).unwrap().unwrap()["seed"].as_u64();
    assert_eq!([all[0], all[1], all[2], all[3]].map(seed), [Some(5), Some(6), Some(9), Some(10)]);
    let again = |more: &[&str]| generate(d, &[&own[..], &["--skip-existing", "--json"], more].concat());
    let (kept, gone) = (bytes(d, all[1]), bytes(d, all[2]));
    std::fs::remove_file(d.join(all[2])).unwrap();
    let ran = again(&[]).ok();
    assert!(ran.err.contains("3 of 4 videos are there already"), "{}", ran.err);
    assert_eq!(events(&ran).iter().filter(|e| e["event"] == "output").count(), 1);
    assert!(bytes(d, all[2]) == gone && bytes(d, all[1]) == kept);
    let ran = again(&[]).ok();
    assert_eq!(events(&ran), [serde_json::json!({"v": 1, "event": "done", "videos": 0})]);
    assert_eq!(again(&["--force"]).exit, 2);
    assert_eq!(names(d), all);
}
