//! STDiT3, sampling and AdaCache against what upstream's code computed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use residua::cache::{AdaCache, CachePolicy, Codebook, Layers, MoReg, Residual, ResidualCache, Run, Settings};
use residua::diffusion::sampler::{self, Denoiser, Plan, Step};
use residua::diffusion::schedule::{RectifiedFlow, Rounding, TimestepTransform};
use residua::gpu::{DType, Gpu};
use residua::models::stdit3::{Grid, Input, STDiT3, Text, embed};
use residua::nn::Tap;
use residua::tensor::Tensor;
use serde_json::Value;

use super::{Array, Measure, Report, arrays, folders, json, max_abs, name};

/// Absolute, on outputs and stages of magnitude up to about 30 (fixture README: 2e-4).
const FORWARD: f64 = 2e-4;
/// Absolute, on final latents (fixture README: 1e-3).
const FINAL: f64 = 1e-3;
/// Relative, on the metrics of a cache (fixture README: 1e-3).
const METRIC: f64 = 1e-3;
/// The same with operands in halves: distances are of residuals, which differ by 6e-4 (measured 8.1e-4 at most).
const METRIC_HALVES: f64 = 2.4e-3;
/// With MoReg they are multiplied by differences of motion scores, which lose digits (measured 1.4e-2 at most).
const MOTION_HALVES: f64 = 4e-2;

/// Operands that a block rounds one after the other: norm, qkv and its weight, q, k, v, attention, projection and
/// its weight, and about as many again for each of cross-attention and the MLP.
const ROUNDINGS: usize = 28;

/// How one forward pass of a model is judged. Gains measured in halves: 0.31 at most.
fn forward_measure(gpu: &Gpu, model: &STDiT3) -> Measure {
    Measure::of(gpu, FORWARD, 2 * model.config().depth * ROUNDINGS, 1.0)
}

pub fn run(report: &mut Report, gpu: &Gpu) {
    let top = super::root().join("stdit3");
    for folder in folders(&top) {
        let is_model = folder.join("config.json").is_file() && folder.join("model.safetensors").is_file();
        if is_model && folder.join("forward.safetensors").is_file() {
            forward(report, gpu, &folder);
        } else if !is_model && !["misc", "sampling", "adacache"].contains(&name(&folder).as_str()) {
            report.skip(&format!("stdit3/{}", name(&folder)), "neither a model nor a list of runs");
        }
    }
    positions(report, &top.join("misc"));
    runs(report, gpu, &top, "sampling");
    runs(report, gpu, &top, "adacache");
}

/// The tensors whose names begin with `case/`.
fn of_case(all: &BTreeMap<String, Array>, case: &str) -> BTreeMap<String, Array> {
    let prefix = format!("{case}/");
    all.iter().filter_map(|(n, a)| Some((n.strip_prefix(&prefix)?.to_string(), a.clone()))).collect()
}

fn doubles(a: &Array) -> Vec<f64> {
    a.data.iter().map(|&v| f64::from(v)).collect()
}

/// Rows of `y` `[B, 1, L, K]` that the mask `[b, L]` keeps; `b` divides `B`.
fn captions(y: &Array, mask: Option<&Array>) -> Vec<Vec<f32>> {
    let (batch, len, k) = (y.shape[0], y.shape[2], y.shape[3]);
    let kept = |b: usize, i: usize| mask.is_none_or(|m| m.data[b % m.shape[0] * len + i] != 0.0);
    (0..batch)
        .map(|b| {
            (0..len).filter(|&i| kept(b, i)).flat_map(|i| y.data[(b * len + i) * k..][..k].iter().copied()).collect()
        })
        .collect()
}

