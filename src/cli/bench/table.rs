//! `residua bench table`: lines of JSON as a table in Markdown, with the speed of others beside.

use std::path::Path;

use residua::Error;
use serde_json::Value;

use crate::cli::args::BenchTable;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::screen::Screen;

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
    let mut out = Vec::new();
    for c in results.iter().filter(|line| line["event"] == "ceilings") {
        let number = |field: &str| c[field].as_f64().unwrap_or(f64::NAN);
        out.push(format!(
            "{} ({}), kernels {}, {}, sizes {}. Ceilings of this run: copy {:.1} GB/s by a kernel, {:.1} by the driver; \
             {:.0} GFLOP/s by multiply-adds, {:.0} by a product.\n",
            word(c, "adapter"),
            word(c, "driver"),
            word(c, "kernels"),
            word(c, "dtype"),
            word(c, "size"),
            number("copy_kernel_gb_s"),
            number("copy_buffer_gb_s"),
            number("fma_gflop_s"),
            number("matmul_gflop_s")
        ));
    }
    for other in baselines.iter().filter_map(|b| b.first()) {
        let [adapter, driver, dtype] = ["adapter", "driver", "dtype"].map(|f| word(other, f));
        out.push(format!("Compared with {driver} in {dtype} on {adapter}.\n"));
    }
    let mut head = vec!["case", "shape", "median", "p10 to p90", "GB/s", "GFLOP/s", "of ceiling"];
    let names: Vec<String> =
        baselines.iter().map(|b| b.first().map_or("–", |l| word(l, "dtype")).to_string()).collect();
    let columns: Vec<String> = names.iter().flat_map(|n| [format!("PyTorch {n}"), "speed".into()]).collect();
    head.extend(columns.iter().map(String::as_str));
    out.push(row(&head));
    out.push(row(&vec!["---"; head.len()]));
    for line in results.iter().filter(|line| line["case"].is_string()) {
        let mut cells = own(line);
        for baseline in baselines {
            cells.extend(beside(line, baseline));
        }
        out.push(row(&cells));
    }
    out.join("\n")
}

fn row(cells: &[impl AsRef<str>]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |", cells.join(" | "))
}

fn own(line: &Value) -> Vec<String> {
    let sizes = line["shape"].as_array().map(|s| s.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    let mut cells = vec![word(line, "case").to_string(), sizes.unwrap_or_else(|| "–".into())];
    let number = |field: &str| line[field].as_f64();
    let Some(seconds) = number("seconds") else {
        let why = [("wrong", "**wrong**: "), ("left_out", "left out: ")];
        let told = why.iter().find_map(|(field, head)| line[*field].as_str().map(|w| format!("{head}{w}")));
        cells.push(told.unwrap_or_else(|| "–".into()));
        cells.extend(std::iter::repeat_n(String::new(), 4));
        return cells;
    };
    cells.push(time(seconds));
    cells.push(match (number("seconds_p10"), number("seconds_p90")) {
        (Some(least), Some(most)) => format!("{} to {}", time(least), time(most)),
        _ => "–".into(),
    });
    let figure = |field: &str| number(field).filter(|v| *v > 0.0).map_or_else(|| "–".into(), |v| format!("{v:.1}"));
    cells.extend([figure("gb_s"), figure("gflop_s")]);
    cells.push(match number("share_of_ceiling") {
        Some(share) => format!("{:.0} % {}", 100.0 * share, word(line, "bound_by")),
        None => "–".into(),
    });
    cells
}

/// The time of another for the same work, and how fast this is beside it.
fn beside(line: &Value, baseline: &[Value]) -> [String; 2] {
    let same = |other: &&Value| other["case"] == line["case"] && other["size"] == line["size"];
    let Some(other) = baseline.iter().find(same) else { return ["–".into(), "–".into()] };
    if other["shape"] != line["shape"] {
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

    #[test]
    fn speeds_are_of_the_same_work() {
        let line =
            |shape: u32, seconds: f64| json!({"case": "a", "size": "small", "shape": [shape], "seconds": seconds});
        let table = |theirs: &Value| markdown(&[line(8, 0.004)], &[vec![theirs.clone()]]);
        assert!(table(&line(8, 0.001)).ends_with("| 1.00 ms | 25 % |"));
        assert!(table(&line(9, 0.001)).ends_with("| of another shape | – |"));
        let mut full = line(8, 0.001);
        full["size"] = "full".into();
        assert!(table(&full).ends_with("| – | – |"));
    }

    #[test]
    fn what_was_not_timed_says_why() {
        let table = markdown(&[json!({"case": "a", "shape": [2, 3], "wrong": "number 7 is 1"})], &[]);
        assert!(table.ends_with("| a | 2 3 | **wrong**: number 7 is 1 |  |  |  |  |"), "{table}");
    }
}
