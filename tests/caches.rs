//! `residua bench cache` and `residua calibrate`, by their command lines alone, on a model whose videos are noise.

#[path = "program/mod.rs"]
mod program;
#[path = "tiny_model/mod.rs"]
mod tiny_model;

use std::path::Path;

use program::{Ran, run, scratch};
use serde_json::Value;

const STEPS: &str = "8";
const POLICIES: [&str; 4] =
    ["static:every=2", "adacache:codebook=0.02:3/9:2", "pab:window=1-999", "fbcache:threshold=9"];

fn model() -> &'static str {
    tiny_model::folder().to_str().unwrap()
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Two prompts in two groups.
fn prompts(dir: &Path) {
    let line = |prompt, group, seed| serde_json::json!({"prompt": prompt, "group": group, "seed": seed}).to_string();
    write(dir, "prompts.jsonl", &[line("a red circle", "still", 1), line("a <b>blue</b> ring", "fast", 2)].join("\n"));
}

/// Runs a command with these flags, unless `words` say otherwise.
fn run_with(dir: &Path, verb: &[&str], flags: &[[&str; 2]], words: &[&str]) -> Ran {
    let flags = flags.iter().filter(|[flag, _]| !words.contains(flag)).flatten();
    run(dir, &verb.iter().chain(flags).chain(words).copied().collect::<Vec<_>>())
}

fn compare(dir: &Path, words: &[&str]) -> Ran {
    let flags = [["-m", model()], ["--prompts", "prompts.jsonl"], ["--steps", STEPS], ["--repeats", "1"]];
    let caches = POLICIES.iter().flat_map(|p| ["--cache", p]);
    run_with(dir, &["bench", "cache"], &flags, &caches.chain(words.iter().copied()).collect::<Vec<_>>())
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
}