fn forward(report: &mut Report, gpu: &Gpu, folder: &Path) {
    let all = arrays(&folder.join("forward.safetensors"));
    let mut cases: Vec<String> = all.keys().filter_map(|n| Some(n.split_once('/')?.0.to_string())).collect();
    cases.dedup();
    if !cases.iter().any(|c| report.wants(&format!("stdit3/{}/{c}", name(folder)))) {
        return;
    }
    let model = match STDiT3::load(gpu, folder) {
        Ok(model) => model,
        Err(e) => return report.exact(&format!("stdit3/{}", name(folder)), false, e),
    };
    for case in &cases {
        let title = format!("stdit3/{}/{case}", name(folder));
        if !report.wants(&title) {
            continue;
        }
        let mut want = of_case(&all, case);
        if !want.keys().any(|n| !n.starts_with("in.")) {
            // a mask of ones alone: the same as the case that differs from it in having no mask
            let twin = cases.iter().find(|other| same_but_for_the_mask(&want, &of_case(&all, other)));
            let Some(twin) = twin else {
                report.skip(&title, "holds no expected tensor, and no case without a mask has its inputs");
                continue;
            };
            want.insert("output".into(), all[&format!("{twin}/output")].clone());
        }
        let x = &want["in.x"];
        let [b, t, h, w] = [x.shape[0], x.shape[2], x.shape[3], x.shape[4]];
        let mut stages: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut look = |n: &str, v: Tensor| drop(stages.insert(n.to_string(), v));
        let texts = captions(&want["in.y"], want.get("in.mask"));
        let texts: Vec<&[f32]> = texts.iter().map(Vec::as_slice).collect();
        let text = model.text(&texts, &mut Tap::On(&mut look)).unwrap();
        let grid = model.grid([t, h, w], [doubles(&want["in.height"])[0], doubles(&want["in.width"])[0]]);
        let mask: Option<Vec<bool>> = want.get("in.x_mask").map(|m| m.data.iter().map(|&v| v != 0.0).collect());
        let input = Input {
            x: &gpu.upload(&x.data, x.shape.clone()),
            timesteps: &doubles(&want["in.timestep"]),
            fps: &doubles(&want["in.fps"]),
            text: &text,
            grid: &grid,
            frame_mask: mask.as_deref(),
        };
        assert_eq!(input.timesteps.len(), b, "{title}");
        let made = pollster::block_on(model.forward(&input, &mut ResidualCache::off(), &mut Tap::On(&mut look)));
        let output = made.unwrap_or_else(|e| panic!("{title}: {e}"));
        stages.insert("output".into(), output);
        let [frames, patches] = grid.frames_and_patches();
        let measure = forward_measure(gpu, &model);
        let (mut worst, mut at, mut compared) = (0.0f64, String::new(), 0);
        for (stage, expected) in want.iter().filter(|(n, _)| !n.starts_with("in.")) {
            let Some(tensor) = stages.get(stage) else {
                report.skip(&format!("{title}/{stage}"), "the model shows no such stage");
                continue;
            };
            let got = tensor.read_blocking().unwrap_or_else(|e| panic!("{title}/{stage}: {e}"));
            let got = as_upstream(stage, tensor, got, expected, [b, frames, patches]);
            let error = measure.distance(&got, &expected.data, 1.0);
            compared += 1;
            if error.is_nan() || error > worst {
                (worst, at) = (error, stage.clone());
            }
        }
        report.error(&format!("{title} ({compared} stages, worst {at})"), worst, measure.bound());
    }
}

/// Whether `other` has the inputs of `case`, all of whose frames are generated, and an output but no frame mask.
fn same_but_for_the_mask(case: &BTreeMap<String, Array>, other: &BTreeMap<String, Array>) -> bool {
    let inputs = |c: &BTreeMap<String, Array>| -> Vec<(String, Vec<f32>)> {
        c.iter()
            .filter(|(n, _)| n.starts_with("in.") && *n != "in.x_mask")
            .map(|(n, a)| (n.clone(), a.data.clone()))
            .collect()
    };
    let ones = case.get("in.x_mask").is_some_and(|m| m.data.iter().all(|&v| v == 1.0));
    ones && !other.contains_key("in.x_mask") && other.contains_key("output") && inputs(case) == inputs(other)
}

/// Our layouts to upstream's: heads lose their padding, temporal attention is listed patch by patch.
fn as_upstream(stage: &str, t: &Tensor, got: Vec<f32>, want: &Array, [b, frames, patches]: [usize; 3]) -> Vec<f32> {
    if stage.contains("q_") || stage.contains("k_") {
        let (d, padded) = (want.shape[3], t.dims()[3]);
        return got.chunks_exact(padded).flat_map(|row| row[..d].iter().copied()).collect();
    }
    if stage.starts_with("temporal") && stage.ends_with(".attn") {
        let c = want.shape[2];
        let row = |b: usize, s: usize, f: usize| &got[((b * frames + f) * patches + s) * c..][..c];
        return (0..b)
            .flat_map(|b| (0..patches).flat_map(move |s| (0..frames).map(move |f| (b, s, f))))
            .flat_map(|(b, s, f)| row(b, s, f).iter().copied())
            .collect();
    }
    got
}

