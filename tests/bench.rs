//! `residua bench`: what it says, not how fast it is.

#[path = "program/mod.rs"]
mod program;

use program::{Ran, run, scratch};
use residua::gpu::{Program, shader};
use serde_json::Value;

fn bench(words: &str) -> Ran {
    let words: Vec<&str> = ["bench"].into_iter().chain(words.split(' ')).collect();
    run(scratch().path(), &words)
}

#[track_caller]
fn number(line: &Value, field: &str) -> f64 {
    line[field].as_f64().unwrap_or_else(|| panic!("no number `{field}` in {line}"))
}

#[test]
fn lines_of_kernels_are_complete() {
    let ran = bench("kernels --filter layer_norm --size small --seconds 0.05 --json").ok();
    let lines: Vec<Value> = ran.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2, "the ceilings and one case: {}", ran.text());
    for line in &lines {
        for field in ["adapter", "backend", "driver", "kernels", "dtype", "size"] {
            assert!(line[field].as_str().is_some_and(|s| !s.is_empty()), "no `{field}` in {line}");
        }
        assert!(line.get("commit").is_some(), "{line}");
    }
    let [ceilings, case] = &lines[..] else { unreachable!() };
    assert_eq!((ceilings["event"].as_str(), case["event"].as_str()), (Some("ceilings"), Some("kernel")));
    for field in ["copy_kernel_gb_s", "copy_buffer_gb_s", "fma_gflop_s", "matmul_gflop_s"] {
        assert!(number(ceilings, field) > 0.0, "{field}: {ceilings}");
    }
    assert_eq!(case["case"], "stdit3.480p.layer_norm.modulate");
    assert_eq!(case["shape"], serde_json::json!([1590, 1152]));
    assert!(case["wrong"].is_null(), "{case}");
    assert!(number(case, "compared") >= 1152.0);
    let share = number(case, "share_of_bound");
    assert!(share > 0.0 && share <= 1.0, "{share}");
    let [least, median, most] = ["seconds_p10", "seconds", "seconds_p90"].map(|f| number(case, f));
    assert!(0.0 < least && least <= median && median <= most, "{case}");
    for field in ["gb_s", "bytes", "share_of_ceiling", "samples", "launches", "input_sets"] {
        assert!(number(case, field) > 0.0, "{field}: {case}");
    }
    assert!(["device", "host"].map(Value::from).contains(&case["clock"]));
    assert_eq!(case["bound_by"], "memory");
}

#[test]
fn cases_are_named_without_being_run() {
    let full = bench("kernels --list --size full").ok();
    let names: Vec<&str> = full.text().lines().collect();
    assert!(names.contains(&"stdit3.480p.attention.temporal") && names.contains(&"matmul.4096"), "{names:?}");
    let mut once = names.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), names.len(), "two cases of one name: {names:?}");
    let some = bench("kernels --list --size small --filter attention.").ok();
    assert_eq!(some.text().lines().count(), 4, "{}", some.text());
}

#[test]
fn wrong_words() {
    let ran = bench("kernels --filter attentoin.temporl");
    assert_eq!(ran.exit, 2);
    assert!(ran.err.contains("attentoin.temporl") && ran.err.contains("stdit3.480p.attention.temporal"), "{}", ran.err);
    assert!(ran.err.contains("--list"), "{}", ran.err);
    for words in ["kernels --size huge", "kernels --seconds 0", "kernels --seconds nan", "kernels --dtype f8", "kernel"]
    {
        let ran = bench(words);
        assert_eq!(ran.exit, 2, "{words}: {}", ran.err);
        assert!(ran.out.is_empty());
    }
    let ran = bench("kernels --filter layer_norm --device no-such-adapter");
    assert_eq!(ran.exit, 4, "{}", ran.err);
}

/// The shaders that only the ceilings use: no op asks for them.
#[test]
fn shaders_of_the_ceilings_validate() {
    Program::of(shader::BENCH_COPY).validate().unwrap();
    Program::of(shader::BENCH_FMA).define("STEPS", 1024).validate().unwrap();
}
