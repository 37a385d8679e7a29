//! Whole runs of the shipped model, with and without each cache: speed next to quality.
//!
//! `cargo bench --bench denoise [-- --model DIR] [--prompt TEXT] [--steps N] [--repeats N] [--cache POLICY]… [--json]`
//!
//! One run of each kind warms pipelines and pools up and is not counted; medians of the others are reported with
//! their range. Quality is of the frames against the uncached run of the same seed.

use std::path::PathBuf;
use std::time::Instant;

use residua::cache::CacheSpec;
use residua::gpu::{Gpu, Prefs};
use residua::media::Frames;
use residua::media::quality::{psnr, ssim};
use residua::pipeline::{OpenSora, Request};

const POLICIES: [&str; 4] = ["off", "adacache:preset=slow", "adacache:preset=fast", "adacache:preset=fast,moreg=on"];

struct Args {
    model: PathBuf,
    prompt: String,
    /// After the uncached run; none given: those of `POLICIES`.
    policies: Vec<String>,
    steps: Option<usize>,
    repeats: usize,
    json: bool,
}

fn args() -> Args {
    let mut args = Args {
        model: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights/toybox"),
        prompt: "a red circle moving right on a blue background".into(),
        policies: vec!["off".into()],
        steps: None,
        repeats: 5,
        json: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        match word.as_str() {
            "--model" => args.model = value().into(),
            "--prompt" => args.prompt = value(),
            "--cache" => args.policies.push(value()),
            "--steps" => args.steps = Some(value().parse().expect("a number of steps")),
            "--repeats" => args.repeats = value().parse().expect("a number of repeats"),
            "--json" => args.json = true,
            _ => {} // cargo's own
        }
    }
    if args.policies.len() == 1 {
        args.policies = POLICIES.map(String::from).to_vec();
    }
    args
}

/// Seconds, sorted: median and range.
fn spread(mut seconds: Vec<f64>) -> [f64; 3] {
    seconds.sort_by(f64::total_cmp);
    [seconds[seconds.len() / 2], seconds[0], seconds[seconds.len() - 1]]
}

fn main() -> residua::Result<()> {
    let args = args();
    let prefs = Prefs { device: std::env::var("RESIDUA_DEVICE").ok(), class: None, ..Prefs::default() };
    pollster::block_on(run(&args, &prefs))
}

async fn run(args: &Args, prefs: &Prefs) -> residua::Result<()> {
    let gpu = Gpu::open(prefs).await?;
    let info = gpu.info().clone();
    let model = OpenSora::open(&gpu, &args.model)?;
    let request = |policy: &str| -> residua::Result<Request> {
        let cache: CacheSpec = policy.parse()?;
        Ok(Request { steps: args.steps, cache, ..Request::new(args.prompt.clone()).seed(42) })
    };

    let start = Instant::now();
    let plan = model.plan(&request("off")?)?;
    let caption = model.encode(&plan).await?;
    let text = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let net = model.load_transformer()?;
    gpu.wait()?;
    let load = start.elapsed().as_secs_f64();

    let mut reference: Option<Frames> = None;
    let mut decode = Vec::new();
    let mut lines = Vec::new();
    for policy in &args.policies {
        let plan = model.plan(&request(policy)?)?;
        let mut seconds = Vec::new();
        let mut last = None;
        for repeat in 0..=args.repeats {
            let start = Instant::now();
            let sampled = model.sample(&net, &caption, &plan, &mut |_| true).await?;
            if repeat > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
            last = Some(sampled);
        }
        let Some(sampled) = last else { continue };
        let start = Instant::now();
        let frames = model.decode(&sampled.latents, plan.frames, plan.fps, &mut |_, _| true).await?;
        decode.push(start.elapsed().as_secs_f64());
        let computed = sampled.steps.iter().filter(|s| s.computed).count();
        let work = sampled.steps.iter().map(|s| s.work).sum::<f64>() / sampled.steps.len().max(1) as f64;
        let mean = |computed: bool| {
            let of: Vec<f64> =
                sampled.steps.iter().filter(|s| s.computed == computed).map(|s| s.seconds.as_secs_f64()).collect();
            if of.is_empty() { f64::NAN } else { of.iter().sum::<f64>() / of.len() as f64 }
        };
        let against = reference.get_or_insert_with(|| frames.clone());
        lines.push(serde_json::json!({
            "policy": policy,
            "denoise_s": spread(seconds),
            "steps": sampled.steps.len(),
            "computed": computed,
            "work": work,
            "computed_step_s": mean(true),
            "reused_step_s": mean(false),
            "cache_bytes": sampled.cache_bytes,
            "psnr_db": psnr(&frames.rgb, &against.rgb),
            "ssim": ssim(&frames, against),
        }));
    }
    // the first decode compiles its pipelines
    let decode = spread(decode.split_off(1));
    let peak = gpu.memory().1;
    if args.json {
        let all = serde_json::json!({
            "adapter": info.name, "driver": info.driver_info, "kernels": format!("{:?}", gpu.class()),
            "model": args.model.file_name().map(|n| n.to_string_lossy()), "size": [plan.width, plan.height, plan.frames],
            "text_s": text, "load_s": load, "decode_s": decode, "peak_bytes": peak, "runs": lines,
        });
        println!("{all:#}");
        return Ok(());
    }
    println!("{} ({}), kernels {:?}", info.name, info.driver_info, gpu.class());
    println!(
        "{}x{} x {} frames, {} steps, cfg {}",
        plan.width,
        plan.height,
        plan.frames,
        plan.timesteps.len(),
        plan.guidance
    );
    println!(
        "text {text:.2} s, load {load:.2} s, decode {:.2} s, peak {:.0} MiB\n",
        decode[0],
        peak as f64 / (1 << 20) as f64
    );
    println!(
        "| cache | steps computed | work | memory, KiB | denoise, s (range) | speedup | PSNR, dB | SSIM |\n|---|---|---|---|---|---|---|---|"
    );
    let base = lines[0]["denoise_s"][0].as_f64().unwrap_or(f64::NAN);
    for line in &lines {
        let s = |i: usize| line["denoise_s"][i].as_f64().unwrap_or(f64::NAN);
        let quality = match line["psnr_db"].as_f64() {
            Some(db) => format!("{db:.1} | {:.3}", line["ssim"].as_f64().unwrap_or(f64::NAN)),
            None => "– | –".into(), // equal frames: infinite
        };
        println!(
            "| `{}` | {} of {} | {:.0} % | {} | {:.2} ({:.2}–{:.2}) | {:.2}x | {quality} |",
            line["policy"].as_str().unwrap_or_default(),
            line["computed"],
            line["steps"],
            100.0 * line["work"].as_f64().unwrap_or(f64::NAN),
            line["cache_bytes"].as_u64().unwrap_or(0) / 1024,
            s(0),
            s(1),
            s(2),
            base / s(0)
        );
    }
    Ok(())
}
