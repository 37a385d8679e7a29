//! Decisions of the caches: recorded signals in, the recorded decisions out. No network runs here.
//!
//! Any folder of fixtures with `trace_<policy>_*.json` or `static_schedules.json` takes part.

use residua::cache::{
    Axis, Branch, CachePolicy, Decision, DeltaDit, FbCache, Fixed, MagCache, Pab, Part, Phase, Run, Site, TGate,
    TaylorSeer, TeaCache,
};
use serde_json::Value;

use super::{Report, files, folders, json, name, root};

pub fn run(report: &mut Report) {
    for folder in folders(&root()) {
        for path in files(&folder, "json") {
            let (file, case) = (name(&path), format!("{}/{}", name(&folder), name(&path)));
            if !report.wants(&case) {
                continue;
            }
            match file.strip_prefix("trace_").and_then(|rest| rest.split(['_', '2', '4', '5']).next()) {
                Some("teacache") => teacache(report, &case, &json(&path)),
                Some("fbcache") => fbcache(report, &case, &json(&path)),
                Some("pab") => pab_trace(report, &case, &json(&path)),
                // the configuration of the network that made the traces
                Some(other) if !other.starts_with("model") => {
                    report.skip(&case, format!("no policy `{other}` is known"));
                }
                _ if file == "static_schedules" => schedules(report, &case, &json(&path)),
                _ => {}
            }
        }
    }
}

/// Whether a folder holds decisions of caches.
pub fn traces(folder: &std::path::Path) -> bool {
    files(folder, "json").iter().any(|p| name(p).starts_with("trace_"))
}

