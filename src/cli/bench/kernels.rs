//! `residua bench kernels`: every kernel family at the sizes of the models, checked before it is timed.

use residua::Error;
use residua::gpu::{Clock, Gpu};
use serde_json::{Value, json};

use super::args::{BenchKernels, BenchSize};
use super::cases::{self, Case};
use super::ceilings::Ceilings;
use super::measure::{self, Budget, Times, Verdict};
use super::table::time;
use super::{joined, place};
use crate::cli::exit::{Failure, Outcome, code};
use crate::cli::screen::Screen;

/// Names that a filter without a match is answered with.
const NEAR: usize = 6;

/// Runs the verb.
///
/// # Errors
/// No adapter, a filter that fits nothing, a kernel that is wrong.
pub fn run(args: &BenchKernels, screen: &Screen) -> Outcome {
    // a filter that fits nothing is known before an adapter is
    matching(cases::all(args.size.unwrap_or(BenchSize::Full)), args.filter.as_deref())?;
    let gpu = pollster::block_on(Gpu::open(&args.device.prefs()))?;
    let software = gpu.info().device_type == residua::wgpu::DeviceType::Cpu;
    let size = args.size.unwrap_or(if software { BenchSize::Small } else { BenchSize::Full });
    let chosen = matching(cases::all(size), args.filter.as_deref())?;
    if args.list {
        chosen.iter().for_each(|c| screen.data(c.name));
        return Ok(());
    }
    let budget = Budget::new(&gpu, args.seconds.unwrap_or(if software { 1.0 } else { 0.5 }));
    let ceilings = Ceilings::measure(&gpu, size, &budget)?;
    let place = place(&gpu);
    let size = format!("{size:?}").to_lowercase();
    screen.event("ceilings", joined(joined(json!({"size": size}), ceilings.fields()), place.clone()));
    if !screen.json {
        head(&place, &size, &ceilings, screen);
    }
    let mut wrong = Vec::new();
    for case in &chosen {
        // what a tensor on this adapter cannot hold is left out aloud; a lost device ends it all
        let outcome = measure::check(&gpu, case).and_then(|verdict| match verdict.wrong {
            Some(_) => Ok((verdict, None)),
            None => measure::time(&gpu, case, &budget).map(|times| (verdict, Some(times))),
        });
        gpu.trim();
        match outcome {
            Ok((verdict, times)) => {
                if let Some(problem) = &verdict.wrong {
                    wrong.push(case.name);
                    screen.say(format!("wrong: {}: {problem}", case.name));
                }
                let fields = json!({"case": case.name, "size": size, "shape": case.shape});
                let result = fields_of(case, &verdict, times.as_ref(), &ceilings);
                screen.event("kernel", joined(joined(fields, result), place.clone()));
                if !screen.json {
                    screen.data(line(case, &verdict, times.as_ref(), &ceilings));
                }
            }
            Err(limit @ Error::Limit { .. }) => {
                let fields =
                    json!({"case": case.name, "size": size, "shape": case.shape, "left_out": limit.to_string()});
                screen.event("kernel", joined(fields, place.clone()));
                screen.say(format!("left out: {}: {limit}", case.name));
            }
            Err(other) => return Err(other.into()),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let message =
        format!("{} of {} kernels are wrong on this adapter: {}", wrong.len(), chosen.len(), wrong.join(", "));
    let hint = Some("please report this with the output of `residua devices`; --kernels portable may work".into());
    Err(Failure { exit: code::BUG, code: "kernel.wrong", message, hint })
}

fn matching(all: Vec<Case>, filter: Option<&str>) -> Outcome<Vec<Case>> {
    let Some(filter) = filter else { return Ok(all) };
    let names: Vec<&str> = all.iter().map(|c| c.name).collect();
    let found: Vec<Case> = all.into_iter().filter(|c| c.name.contains(filter)).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let near = near(&names, filter).join(", ");
    Err(Failure::wrong("filter", format!("no case has `{filter}` in its name; near it: {near}"))
        .hint("`residua bench kernels --list` names them all"))
}

/// Names that share most pairs of letters with what was asked for.
fn near<'a>(names: &[&'a str], asked: &str) -> Vec<&'a str> {
    let pairs = |s: &str| s.to_lowercase().as_bytes().windows(2).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let asked = pairs(asked);
    let mut by: Vec<(usize, &str)> =
        names.iter().map(|n| (pairs(n).iter().filter(|p| asked.contains(p)).count(), *n)).collect();
    by.sort_by_key(|(shared, _)| std::cmp::Reverse(*shared));
    by.into_iter().take(NEAR).map(|(_, n)| n).collect()
}

fn fields_of(case: &Case, verdict: &Verdict, times: Option<&Times>, ceilings: &Ceilings) -> Value {
    let mut fields = json!({
        "compared": verdict.compared,
        "share_of_bound": verdict.worst,
        "wrong": verdict.wrong,
    });
    if let Some(times) = times {
        let (least, bound_by) = ceilings.least(times.bytes, case.flops);
        let seconds = times.median();
        fields = joined(
            fields,
            json!({
                "seconds": seconds, "seconds_p10": times.at(0.1), "seconds_p90": times.at(0.9),
                "samples": times.samples(), "launches": times.launches, "input_sets": times.sets,
                "clock": clock(times.clock),
                "bytes": times.bytes, "flops": case.flops,
                "gb_s": times.bytes / seconds / 1e9, "gflop_s": case.flops / seconds / 1e9,
                "bound_by": bound_by, "share_of_ceiling": least / seconds,
            }),
        );
    }
    fields
}

fn clock(clock: Clock) -> &'static str {
    match clock {
        Clock::Device => "device",
        Clock::Host => "host",
    }
}

fn head(place: &Value, size: &str, c: &Ceilings, screen: &Screen) {
    let word = |name: &str| place[name].as_str().unwrap_or("unknown").to_string();
    let (adapter, driver, kernels) = (word("adapter"), word("driver"), word("kernels"));
    screen.data(format!("{adapter} ({driver}), kernels {kernels}, {}, sizes {size}", word("dtype")));
    screen.data(format!(
        "ceilings: copy {:.1} GB/s by a kernel, {:.1} by the driver; {:.0} GFLOP/s by fma, {:.0} by a product\n",
        c.copy_kernel / 1e9,
        c.copy_buffer / 1e9,
        c.fma / 1e9,
        c.matmul / 1e9
    ));
    screen.data(format!(
        "{:<34} {:>28} {:>10} {:>21} {:>8} {:>9} {:>13}",
        "case", "shape", "median", "p10 to p90", "GB/s", "GFLOP/s", "of ceiling"
    ));
}

fn line(case: &Case, verdict: &Verdict, times: Option<&Times>, ceilings: &Ceilings) -> String {
    let shape = case.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let Some(times) = times else {
        return format!("{:<34} {shape:>28} WRONG: {}", case.name, verdict.wrong.as_deref().unwrap_or_default());
    };
    let seconds = times.median();
    let (least, by) = ceilings.least(times.bytes, case.flops);
    let spread = format!("{} to {}", time(times.at(0.1)), time(times.at(0.9)));
    let flops = if case.flops > 0.0 { format!("{:.1}", case.flops / seconds / 1e9) } else { "–".into() };
    format!(
        "{:<34} {shape:>28} {:>10} {spread:>21} {:>8.2} {flops:>9} {:>5.0} % {by:<6}",
        case.name,
        time(seconds),
        times.bytes / seconds / 1e9,
        100.0 * least / seconds
    )
}