/// Tables that the host computes.
fn positions(report: &mut Report, misc: &Path) {
    let file = misc.join("positions.safetensors");
    if !file.is_file() || !report.wants("stdit3/misc/positions") {
        return;
    }
    let all = arrays(&file);
    for row in json(&misc.join("positions.json")).as_array().into_iter().flatten() {
        let number = |k: &str| row[k].as_f64().unwrap_or_else(|| panic!("positions.json: {k} in {row}"));
        let case = row["name"].as_str().unwrap_or_default();
        let Some(want) = all.get(&format!("{case}/rows")) else {
            report.skip(&format!("stdit3/misc/positions/{case}"), "no rows under this name");
            continue;
        };
        let c = want.shape[1];
        let (h, w) = (number("grid_h") as usize, number("grid_w") as usize);
        let square = row["input_sq_size"].as_f64().unwrap_or(512.0) as usize;
        let table = embed::positions([h, w], [number("height"), number("width")], square, c);
        let got: Vec<f32> =
            all[&format!("{case}/index")].data.iter().flat_map(|&i| table[i as usize * c..][..c].to_vec()).collect();
        // upstream multiplies in f32: 6e-5 rad at the far end of the largest grid
        report.error(&format!("stdit3/misc/positions/{case}"), max_abs(&got, &want.data), 1e-4);
    }
    if let (Some(t), Some(want)) = (all.get("sinusoid/t"), all.get("sinusoid/emb")) {
        let got: Vec<f32> = t.data.iter().flat_map(|&v| embed::sinusoid(f64::from(v))).collect();
        report.error("stdit3/misc/sinusoid", max_abs(&got, &want.data), 1.5e-4);
    }
    if let (Some(freqs), Some(z), Some(want)) = (all.get("rope/freqs"), all.get("rope/in"), all.get("rope/out")) {
        let (places, d) = (z.shape[2], z.shape[3]);
        let angles = embed::rotary(places, &freqs.data);
        let turned: Vec<f32> = z
            .data
            .chunks_exact(2)
            .enumerate()
            .flat_map(|(i, pair)| {
                let at = ((i * 2 / d) % places * (d / 2) + i % (d / 2)) * 2;
                let (cos, sin) = (angles[at], angles[at + 1]);
                [pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin]
            })
            .collect();
        report.error("stdit3/misc/rope", max_abs(&turned, &want.data), 1e-5);
    }
}

/// The network with everything a run fixes, and what it was given at each step.
struct Net<'a> {
    model: &'a STDiT3,
    text: Text,
    grid: Grid,
    fps: f64,
    given: RefCell<Vec<(Tensor, Option<Vec<bool>>)>>,
}

impl Denoiser for Net<'_> {
    async fn velocity(
        &self,
        z: &Tensor,
        timesteps: &[f64],
        frame_mask: Option<&[bool]>,
        cache: &mut ResidualCache,
    ) -> residua::Result<Tensor> {
        let (text, grid) = (&self.text, &self.grid);
        self.given.borrow_mut().push((z.clone(), frame_mask.map(<[bool]>::to_vec)));
        let input = Input { x: z, timesteps, fps: &[self.fps], text, grid, frame_mask };
        self.model.forward(&input, cache, &mut Tap::Off).await
    }
}

fn runs(report: &mut Report, gpu: &Gpu, top: &Path, family: &str) {
    let list = top.join(family).join(format!("{family}.json"));
    if !list.is_file() {
        return;
    }
    let all = arrays(&list.with_extension("safetensors"));
    for entry in json(&list).as_array().into_iter().flatten() {
        let title = format!("{family}/{}", entry["name"].as_str().unwrap_or_default());
        if report.wants(&title) {
            let tensors = of_case(&all, entry["name"].as_str().unwrap_or_default());
            one_run(report, gpu, top, &title, entry, &tensors);
        }
    }
}

