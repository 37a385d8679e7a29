//! `residua bench table`: lines of JSON as a table in Markdown, with the speed of others beside.

use std::path::Path;

use residua::Error;
use serde_json::Value;

use super::args::BenchTable;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::screen::{Screen, size};

/// Runs the verb.
///
/// # Errors
/// A file that cannot be read or holds something else than lines of JSON.
pub fn run(args: &BenchTable, screen: &Screen) -> Outcome {
    let results = read(&args.results)?;
    let baselines = args.baselines.iter().map(|p| read(p)).collect::<Outcome<Vec<_>>>()?;
    screen.data(markdown(&results, &baselines));
    Ok(())
}

fn read(path: &Path) -> Outcome<Vec<Value>> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::input(Error::io(path, e)))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let value: Option<Value> = serde_json::from_str(line).ok();
            value.filter(Value::is_object).ok_or_else(|| {
                Failure::input(Error::checkpoint(path, format!("line {} is no JSON object", number + 1)))
            })
        })
        .collect()
}

fn word<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or("–")
}

fn markdown(results: &[Value], baselines: &[Vec<Value>]) -> String {
    let mut out: Vec<String> = results.iter().filter_map(heading).collect();
    for other in baselines.iter().filter_map(|b| b.first()) {
        let [adapter, driver, dtype] = ["adapter", "driver", "dtype"].map(|f| word(other, f));
        out.push(format!("Compared with {driver} in {dtype} on {adapter}.\n"));
    }
    out.extend(table(results, "kernel", &KERNEL, of_kernel, baselines));
    out.extend(table(results, "part", &PART, of_part, baselines));
    out.join("\n").trim_end().into()
}

const KERNEL: [&str; 7] = ["case", "shape", "median", "p10 to p90", "GB/s", "GFLOP/s", "of ceiling"];
const PART: [&str; 6] = ["part", "median", "TFLOP/s", "GB/s", "of ceiling", "tensors at the most"];

/// The lines of one kind, if there are any.
fn table(
    results: &[Value],
    event: &str,
    columns: &[&str],
    own: fn(&Value) -> Vec<String>,
    baselines: &[Vec<Value>],
) -> Vec<String> {
    let lines: Vec<&Value> = results.iter().filter(|line| line["event"] == event).collect();
    if lines.is_empty() {
        return Vec::new();
    }
    let mut head: Vec<String> = columns.iter().map(ToString::to_string).collect();
    for baseline in baselines {
        head.push(format!("PyTorch {}", baseline.first().map_or("–", |l| word(l, "dtype"))));
        head.push("speed".into());
    }
    let mut out = vec![row(&head), row(&vec!["---"; head.len()])];
    for line in lines {
        let mut cells = own(line);
        cells.extend(baselines.iter().flat_map(|baseline| beside(line, baseline)));
        out.push(row(&cells));
    }
    out.push(String::new());
    out
}

/// What stands above: where it was measured, and what is reached there.
fn heading(line: &Value) -> Option<String> {
    let ceilings = match line["event"].as_str() {
        Some("ceilings") => line,
        Some("model") => &line["ceilings"],
        _ => return None,
    };
    let number = |field: &str| ceilings[field].as_f64().unwrap_or(f64::NAN);
    let what = match line["config"].as_str() {
        Some(config) => format!(
            "{config}: {} frames of {}x{}, {} tokens with both samples, {} weights",
            line["frames"],
            line["width"],
            line["height"],
            line["tokens"],
            word(line, "weights")
        ),
        None => format!("sizes {}", word(line, "size")),
    };
    Some(format!(
        "{} ({}), kernels {}, {}, {what}. Ceilings of this run: copy {:.1} GB/s by a kernel, {:.1} by the driver; \
         {:.0} GFLOP/s by multiply-adds, {:.0} by a product.\n",
        word(line, "adapter"),
        word(line, "driver"),
        word(line, "kernels"),
        word(line, "dtype"),
        number("copy_kernel_gb_s"),
        number("copy_buffer_gb_s"),
        number("fma_gflop_s"),
        number("matmul_gflop_s")
    ))
}

/// A kernel's case, or a part of a model as the baseline names it.
fn name(line: &Value) -> String {
    match line["case"].as_str() {
        Some(case) => case.into(),
        None => format!("model.{}.{}", word(line, "config"), word(line, "part")),
    }
}

/// Why there are no times, if there are none.
fn untimed(line: &Value) -> String {
    let why = [("wrong", "**wrong**: "), ("left_out", "left out: ")];
    let told = why.iter().find_map(|(field, head)| line[*field].as_str().map(|w| format!("{head}{w}")));
    told.unwrap_or_else(|| "–".into())
}