#[test]
fn caches_are_compared_and_interrupted_runs_go_on() {
    let dir = scratch();
    let d = dir.path();
    prompts(d);
    let ran = compare(d, &["--out", "o", "--show", "1"]).ok();
    for policy in POLICIES {
        assert!(ran.text().contains(&format!("`{policy}`")), "{}", ran.text());
    }
    let runs = read(d, "o/runs.jsonl");
    let all = lines(&runs);
    assert_eq!(all.len(), 1 + 2 * (1 + POLICIES.len()), "a head and the runs");
    for run in &all[1..] {
        let (work, policy) = (&run["steps"], run["policy"].as_str().unwrap());
        assert_eq!(work.as_array().map(Vec::len), Some(8), "{policy}");
        assert_eq!(run["quality"].is_null(), policy == "off");
        let held = |field: &str| run[field].as_u64().unwrap();
        assert!(
            held("cache_bytes") <= held("planned_bytes"),
            "{policy}: {} of {}",
            held("cache_bytes"),
            held("planned_bytes")
        );
        assert_eq!(held("cache_bytes") > 0, policy != "off");
        if policy == "static:every=2" {
            let computed = |s: &Value| s["computed"] == true;
            assert_eq!(work.as_array().unwrap().iter().filter(|s| computed(s)).count(), 5);
            assert!(run["quality"]["flip"].as_f64().unwrap() > 0.0);
        }
    }
    let summary: Value = serde_json::from_str(&read(d, "o/summary.json")).unwrap();
    let policies = summary["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 1 + POLICIES.len());
    let half = policies.iter().find(|p| p["policy"] == "static:every=2").unwrap();
    assert_eq!(
        (half["work"].as_f64(), half["computed"].as_f64(), half["runs"].as_u64()),
        (Some(5.0 / 8.0), Some(5.0), Some(2))
    );
    let page = read(d, "o/report.html");
    assert!(
        page.contains("&lt;b&gt;blue") && !page.contains("<b>blue") && page.contains("data:image/png"),
        "escaped, with frames"
    );
    assert!(!page.contains("http://") && !page.contains("https://"), "nothing from elsewhere");

    // the last line cut off, as by a kill: that run alone is made again, and the others stay to the letter
    let keep: Vec<&str> = runs.lines().collect();
    let cut = keep[..keep.len() - 1].join("\n") + "\n" + &keep[keep.len() - 1][..40];
    write(d, "o/runs.jsonl", &cut);
    let ran = compare(d, &["--out", "o", "--json"]).ok();
    assert_eq!(lines(ran.text()).iter().filter(|e| e["event"] == "run").count(), 1);
    let again = read(d, "o/runs.jsonl");
    assert_eq!(again.lines().take(keep.len() - 1).collect::<Vec<_>>(), keep[..keep.len() - 1]);
    let last = lines(again.lines().last().unwrap());
    assert_eq!(last[0]["quality"], all[all.len() - 1]["quality"], "the same seed gives the same frames");
    let ran = compare(d, &["--out", "o", "--json"]).ok();
    assert_eq!(lines(ran.text()).iter().filter(|e| e["event"] == "run").count(), 0, "all are there");

    // other runs do not get mixed in
    let ran = compare(d, &["--out", "o", "--cfg", "2"]);
    assert_eq!(ran.exit, 3);
    assert!(ran.err.contains("`guidance` is 4.0 there and 2.0 now") && ran.err.contains("--force"), "{}", ran.err);
    write(d, "o/runs.jsonl", "# notes\n");
    let ran = compare(d, &["--out", "o"]);
    assert_eq!(ran.exit, 3, "{}", ran.err);
    assert_eq!(read(d, "o/runs.jsonl"), "# notes\n", "left alone");
}

#[test]
fn wrong_words_stop_before_any_work() {
    let dir = scratch();
    let d = dir.path();
    prompts(d);
    write(d, "empty.txt", "# none\n");
    for (words, exit, says) in [
        (&["--cache", "teacash"][..], 2, "did you mean `teacache`"),
        (&["--cache", "adacache:layers=7"], 2, "layers 0 to 1"),
        (&["--cache", "file:none.cache.json"], 3, "none.cache.json"),
        (&["--cache", "static:mask=1010"], 2, "names 4 steps, the run has 8"),
        (&["--steps", "0"], 2, "steps"),
        (&["--repeats", "0"], 2, "--repeats"),
    ] {
        let ran = compare(d, &[&["--out", "o"], words].concat());
        assert_eq!(ran.exit, exit, "{words:?}: {}", ran.err);
        assert!(ran.err.contains(says) && !d.join("o").exists(), "{words:?}: {}", ran.err);
    }
    let ran = run(d, &["bench", "cache", "-m", model(), "--prompts", "empty.txt"]);
    assert!(ran.exit == 3 && ran.err.contains("holds no prompt;"), "{}", ran.err);
    let ran = run(d, &["bench", "cache", "-m", model()]);
    assert!(ran.exit == 2 && ran.err.contains("prompts/evaluation.jsonl"), "{}", ran.err);
}

/// Calibrates the tiny model.
fn calibrate(dir: &Path, words: &[&str]) -> Ran {
    write(dir, "held.txt", "a green star\n");
    prompts(dir);
    let flags = [["-m", model()], ["--prompts", "prompts.jsonl"], ["--held-out", "held.txt"], ["--steps", STEPS]];
    run_with(dir, &["calibrate"], &flags, words)
}

#[test]
fn a_codebook_is_made_and_used() {
    let dir = scratch();
    let d = dir.path();
    calibrate(d, &["--target-psnr", "20", "--fit", "head,tail,order", "-o", "a.cache.json"]).ok();
    let made: Value = serde_json::from_str(&read(d, "a.cache.json")).unwrap();
    assert_eq!((made["made_for"]["steps"].as_u64(), made["policy"].as_str()), (Some(8), Some("adacache")));
    let measured = &made["measured"]["learned_from"]["measured"];
    let share = measured["share"].as_f64().unwrap();
    assert!(share < 1.0 && measured["psnr"].as_f64().unwrap() >= 20.0, "{measured}");
    let again = calibrate(d, &["--target-psnr", "20", "--fit", "head,tail,order", "-o", "b.cache.json"]).ok();
    let twin: Value = serde_json::from_str(&read(d, "b.cache.json")).unwrap();
    assert_eq!(made["settings"], twin["settings"], "{}", again.err);
    assert_eq!(calibrate(d, &["--target-psnr", "20", "-o", "a.cache.json"]).exit, 7, "not overwritten unasked");

    // it computes as many steps as it did when it was tried
    let generate = |model: &str, words: &[&str]| {
        let flags = [["-m", model], ["-p", "a red circle"], ["-s", "1"], ["--steps", STEPS], ["-o", "v.png"]];
        run_with(d, &["generate", "--force"], &flags, words)
    };
    let ran = generate(model(), &["--cache", "file:a.cache.json", "--json"]).ok();
    let done = lines(ran.text()).into_iter().find(|e| e["event"] == "done").unwrap();
    let computed = done["cache"]["computed"].as_u64().unwrap() as f64;
    assert!((1.0..8.0).contains(&computed) && (computed / 8.0 - share).abs() <= 0.25, "{computed} of 8, {share}");
    // options of its own go on top
    generate(model(), &["--cache", "file:a.cache.json,codebook=9:1"]).ok();
    assert!(generate(model(), &["--cache", "file:a.cache.json,preset=fast"]).err.contains("give one of them"));

    // not for another number of steps
    let ran = generate(model(), &["--cache", "file:a.cache.json", "--steps", "9"]);
    assert!(ran.exit == 2 && ran.err.contains("calibrated for 8 steps, this run has 9"), "{}", ran.err);

    // in the model's folder it is a preset, and other weights do not get it
    let own = d.join("own");
    tiny_model::write(&own);
    std::fs::create_dir(own.join("cache")).unwrap();
    std::fs::copy(d.join("a.cache.json"), own.join("cache/fast-8.cache.json")).unwrap();
    let ran = generate("own", &["--cache", "adacache"]).ok();
    assert!(ran.err.contains("calibrated on") && ran.err.contains("at 8 steps"), "{}", ran.err);
    for released in ["adacache:preset=released-fast", "adacache:preset=slow", "adacache:codebook=9:1"] {
        assert!(!generate("own", &["--cache", released]).ok().err.contains("calibrated on"), "{released}");
    }
    let weights = own.join("transformer/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let ran = generate("own", &["--cache", "adacache"]);
    assert!(ran.exit == 2 && ran.err.contains("other weights"), "{}", ran.err);
}

#[test]
fn goals_that_make_no_sense() {
    let dir = scratch();
    let d = dir.path();
    for (words, exit, says) in [
        (&["--target-speedup", "1"][..], 2, "above 1"),
        (&["--target-psnr", "0"], 2, "above 0"),
        (&[], 2, "--target-psnr"),
        (&["--target-speedup", "2", "--target-psnr", "30"], 2, "cannot be used with"),
        (&["--target-psnr", "30", "--cache", "pab"], 2, "only adacache"),
        (&["--target-psnr", "30", "--steps", "3"], 2, "too few"),
        (&["--target-psnr", "30", "--held-out", "prompts.jsonl"], 2, "learned from"),
        (&["--target-speedup", "90"], 2, "out of reach"),
    ] {
        let ran = calibrate(d, &[words, &["-o", "a.cache.json"]].concat());
        assert_eq!(ran.exit, exit, "{words:?}: {}", ran.err);
        assert!(ran.err.contains(says) && !d.join("a.cache.json").exists(), "{words:?}: {}", ran.err);
    }
}