fn over(timesteps: Vec<f64>, steps: usize, depth: usize) -> Run {
    let part = |axis, branch| Part { axis, branch, flops: 1.0 };
    let own = |axis| [Branch::SelfAttn, Branch::Cross, Branch::Mlp].map(|branch| part(axis, branch));
    let pair = [own(Axis::Spatial), own(Axis::Temporal)].concat();
    Run { steps, timesteps, depth, batch: 2, frames: 4, patches: 4, width: 8, pair }
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().into_iter().flatten().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

fn flags(list: &Value) -> Vec<u8> {
    list.as_array().into_iter().flatten().map(|v| v.as_u64().map_or(9, |v| v as u8)).collect()
}

fn size(entry: &Value, key: &str) -> usize {
    entry[key].as_u64().unwrap_or_else(|| panic!("{key} in {entry}")) as usize
}

/// 1 where all pairs are computed, and whether every recorded signal was asked for; `seen` after each evaluation.
fn replay<P: CachePolicy>(
    policy: &mut P,
    run: &Run,
    signals: &[Option<f64>],
    mut seen: impl FnMut(&P),
) -> (Vec<u8>, bool) {
    policy.begin(run).unwrap_or_else(|e| panic!("{e}"));
    let mut all_asked = true;
    let computed = (0..run.evaluations())
        .map(|i| {
            let at = run.at(i);
            let signal = signals.get(i).copied().flatten();
            let decision = match policy.decide(&at) {
                Decision::Ask(_) => policy.answer(&at, signal),
                decided => {
                    all_asked &= signal.is_none();
                    decided
                }
            };
            seen(policy);
            u8::from(decision == Decision::Compute)
        })
        .collect();
    (computed, all_asked)
}

fn counted(computed: &[u8]) -> String {
    format!("{} of {} computed", computed.iter().filter(|&&c| c == 1).count(), computed.len())
}

fn teacache(report: &mut Report, case: &str, file: &Value) {
    let coefficients: [f64; 5] = numbers(&file["coefficients_high_to_low"]).try_into().unwrap_or([f64::NAN; 5]);
    let log = &file["log"];
    let timesteps = numbers(&log["t"]);
    let run = over(timesteps.clone(), timesteps.len(), 6);
    let optional =
        |key: &str| -> Vec<Option<f64>> { log[key].as_array().into_iter().flatten().map(Value::as_f64).collect() };
    let mut policy = TeaCache::new(file["threshold"].as_f64().unwrap_or(f64::NAN), coefficients);
    let mut asked = Vec::new();
    let (computed, all) = replay(&mut policy, &run, &optional("rel_l1"), |p| asked.push(p.asked()));
    report.exact(case, computed == flags(&log["compute"]) && all, counted(&computed));
    let want = optional("accumulated");
    let same = asked.len() == want.len() && asked.iter().zip(&want).all(|(a, b)| a.is_some() == b.is_some());
    let worst = asked.iter().zip(&want).filter_map(|(a, b)| Some((a.as_ref()? / b.as_ref()? - 1.0).abs()));
    // both in f64; they may differ by the order of the polynomial's terms
    report.error(&format!("{case} sums"), if same { worst.fold(0.0, f64::max) } else { f64::NAN }, 1e-9);
}

fn fbcache(report: &mut Report, case: &str, file: &Value) {
    let (config, log) = (&file["config"], &file["log"]);
    let timesteps = numbers(&log["t"]);
    let run = over(timesteps.clone(), timesteps.len(), 6);
    let order = config["taylorseer_kwargs"]["n_derivatives"].as_u64().unwrap_or(0) as usize;
    let threshold = config["residual_diff_threshold"].as_f64().unwrap_or(f64::NAN);
    let mut policy = FbCache::new(threshold, size(config, "warmup_steps"), order);
    let signals: Vec<Option<f64>> = log["diff"].as_array().into_iter().flatten().map(Value::as_f64).collect();
    let (computed, all) = replay(&mut policy, &run, &signals, |_| {});
    report.exact(case, computed == flags(&log["compute"]) && all, counted(&computed));
}

/// Evaluations at which a branch is reused.
fn reused(policy: &mut dyn CachePolicy, run: &Run, site: Site) -> Vec<u8> {
    let at = |i: usize| {
        policy.decide(&run.at(i));
        u8::from(policy.reuses(site))
    };
    (0..run.evaluations()).map(at).collect()
}

/// Self-attention of both axes, and cross-attention, as listed.
fn branches(policy: &mut dyn CachePolicy, run: &Run, want: [&Value; 3]) -> bool {
    policy.begin(run).unwrap_or_else(|e| panic!("{e}"));
    let sites = [(Axis::Spatial, Branch::SelfAttn), (Axis::Temporal, Branch::SelfAttn), (Axis::Spatial, Branch::Cross)];
    (0..run.depth).all(|depth| {
        sites
            .iter()
            .zip(want)
            .all(|(&(axis, branch), want)| reused(policy, run, Site { depth, axis, branch }) == flags(want))
    })
}

fn pab_trace(report: &mut Report, case: &str, file: &Value) {
    let (config, reuse) = (&file["config"], &file["reuse"]);
    let table = config["mlp_spatial_broadcast_config"].as_object();
    let entries = || table.into_iter().flatten();
    let blocks = entries().next().map_or(Vec::new(), |(_, entry)| numbers(&entry["block"]));
    let mut policy =
        Pab::open_sora([size(config, "spatial_range"), size(config, "temporal_range"), size(config, "cross_range")]);
    let window = numbers(&config["spatial_threshold"]);
    policy.window = (window[0], window[1]);
    policy.mlp = entries().map(|(key, _)| key.parse().unwrap_or(f64::NAN)).collect();
    policy.mlps = blocks.len();
    policy.skip = entries().next().map_or(0, |(_, entry)| size(entry, "skip_count"));
    let plain = ["temporal_threshold", "cross_threshold"].iter().all(|k| config[*k] == config["spatial_threshold"])
        && config["mlp_temporal_broadcast_config"] == config["mlp_spatial_broadcast_config"]
        && entries().all(|(_, entry)| numbers(&entry["block"]) == blocks && size(entry, "skip_count") == policy.skip)
        && blocks.iter().enumerate().all(|(i, &b)| b == i as f64);
    assert!(plain, "{case}: a table of another kind than this test reads");

    let timesteps = numbers(&file["timesteps"]);
    let mlp = |key: &str, i: usize| reuse[key][i].as_str().unwrap_or_default().as_bytes().to_vec();
    let run = over(timesteps, size(config, "steps"), mlp("mlp_spatial", 0).len());
    let mut same = branches(&mut policy, &run, [&reuse["spatial"], &reuse["temporal"], &reuse["cross"]]);
    for (key, axis) in [("mlp_spatial", Axis::Spatial), ("mlp_temporal", Axis::Temporal)] {
        same &= (0..run.depth).all(|depth| {
            let ours = reused(&mut policy, &run, Site { depth, axis, branch: Branch::Mlp });
            ours.iter().enumerate().all(|(i, &ours)| mlp(key, i).get(depth) == Some(&(b'0' + ours)))
        });
    }
    report.exact(case, same, format!("{} evaluations of {} pairs", run.evaluations(), run.depth));
}

/// Schedules that depend on no signal.
fn schedules(report: &mut Report, case: &str, file: &Value) {
    let latte: Vec<f64> = (0..50).map(|i| f64::from(980 - 20 * i)).collect();
    // 13 evaluations to start the multistep method up, then 6 apart
    let start = [894, 891, 891, 888, 888, 885, 885, 882, 882, 879, 879, 876, 876];
    let osp: Vec<f64> = start.into_iter().chain((0..=870).rev().step_by(6)).map(f64::from).collect();
    let sora = &file["pab_open_sora_480p_51f_30"];
    let open_sora = over(numbers(&sora["timesteps_f32"]), 30, 28);
    let (latte, osp) = (over(latte, 50, 28), over(osp, 150, 28));
    for (key, want) in file.as_object().into_iter().flatten() {
        for (entry, want) in want.as_object().into_iter().flatten().filter(|(_, want)| !want.is_number()) {
            let case = format!("{case}/{key}/{entry}");
            let same = match (key.as_str(), entry.as_str()) {
                ("pab", _) | ("pab_open_sora_480p_51f_30", "pab_246" | "pab_357" | "pab_579") => {
                    let digits = entry.rsplit('_').next().unwrap_or_default();
                    let ranges: Vec<usize> = digits.bytes().map(|b| usize::from(b - b'0')).collect();
                    let ranges = [ranges[0], ranges[1], ranges[2]];
                    let (mut policy, run) = match entry.split('_').next() {
                        Some("latte") => (Pab::latte(ranges), &latte),
                        Some("osp") => (Pab::open_sora_plan(ranges), &osp),
                        _ => (Pab::open_sora(ranges), &open_sora),
                    };
                    branches(&mut policy, run, [&want["spatial"], &want["temporal"], &want["cross"]])
                }
                ("pab_open_sora_480p_51f_30", "mlp_reuse_block0") => {
                    let mut policy = Pab::open_sora([2, 4, 6]);
                    policy.begin(&open_sora).unwrap_or_else(|e| panic!("{e}"));
                    let first = Site { depth: 0, axis: Axis::Spatial, branch: Branch::Mlp };
                    reused(&mut policy, &open_sora, first) == flags(want)
                }
                // inputs of the above, and what goes wrong upstream
                ("pab_open_sora_480p_51f_30", _) => continue,
                ("tgate_videosys", _) => {
                    let run = over(vec![500.0; flags(&want["cross_reuse"]).len()], 30, 28);
                    let mut policy = TGate::open_sora();
                    policy.gate = numbers(&want["cross_threshold"])[0] as usize;
                    policy.until = numbers(&want["self_threshold"])[1] as usize;
                    policy.gap = size(want, "self_gap");
                    branches(&mut policy, &run, [&want["spatial_reuse"], &want["temporal_reuse"], &want["cross_reuse"]])
                }
                ("delta_dit_videosys", "models") => want.as_object().into_iter().flatten().all(|(_, m)| delta_dit(m)),
                ("fora_compute" | "taylorseer_compute", _) => {
                    // T<evaluations>_N<interval>[_first<warm-up>]
                    let mut parts = entry.split('_').map(|p| {
                        p.trim_start_matches(char::is_alphabetic).parse().unwrap_or_else(|_| panic!("{case}"))
                    });
                    let (count, interval) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
                    let run = over(vec![500.0; count], count, 28);
                    let computed = match parts.next() {
                        Some(first) => replay(&mut TaylorSeer::new(interval, 1, first), &run, &[], |_| {}).0,
                        None => replay(&mut Fixed::every(interval), &run, &[], |_| {}).0,
                    };
                    computed == flags(want)
                }
                ("delta_dit_videosys", _) => continue, // a remark on the sign
                _ => {
                    report.skip(&case, "no test reads this");
                    continue;
                }
            };
            report.exact(&case, same, "every decision");
        }
    }
    for entry in file["magcache_open_sora"].as_array().into_iter().flatten() {
        let ratios = numbers(&file["magcache_open_sora_ratio"]);
        let threshold = entry["threshold"].as_f64().unwrap_or(f64::NAN);
        let mut policy = MagCache::new(threshold, size(entry, "K"), Some(ratios));
        let (computed, _) = replay(&mut policy, &open_sora, &[], |_| {});
        let case = format!("{case}/magcache/{threshold}");
        report.exact(&case, computed == flags(&entry["compute"]), counted(&computed));
    }
}

fn delta_dit(model: &Value) -> bool {
    let evals: Vec<&Value> = model["reuse_evals"].as_array().into_iter().flatten().collect();
    let blocks = evals.first().map_or(Vec::new(), |e| numbers(&e["blocks_not_run"]));
    // "(first evaluation, last)": [first block, last]
    let window = model["threshold"].as_object().and_then(|t| t.keys().next()).map_or("", String::as_str);
    let window =
        window.trim_matches(['(', ')']).split_once(", ").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let pairs = 0..blocks.len();
    let phase = Phase { pairs: Some(pairs.clone()), window: window.unwrap_or_else(|| panic!("window of {model}")) };
    let mut policy = DeltaDit::new(vec![phase], size(model, "gap"));
    let run = over(vec![500.0; 30], 30, 28);
    policy.begin(&run).unwrap_or_else(|e| panic!("{e}"));
    (0..30).all(|i| {
        let reused = evals.iter().any(|e| size(e, "eval") == i);
        (policy.decide(&run.at(i)) == Decision::Reuse(pairs.clone(), vec![1.0])) == reused
    })
}