fn one_run(report: &mut Report, gpu: &Gpu, top: &Path, title: &str, entry: &Value, tensors: &BTreeMap<String, Array>) {
    let number = |k: &str| entry[k].as_f64().unwrap_or_else(|| panic!("{title}: {k}"));
    let folder = top.join(entry["model"].as_str().unwrap_or_default());
    let model = match STDiT3::load(gpu, &folder) {
        Ok(model) => model,
        Err(e) => return report.exact(title, false, e),
    };
    let z0 = &tensors["z0"];
    let [n, _, t, h, w] = z0.shape[..] else { panic!("{title}: z0 {:?}", z0.shape) };
    let conditioned = captions(&tensors["y"], tensors.get("mask"));
    let k = model.config().caption_channels;
    let null: Vec<Vec<f32>> = conditioned.iter().map(|c| model.null_caption(c.len() / k)).collect();
    let texts: Vec<&[f32]> = conditioned.iter().chain(&null).map(Vec::as_slice).collect();
    let pixels = [number("height"), number("width")];
    let steps = number("steps") as usize;
    let transform = entry["timestep_transform"].as_bool().unwrap_or(false).then_some(TimestepTransform {
        height: pixels[0] as usize,
        width: pixels[1] as usize,
        num_frames: number("num_frames") as usize,
        rounding: Rounding::Exact,
    });
    let timesteps = RectifiedFlow { steps, transform }.timesteps();
    let theirs: Vec<f32> = doubles(&tensors["timesteps"]).chunks_exact(n).map(|c| c[0] as f32).collect();
    let ours: Vec<f32> = timesteps.iter().map(|&t| t as f32).collect();
    report.error(&format!("{title} timesteps"), max_abs(&ours, &theirs), 1e-3);

    let (text, grid) = (model.text(&texts, &mut Tap::Off).unwrap(), model.grid([t, h, w], pixels));
    let net = Net { model: &model, text, grid, fps: number("fps"), given: RefCell::default() };
    let run = |policy: Option<Box<dyn CachePolicy>>| {
        let mut noise = |step: usize| {
            let drawn = &tensors["noise"];
            let each = drawn.data.len() / drawn.shape[0];
            drawn.data[step * each..][..each].to_vec()
        };
        let mut cache = policy.map_or_else(ResidualCache::off, ResidualCache::new);
        let [frames, patches] = net.grid.frames_and_patches();
        let depth = model.config().depth;
        let batch = 2 * n;
        let (width, pair) = (model.config().hidden_size, model.config().pair([batch, frames, patches]));
        let run = Run { steps, timesteps: timesteps.clone(), depth, batch, frames, patches, width, pair };
        cache.begin(run).unwrap_or_else(|e| panic!("{title}: {e}"));
        let plan = Plan {
            timesteps: vec![timesteps.clone()],
            guidance: number("cfg_scale") as f32,
            frame_mask: tensors.get("frame_mask").map(doubles),
            noise: &mut noise,
        };
        let start = gpu.upload(&z0.data, z0.shape.clone());
        net.given.borrow_mut().clear();
        pollster::block_on(sampler::sample(&net, &start, plan, &mut cache, &mut |_, _| true))
            .unwrap_or_else(|e| panic!("{title}: {e}"))
    };
    let read = |z: &Tensor| z.read_blocking().unwrap_or_else(|e| panic!("{title}: {e}"));

    let caches = entry.get("codebook").is_some();
    let policy = policy(entry);
    if caches && policy.is_none() {
        return report.skip(title, format!("measures {}, which is not known", entry["cache_res"]));
    }
    let policy = policy.filter(|_| caches);
    let (z, taken) = run(policy);
    let given = net.given.take();
    let every = entry["z_in_every"].as_u64().unwrap_or(1) as usize;
    let z_in = &tensors["z_in"];
    let each = z_in.data.len() / z_in.shape[0];
    let kept = given.iter().step_by(every).count();
    assert_eq!(kept, z_in.shape[0], "{title}: latents kept of {} steps", given.len());
    let measure = Measure::of(gpu, FINAL, 2 * model.config().depth * ROUNDINGS, 1.0);
    let worst = given
        .iter()
        .step_by(every)
        .zip(z_in.data.chunks_exact(each))
        .map(|((z, _), want)| measure.distance(&read(z)[..each], want, 1.0));
    let worst = worst.fold(0.0, |a: f64, b| if b.is_nan() { b } else { a.max(b) });
    if let Some(masks) = tensors.get("x_mask") {
        let all: Vec<bool> = masks.data.iter().map(|&m| m != 0.0).collect();
        let same = given.iter().zip(all.chunks_exact(n * t)).all(|((_, mask), want)| match mask {
            Some(mask) => mask[..n * t] == *want && mask[n * t..] == *want,
            None => !want.contains(&false),
        });
        report.exact(
            &format!("{title} frame masks"),
            same && given.len() == masks.shape[0],
            format!("{} steps", given.len()),
        );
    }
    if caches {
        decisions(report, gpu, title, entry, &taken);
        let (plain, _) = run(None);
        let error = measure.distance(&read(&plain), &tensors["final_uncached"].data, 1.0);
        report.error(&format!("{title} uncached"), error, measure.bound());
    }
    report.error(&format!("{title} on the way"), worst, measure.bound());
    let error = measure.distance(&read(&z), &tensors["final"].data, 1.0);
    report.error(&format!("{title} final"), error, measure.bound());
}