fn figure(line: &Value, field: &str) -> String {
    line[field].as_f64().filter(|v| *v > 0.0).map_or_else(|| "–".into(), |v| format!("{v:.1}"))
}

fn row(cells: &[impl AsRef<str>]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |", cells.join(" | "))
}

fn of_kernel(line: &Value) -> Vec<String> {
    let sizes = line["shape"].as_array().map(|s| s.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    let mut cells = vec![name(line), sizes.unwrap_or_else(|| "–".into())];
    let number = |field: &str| line[field].as_f64();
    let Some(seconds) = number("seconds") else {
        cells.push(untimed(line));
        cells.extend(std::iter::repeat_n(String::new(), 4));
        return cells;
    };
    cells.push(time(seconds));
    cells.push(match (number("seconds_p10"), number("seconds_p90")) {
        (Some(least), Some(most)) => format!("{} to {}", time(least), time(most)),
        _ => "–".into(),
    });
    cells.extend([figure(line, "gb_s"), figure(line, "gflop_s")]);
    cells.push(match number("share_of_ceiling") {
        Some(share) => format!("{:.0} % {}", 100.0 * share, word(line, "bound_by")),
        None => "–".into(),
    });
    cells
}

fn of_part(line: &Value) -> Vec<String> {
    let mut cells = vec![name(line)];
    let Some(seconds) = line["seconds"].as_f64() else {
        cells.push(untimed(line));
        cells.extend(std::iter::repeat_n(String::new(), 4));
        return cells;
    };
    let share = |field: &str, by: &str| line[field].as_f64().map(|s| format!("{:.0} % {by}", 100.0 * s));
    let tflops = line["tflop_s"].as_f64().filter(|v| *v > 0.0).map_or_else(|| "–".into(), |v| format!("{v:.3}"));
    cells.extend([time(seconds), tflops, figure(line, "gb_s")]);
    cells.push(share("share_of_math", "math").or(share("share_of_memory", "memory")).unwrap_or_else(|| "–".into()));
    cells.push(line["peak_bytes"].as_u64().filter(|b| *b > 0).map_or_else(|| "–".into(), size));
    cells
}

/// The time of another for the same work, and how fast this is beside it.
fn beside(line: &Value, baseline: &[Value]) -> [String; 2] {
    // what one of the two does not say cannot tell them apart
    let alike =
        |other: &Value, field: &str| other[field] == line[field] || other[field].is_null() || line[field].is_null();
    let same = |other: &&Value| name(other) == name(line) && alike(other, "size");
    let Some(other) = baseline.iter().find(same) else { return ["–".into(), "–".into()] };
    if !["shape", "tokens", "caption"].iter().all(|field| alike(other, field)) {
        return ["of another shape".into(), "–".into()];
    }
    match (line["seconds"].as_f64(), other["seconds"].as_f64()) {
        (Some(own), Some(theirs)) => [time(theirs), format!("{:.0} %", 100.0 * theirs / own)],
        (_, Some(theirs)) => [time(theirs), "–".into()],
        _ => ["–".into(), "–".into()],
    }
}

/// `1.25 ms`
pub fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(shape: u32, seconds: f64) -> Value {
        json!({"event": "kernel", "case": "a", "size": "small", "shape": [shape], "seconds": seconds})
    }

    #[test]
    fn speeds_are_of_the_same_work() {
        let table = |theirs: &Value| markdown(&[line(8, 0.004)], &[vec![theirs.clone()]]);
        assert!(table(&line(8, 0.001)).ends_with("| 1.00 ms | 25 % |"));
        assert!(table(&line(9, 0.001)).ends_with("| of another shape | – |"));
        let mut full = line(8, 0.001);
        full["size"] = "full".into();
        assert!(table(&full).ends_with("| – | – |"));
    }

    #[test]
    fn parts_of_models_are_compared_by_name_and_tokens() {
        let part = json!({"event": "part", "config": "b", "part": "step", "tokens": 10, "seconds": 2.0});
        let table = |tokens: u32| {
            let theirs =
                json!({"case": "model.b.step", "size": "full", "shape": [1], "tokens": tokens, "seconds": 1.0});
            markdown(std::slice::from_ref(&part), &[vec![theirs]])
        };
        assert!(table(10).ends_with("| 1.00 s | 50 % |"), "{}", table(10));
        assert!(table(11).ends_with("| of another shape | – |"));
    }

    #[test]
    fn what_was_not_timed_says_why() {
        let mut wrong = line(8, 0.0);
        wrong["seconds"] = Value::Null;
        wrong["wrong"] = "number 7 is 1".into();
        let table = markdown(&[wrong], &[]);
        assert!(table.ends_with("| a | 8 | **wrong**: number 7 is 1 |  |  |  |  |"), "{table}");
    }
}
