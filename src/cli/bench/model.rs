//! `residua bench model`: whole networks at their true sizes.

use std::time::Instant;

use residua::cache::{CachePolicy, CacheSpec};
use residua::error::{Error, Result};
use residua::gpu::Gpu;
use serde_json::{Value, json};

use super::args::{BenchConfig, BenchModel, BenchPart, BenchSize};
use super::ceilings::Ceilings;
use super::measure::{self, Budget};
use super::networks::{Decoder, Every, Net, Sizes, text};
use super::table::time;
use super::{joined, place};
use crate::cli::exit::{Failure, Outcome, code};
use crate::cli::screen::{Screen, size};

/// Most pairs of steps, one computed and one skipped.
const MOST_PAIRS: usize = 100;

/// Runs the verb.
///
/// # Errors
/// No adapter, a lost device, or results that are not finite.
pub fn run(args: &BenchModel, screen: &Screen) -> Outcome {
    pollster::block_on(bench(args, screen))
}

async fn bench(args: &BenchModel, screen: &Screen) -> Outcome {
    let gpu = Gpu::open(&args.device.prefs()).await?;
    let sizes = Sizes::of(args.config)?;
    let tiny = args.config == BenchConfig::Tiny;
    let seconds = args.seconds.unwrap_or(if tiny { 0.2 } else { 5.0 });
    let place = place(&gpu);
    let ceilings = if args.dry_run {
        None
    } else {
        let size = if tiny { BenchSize::Small } else { BenchSize::Full };
        Some(Ceilings::measure(&gpu, size, &Budget::new(&gpu, seconds.min(0.5)))?)
    };
    gpu.trim();
    let ([frames, patches], [count, height, width]) = (sizes.tokens(), sizes.video);
    let name = clap::ValueEnum::to_possible_value(&args.config).map_or_else(String::new, |v| v.get_name().into());
    let size = if tiny { "small" } else { "full" };
    let head = json!({
        "config": name, "size": size, "weights": "random", "frames": count, "height": height, "width": width,
        "tokens": 2 * frames * patches, "caption": sizes.caption,
    });
    if let Some(c) = &ceilings {
        screen.event("ceilings", joined(joined(json!({"size": size}), c.fields()), place.clone()));
    }
    let told = |fields: Value| joined(joined(fields, head.clone()), place.clone());
    if !screen.json {
        screen.data(format!(
            "{name}: {count} frames of {width}x{height}, {} tokens, random weights, on {}",
            2 * frames * patches,
            gpu.info().name
        ));
        if let Some(c) = &ceilings {
            let (math, memory) = (c.math() / 1e12, c.memory() / 1e9);
            screen.data(format!("ceilings: {math:.3} TFLOP/s, {memory:.1} GB/s"));
        }
    }
    let steps = args.steps.map_or(if tiny { 6 } else { 30 }, usize::from);
    let job = Job { gpu: &gpu, sizes: &sizes, steps, seconds, args, ceilings: ceilings.as_ref() };
    let mut wrong = Vec::new();
    for part in &args.parts {
        match job.part(*part).await {
            Ok(lines) => {
                for line in lines {
                    if line.finite == Some(false) {
                        wrong.push(line.name);
                    }
                    screen.event("model", told(line.fields(&name)));
                    if !screen.json {
                        screen.data(line.text());
                    }
                }
            }
            Err(Bench::LeftOut(what, limit)) => {
                let case = format!("model.{name}.{what}");
                screen.event("model", told(json!({"case": case, "part": what, "left_out": limit.to_string()})));
                screen.say(format!("left out: {what}: {limit}"));
            }
            Err(Bench::Failed(error)) => return Err(error.into()),
        }
        gpu.trim();
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let message = format!("not all numbers are finite: {}", wrong.join(", "));
    let hint = Some("please report this with the output of `residua devices`; --dtype f32 may work".into());
    Err(Failure { exit: code::BUG, code: "model.not_finite", message, hint })
}

/// Why a part has no numbers.
enum Bench {
    /// It does not fit this adapter.
    LeftOut(&'static str, Error),
    Failed(Error),
}

impl From<Error> for Bench {
    fn from(error: Error) -> Self {
        Bench::Failed(error)
    }
}

/// What was measured of one thing.
#[derive(Default)]
struct Line {
    name: &'static str,
    shape: Vec<usize>,
    /// Each time it was done, sorted.
    seconds: Vec<f64>,
    /// Work of one time: in products, or bytes where those decide.
    flops: f64,
    bytes: f64,
    /// Share of what the adapter reached in the same run, at one or the other.
    share: Option<f64>,
    /// Bytes of tensors at the most, as rehearsed and as measured; and of all buffers.
    rehearsed: u64,
    peak: u64,
    held: u64,
    finite: Option<bool>,
    more: Value,
}

impl Line {
    fn timed(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self { seconds, ..Self::default() }
    }

    fn at(&self, share: f64) -> Option<f64> {
        self.seconds.get((self.seconds.len().saturating_sub(1) as f64 * share).round() as usize).copied()
    }

    fn median(&self) -> Option<f64> {
        self.at(0.5)
    }

    fn fields(&self, config: &str) -> Value {
        let seconds = self.median();
        let known = |bytes: u64| (bytes > 0).then_some(bytes);
        let each = |work: f64| seconds.filter(|_| work > 0.0).map(|s| work / s / 1e9);
        let fields = json!({
            "case": format!("model.{config}.{}", self.name), "part": self.name, "shape": self.shape,
            "seconds": seconds, "seconds_p10": self.at(0.1), "seconds_p90": self.at(0.9),
            "samples": self.seconds.len(), "clock": "host",
            "bytes": self.bytes, "flops": self.flops, "gb_s": each(self.bytes), "gflop_s": each(self.flops),
            "bound_by": if self.flops > 0.0 { "math" } else { "memory" }, "share_of_ceiling": self.share,
            "peak_bytes_rehearsed": known(self.rehearsed), "peak_bytes": known(self.peak), "held_bytes": known(self.held),
            "finite": self.finite,
        });
        if self.more.is_null() { fields } else { joined(fields, self.more.clone()) }
    }

    fn text(&self) -> String {
        let share = self.share.map_or_else(String::new, |share| format!(" ({:.0} % of the ceiling)", 100.0 * share));
        let mut words = vec![format!("{:<14}", self.name)];
        words.extend(self.median().map(|s| format!("{:>9}", time(s))));
        match self.median() {
            Some(s) if self.flops > 0.0 => words.push(format!("{:.3} TFLOP/s{share}", self.flops / s / 1e12)),
            Some(s) if self.bytes > 0.0 => words.push(format!("{:.2} GB/s{share}", self.bytes / s / 1e9)),
            None => words.push(format!("{:.3} TFLOP", self.flops / 1e12)),
            _ => {}
        }
        let peak = if self.peak > 0 { self.peak } else { self.rehearsed };
        if peak > 0 {
            words.push(format!("tensors {} at the most", size(peak)));
        }
        if self.held > 0 {
            words.push(format!("buffers {}", size(self.held)));
        }
        words.extend(self.finite.map(|f| if f { "all finite".into() } else { "NOT FINITE".into() }));
        words.join("  ")
    }
}

/// What a rehearsal says of a part.
#[derive(Clone, Copy)]
struct Needs {
    flops: f64,
    peak: u64,
    held: u64,
}

struct Job<'a> {
    gpu: &'a Gpu,
    sizes: &'a Sizes,
    steps: usize,
    seconds: f64,
    args: &'a BenchModel,
    ceilings: Option<&'a Ceilings>,
}

impl Job<'_> {
    async fn part(&self, part: BenchPart) -> std::result::Result<Vec<Line>, Bench> {
        let name = match part {
            BenchPart::Step => "step",
            BenchPart::Run => "run",
            BenchPart::Decode => "decode",
            BenchPart::Text => "text",
        };
        let needs = match self.rehearse(part).await {
            Ok(needs) => needs,
            Err(limit @ Error::Limit { .. }) => return Err(Bench::LeftOut(name, limit)),
            Err(other) => return Err(Bench::Failed(other)),
        };
        if self.args.dry_run {
            let flops = needs.flops;
            return Ok(vec![Line { name, flops, rehearsed: needs.peak, held: needs.held, ..Line::default() }]);
        }
        self.gpu.wait()?;
        self.gpu.trim();
        self.gpu.reset_peak();
        Ok(match part {
            BenchPart::Step => self.step(needs).await?,
            BenchPart::Run => self.whole_run(needs).await?,
            BenchPart::Decode => {
                let decoder = Decoder::make(self.gpu, self.sizes)?;
                let start = Instant::now();
                let finite = decoder.decode().await?;
                vec![self.line("decode", vec![start.elapsed().as_secs_f64()], needs, Some(finite))]
            }
            BenchPart::Text => {
                let start = Instant::now();
                let finite = text(self.gpu, self.sizes).await?;
                let line = self.line("text", vec![start.elapsed().as_secs_f64()], needs, Some(finite));
                // from a file, weights would be read and uploaded in that time
                vec![Line { more: json!({"weights_made_in_time": true}), ..line }]
            }
        })
    }

    /// The part on a device that runs nothing.
    async fn rehearse(&self, part: BenchPart) -> Result<Needs> {
        let gpu = self.gpu.rehearsal();
        let made;
        match part {
            BenchPart::Step => {
                let net = Net::make(&gpu, self.sizes)?;
                gpu.take_flops();
                net.run(2, Some(Box::new(Every::of(2)))).await?;
                made = gpu.take_flops();
            }
            BenchPart::Run => {
                let net = Net::make(&gpu, self.sizes)?;
                gpu.take_flops();
                net.run(self.steps, self.policy()).await?;
                made = gpu.take_flops();
            }
            BenchPart::Decode => {
                let decoder = Decoder::make(&gpu, self.sizes)?;
                gpu.take_flops();
                decoder.decode().await?;
                made = gpu.take_flops();
            }
            BenchPart::Text => {
                text(&gpu, self.sizes).await?;
                made = gpu.take_flops();
            }
        }
        gpu.submit()?;
        Ok(Needs { flops: made, peak: gpu.memory().1, held: gpu.held().1 })
    }

    /// Samples, frames, patches, width, depth, words.
    fn shape(&self) -> Vec<usize> {
        let ([frames, patches], net) = (self.sizes.tokens(), &self.sizes.transformer);
        vec![2, frames, patches, net.hidden_size, net.depth, self.sizes.caption]
    }

    fn policy(&self) -> Option<Box<dyn CachePolicy>> {
        match &self.args.cache {
            Some(spec) => CacheSpec::build(spec, self.steps),
            None => Some(Box::new(Every::of(self.args.every.into()))),
        }
    }

    /// A guided step that is computed, one that is skipped, and the metric that a cache decides by.
    async fn step(&self, needs: Needs) -> Result<Vec<Line>> {
        let net = Net::make(self.gpu, self.sizes)?;
        // the first may compile
        net.run(2, Some(Box::new(Every::of(2)))).await?;
        let (start, mut computed, mut skipped, mut finite) = (Instant::now(), Vec::new(), Vec::new(), true);
        while computed.is_empty() || (start.elapsed().as_secs_f64() < self.seconds && computed.len() < MOST_PAIRS) {
            let (fine, steps) = net.run(2, Some(Box::new(Every::of(2)))).await?;
            finite &= fine;
            for step in steps {
                let times = if step.computed { &mut computed } else { &mut skipped };
                times.push(step.seconds.as_secs_f64());
            }
        }
        let stream = net.stream_bytes(self.sizes);
        let computed = self.line("step", computed, needs, Some(finite));
        // the stream and what was added to it are read, the sum is written
        let skipped = self.moving("step.skipped", skipped, 3.0 * stream);
        let metric = net.metric(self.gpu, self.sizes)?;
        let times = measure::repeat(self.gpu, &Budget::new(self.gpu, self.seconds.min(1.0)), |_| drop(metric()))?;
        Ok(vec![computed, skipped, self.moving("metric", vec![times.median()], 2.0 * stream)])
    }

    async fn whole_run(&self, needs: Needs) -> Result<Vec<Line>> {
        let net = Net::make(self.gpu, self.sizes)?;
        net.run(1, None).await?;
        let policy = self.policy();
        let cache = policy.as_ref().map_or_else(|| "off".into(), |p| p.describe());
        let (finite, steps) = net.run(self.steps, policy).await?;
        let seconds = steps.iter().map(|s| s.seconds.as_secs_f64()).sum();
        let computed = steps.iter().filter(|s| s.computed).count();
        let mut line = self.line("run", vec![seconds], needs, Some(finite));
        if self.args.cache.is_some() {
            // what a policy computes depends on what it sees: nothing, when rehearsed
            let alike = self.rehearse(BenchPart::Step).await?.flops;
            line.flops = alike * steps.iter().map(|s| s.work).sum::<f64>();
            line.share = self.ceilings.map(|c| line.flops / seconds / c.math());
        }
        line.more = json!({"steps": steps.len(), "computed": computed, "cache": cache});
        Ok(vec![line])
    }

    /// Something whose products decide.
    fn line(&self, name: &'static str, seconds: Vec<f64>, needs: Needs, finite: Option<bool>) -> Line {
        let (flops, rehearsed) = (needs.flops, needs.peak);
        let (peak, held) = (self.gpu.memory().1, self.gpu.held().1);
        let mut line = Line { name, shape: self.shape(), flops, rehearsed, peak, held, finite, ..Line::timed(seconds) };
        line.share = line.median().zip(self.ceilings).map(|(s, c)| flops / s / c.math());
        line
    }

    /// Something that only moves numbers.
    fn moving(&self, name: &'static str, seconds: Vec<f64>, bytes: f64) -> Line {
        let mut line = Line { name, shape: self.shape(), bytes, ..Line::timed(seconds) };
        line.share = line.median().zip(self.ceilings).map(|(s, c)| bytes / s / c.memory());
        line
    }
}