/// The policy of a run; `None` for a residual that no policy here measures.
fn policy(entry: &Value) -> Option<Box<dyn CachePolicy>> {
    let list = |v: &Value| -> Vec<usize> {
        v.as_array().into_iter().flatten().filter_map(|x| Some(x.as_u64()? as usize)).collect()
    };
    let pairs = entry["codebook"].as_array().into_iter().flatten();
    let pairs = pairs.map(|p| (p[0].as_f64().unwrap_or(f64::NAN), p[1].as_u64().unwrap_or(0) as usize)).collect();
    let residual = match entry["cache_res"].as_str() {
        Some("t-attn") => Residual::TemporalAttn,
        Some("s-attn") => Residual::SpatialAttn,
        Some("ca-mlp") => Residual::CrossMlp,
        _ => return None,
    };
    let hyp = |i: usize| entry["moreg_hyp"][i].as_f64().unwrap_or(f64::NAN);
    let moreg = entry["apply_moreg"].as_bool().unwrap_or(false).then(|| MoReg {
        strides: list(&entry["moreg_strides"]),
        window: (list(&entry["moreg_steps"])[0], list(&entry["moreg_steps"])[1]),
        centre: hyp(0),
        power: hyp(1) as i32,
        divide: hyp(2),
        gradient: entry["mograd_mul"].as_f64().unwrap_or(f64::NAN),
    });
    let codebook = Codebook::new(pairs).unwrap_or_else(|e| panic!("{e}"));
    let layers = Layers::These(list(&entry["cache_loc"]));
    Some(Box::new(AdaCache::new(Settings { residual, layers, moreg, ..Settings::released(codebook) })))
}

fn decisions(report: &mut Report, gpu: &Gpu, title: &str, entry: &Value, taken: &[Step]) {
    let computed: Vec<u64> = taken.iter().filter(|s| s.computed).map(|s| s.step as u64).collect();
    let want: Vec<u64> = entry["computed_steps"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    report.exact(&format!("{title} steps"), computed == want, format!("computed {computed:?}"));
    let rows: Vec<_> = taken.iter().flat_map(|s| &s.rows).collect();
    let theirs: Vec<&Value> = entry["rows"].as_array().into_iter().flatten().collect();
    let mut worst = if rows.len() == theirs.len() { 0.0f64 } else { f64::NAN };
    let mut same = rows.len() == theirs.len();
    for (ours, want) in rows.iter().zip(&theirs) {
        let kind = serde_json::to_value(ours.site.axis).ok();
        same &= want["step"] == ours.step && want["block"] == ours.site.depth && kind.as_ref() == Some(&want["kind"]);
        same &= want["prev_rate"] == ours.prev_rate && want["new_rate"] == ours.new_rate;
        for (value, key) in [
            (ours.avg_diff, "avg_diff"),
            (ours.motion_score, "motion_score"),
            (ours.motion_factor, "motion_factor"),
            (ours.cache_diff, "cache_diff"),
        ] {
            let want = want[key].as_f64().unwrap_or(f64::NAN);
            let error = (value - want).abs() / want.abs();
            worst = if error.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(error) };
        }
    }
    report.exact(&format!("{title} decisions"), same, format!("{} of {}", rows.len(), theirs.len()));
    let bound = match (gpu.operands(), entry["apply_moreg"].as_bool()) {
        (DType::F32, _) => METRIC,
        (DType::F16, Some(true)) => MOTION_HALVES,
        (DType::F16, _) => METRIC_HALVES,
    };
    report.error(&format!("{title} metrics, relative"), worst, bound);
}
