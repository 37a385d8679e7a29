//! The networks of the Latte family and the schedulers they run on, against what upstream's code computed.
//!
//! A folder is flat: `NAME.config.json`, `NAME.weights.safetensors` and `NAME.io.safetensors` are one model; the other
//! files are told apart by what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use residua::cache::ResidualCache;
use residua::gpu::Gpu;
use residua::models::latte::{Config, Grid, Input, Latte, Text, embed, real_tokens};
use residua::models::open_sora_plan;
use residua::nn::{Seen, Tap, sinusoid};
use residua::tensor::Tensor;
use residua::text::clean::{clean_caption, lower_strip};

use super::text::{equal, rows, text};
use super::{Array, Measure, Report, arrays, files, guided, json, max_abs};

/// Relative to the largest number, on one forward pass (fixture README).
const FORWARD: f64 = 1e-5;
/// Operands that a block rounds one after the other: as those of STDiT3.
const ROUNDINGS: usize = 28;

pub fn run(report: &mut Report, gpu: &Gpu) {
    folder(report, gpu, "latte", Config::parse);
}

pub fn open_sora_plan(report: &mut Report, gpu: &Gpu) {
    folder(report, gpu, "osp", |path| open_sora_plan::Config::parse(path).map(|c| c.network()));
}

type ReadConfig = fn(&Path) -> residua::Result<Config>;

/// The model files of a name, where they are those of a text-to-video Latte.
pub struct Models<'a> {
    dir: &'a Path,
    read: ReadConfig,
}

impl Models<'_> {
    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{name}.{kind}"))
    }

    /// What a config says it is, if it is not one of these networks.
    fn stranger(&self, name: &str) -> Option<String> {
        let config = json(&self.file(name, "config.json"));
        match config["_class_name"].as_str() {
            Some("LatteTransformer3DModel" | "LatteT2V") => None,
            Some(class) => Some(format!("a {class}, which is not implemented")),
            None if config["num_classes"].is_u64() => {
                Some("a class-conditional Latte, which is not implemented".into())
            }
            None => Some("a config without a class name".into()),
        }
    }

    pub fn load(&self, gpu: &Gpu, name: &str) -> residua::Result<Latte> {
        let config = (self.read)(&self.file(name, "config.json"))?;
        Latte::load_as(gpu, &self.file(name, "weights.safetensors"), config)
    }
}

fn folder(report: &mut Report, gpu: &Gpu, family: &str, read: ReadConfig) {
    let dir = super::root().join(family);
    let models = Models { dir: &dir, read };
    let all = [files(&dir, "json"), files(&dir, "safetensors")].concat();
    let names: BTreeSet<String> =
        all.iter().map(|p| p.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
    for file in &names {
        let path = dir.join(file);
        let (stem, _) = file.split_once(".safetensors").or_else(|| file.split_once(".json")).unwrap_or((file, ""));
        let title = format!("{family}/{stem}");
        if !report.wants(&title) {
            continue;
        }
        if let Some(name) = stem.strip_suffix(".io") {
            match models.stranger(name) {
                None => forward(report, gpu, &models, &title, name, &arrays(&path)),
                Some(why) => report.skip(&title, why),
            }
            continue;
        }
        let part =
            |end: &str| stem.strip_suffix(end).is_some_and(|name| names.contains(&format!("{name}.config.json")));
        if part(".weights") || part(".config") {
            continue; // read with what uses them
        }
        match stem {
            "text_clean" => rows(report, &title, &json(&path), |row| {
                equal("clean", text(row, "clean"), &clean_caption(text(row, "raw")))?;
                equal("plain", text(row, "plain"), &lower_strip(text(row, "raw")))
            }),
            // the tests of caches read these
            _ if stem == "static_schedules" || stem.starts_with("trace_") => {}
            _ if file.ends_with(".json") => report.skip(&title, "a list that no test reads"),
            _ => tensors(report, gpu, &models, &title, stem, &names, &path),
        }
    }
}

/// A file of tensors, by what it holds.
fn tensors(
    report: &mut Report,
    gpu: &Gpu,
    models: &Models<'_>,
    title: &str,
    stem: &str,
    names: &BTreeSet<String>,
    path: &Path,
) {
    let all = arrays(path);
    let has = |list: &[&str]| list.iter().all(|n| all.contains_key(*n));
    if names.contains(&format!("{stem}.json")) {
        report.skip(title, "a run under a cache policy");
    } else if has(&["timesteps", "latents", "model_output"]) {
        guided::steps(report, gpu, title, &all);
    } else if has(&["latents0", "prompt_embeds", "negative_prompt_embeds", "timesteps", "latents"]) {
        guided::run(report, gpu, models, title, &all, &metadata(path));
    } else if all.keys().any(|n| n.ends_with(".mask")) && all.keys().any(|n| n.ends_with(".emb")) {
        padding(report, title, &all);
    } else {
        report.skip(title, "no test reads these tensors");
    }
}

fn metadata(path: &Path) -> BTreeMap<String, String> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (_, head) =
        safetensors::SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    head.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
}

pub fn scale_of(want: &[f32]) -> f64 {
    want.iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs())).max(f64::MIN_POSITIVE)
}

/// How a model is judged. Gains measured in halves: 0.18 at most on one pass, 0.43 on runs.
pub fn measure(gpu: &Gpu, model: &Latte, stated: f64) -> Measure {
    Measure::of(gpu, stated, 2 * model.config().num_layers * ROUNDINGS, 1.0)
}

pub fn read(tensor: &Tensor, title: &str) -> Vec<f32> {
    tensor.read_blocking().unwrap_or_else(|e| panic!("{title}: {e}"))
}

/// Tokens `[B, L, K]` that the mask `[B, L]` keeps, as if a mask of zeros alone were none.
pub fn captions(y: &Array, mask: Option<&Array>) -> Vec<Vec<f32>> {
    let [_, len, k] = y.shape[..] else { panic!("captions of {:?}", y.shape) };
    y.data
        .chunks_exact(len * k)
        .enumerate()
        .map(|(b, own)| {
            let flags = mask.map(|m| &m.data[b * len..][..len]).filter(|m| m.iter().any(|&v| v != 0.0));
            let kept = |i: usize| flags.is_none_or(|m| m[i] != 0.0);
            own.chunks_exact(k).enumerate().filter(|(i, _)| kept(*i)).flat_map(|(_, t)| t.iter().copied()).collect()
        })
        .collect()
}

/// The stage of our network that upstream's module shows.
fn stage_of(module: &str) -> Option<String> {
    let fixed = match module {
        "adaln_single.emb.out" | "adaln_single.out1" => "t",
        "adaln_single.out0" => "t_mlp",
        "caption_projection.out" => "y_tokens",
        "pos_embed.out" => "x_in",
        "norm_out.out" => "final_norm",
        "proj_out.in" => "final_in",
        "proj_out.out" => "final_tokens",
        _ => "",
    };
    if !fixed.is_empty() {
        return Some(fixed.into());
    }
    let (axis, rest) = match module.strip_prefix("temporal_transformer_blocks.") {
        Some(rest) => ("temporal", rest),
        None => ("spatial", module.strip_prefix("transformer_blocks.")?),
    };
    let (depth, part) = rest.split_once('.')?;
    let part = match part {
        "out" => "",
        "attn1.in" => ".attn_in",
        "attn1.out" => ".attn",
        "attn2.out" => ".cross_attn",
        "ff.in" => ".mlp_in",
        "ff.out" => ".mlp",
        _ => return None,
    };
    Some(format!("{axis}_{depth}{part}"))
}

/// One pass of a model with everything a file fixes.
struct Pass<'a> {
    gpu: &'a Gpu,
    model: &'a Latte,
    timesteps: Vec<f64>,
}

impl Pass<'_> {
    fn forward(
        &self,
        x: &Array,
        text: &Text,
        grid: &Grid,
        seen: Option<&Seen>,
        through_time: bool,
        tap: &mut Tap<'_>,
    ) -> Tensor {
        let x = self.gpu.upload(&x.data, x.shape.clone());
        let input = Input { x: &x, timesteps: &self.timesteps, text, grid, seen, through_time };
        pollster::block_on(self.model.forward(&input, &mut ResidualCache::off(), tap)).unwrap_or_else(|e| panic!("{e}"))
    }
}

fn forward(
    report: &mut Report,
    gpu: &Gpu,
    models: &Models<'_>,
    title: &str,
    name: &str,
    all: &BTreeMap<String, Array>,
) {
    let model = match models.load(gpu, name) {
        Ok(model) => model,
        Err(e) => return report.exact(title, false, e),
    };
    let x = &all["hidden_states"];
    let [b, _, t, h, w] = x.shape[..] else { panic!("{title}: hidden_states {:?}", x.shape) };
    let pass = Pass { gpu, model: &model, timesteps: all["timestep"].data.iter().map(|&v| f64::from(v)).collect() };
    let mut stages: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut look = |n: &str, v: Tensor| drop(stages.insert(n.to_string(), v));
    let words = |mask: Option<&Array>, tap: &mut Tap<'_>| {
        let texts = captions(&all["encoder_hidden_states"], mask);
        model.text(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>(), tap)
    };
    let told = words(None, &mut Tap::On(&mut look));
    let grid = model.grid([t, h, w]);
    let [frames, patches] = grid.frames_and_patches();
    let output = pass.forward(x, &told, &grid, None, true, &mut Tap::On(&mut look));
    stages.insert("sample".into(), output.clone());
    stages.insert("sample_f64".into(), output);
    if all.contains_key("sample_no_temporal") {
        let flat = pass.forward(x, &told, &grid, None, false, &mut Tap::Off);
        stages.insert("sample_no_temporal".into(), flat);
    }
    if all.contains_key("sample_one_frame") {
        let first = x.data.chunks_exact(t * h * w).flat_map(|c| c[..h * w].iter().copied()).collect();
        let first = Array { shape: vec![b, x.shape[1], 1, h, w], data: first };
        let one = pass.forward(&first, &told, &model.grid([1, h, w]), None, true, &mut Tap::Off);
        stages.insert("sample_one_frame".into(), one);
    }
    if let (Some(mask), true) = (all.get("encoder_attention_mask"), all.contains_key("sample_text_masked")) {
        let some = words(Some(mask), &mut Tap::Off);
        stages.insert("sample_text_masked".into(), pass.forward(x, &some, &grid, None, true, &mut Tap::Off));
    }
    if let (Some(mask), true) = (all.get("attention_mask"), all.contains_key("sample_latent_masked")) {
        let seen = grid.seen(gpu, &mask.data);
        let masked = pass.forward(x, &told, &grid, Some(&seen), true, &mut Tap::Off);
        stages.insert("sample_latent_masked".into(), masked);
    }

    let inputs = ["hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "attention_mask"];
    let measure = measure(gpu, &model, FORWARD);
    let (mut worst, mut at, mut compared) = (0.0f64, String::new(), 0);
    for (module, want) in all.iter().filter(|(n, _)| !inputs.contains(&n.as_str())) {
        if table(report, &format!("{title}/{module}"), module, want, model.config(), &pass.timesteps) {
            continue;
        }
        let ours = if module.starts_with("sample") { Some(module.clone()) } else { stage_of(module) };
        let Some(tensor) = ours.and_then(|stage| stages.get(&stage)) else {
            report.skip(&format!("{title}/{module}"), "the model shows no such stage");
            continue;
        };
        let mut got = read(tensor, title);
        if module.starts_with("temporal") {
            got = by_patch(&got, [b, frames, patches]);
        }
        let error = measure.distance(&got, &want.data, scale_of(&want.data));
        compared += 1;
        if error.is_nan() || error > worst {
            (worst, at) = (error, module.clone());
        }
    }
    report.error(&format!("{title} ({compared} stages, worst {at})"), worst, measure.bound());
}

/// `[B, T·S, C]` to upstream's `[B·S, T, C]`.
fn by_patch(x: &[f32], [b, frames, patches]: [usize; 3]) -> Vec<f32> {
    let c = x.len() / (b * frames * patches);
    let row = |b: usize, s: usize, f: usize| &x[((b * frames + f) * patches + s) * c..][..c];
    (0..b)
        .flat_map(|b| (0..patches).flat_map(move |s| (0..frames).map(move |f| (b, s, f))))
        .flat_map(|(b, s, f)| row(b, s, f).iter().copied())
        .collect()
}

/// Tables that the host computes; whether `module` is one.
fn table(report: &mut Report, title: &str, module: &str, want: &Array, config: &Config, timesteps: &[f64]) -> bool {
    let c = config.width();
    let got = match module {
        "time_proj.out" => timesteps.iter().flat_map(|&t| sinusoid(t)).collect(),
        "temp_pos_embed" => embed::frame_positions(config.video_length, config.frames.scale, c),
        // the first rows of the native grid
        "pos_embed_table" | "pos_embed_table_head" => {
            let side = config.sample_size / config.patch_size;
            let mut rows = embed::positions([side; 2], config.sample_size, config.patch_size, c);
            rows.truncate(want.data.len());
            rows
        }
        _ => return false,
    };
    // upstream makes angles of up to 1000 in f32
    let bound = if module == "time_proj.out" { 1.5e-4 } else { 1e-6 };
    report.error(title, max_abs(&got, &want.data), bound);
    true
}

/// What is left of the padding of prompts.
fn padding(report: &mut Report, title: &str, all: &BTreeMap<String, Array>) {
    for case in all.keys().filter_map(|n| n.strip_suffix(".emb")) {
        let (emb, mask) = (&all[&format!("{case}.emb")], &all[&format!("{case}.mask")]);
        let (out, kept) = real_tokens(&emb.data, &mask.data, mask.shape[0]);
        let same = out == all[&format!("{case}.out")].data && all[&format!("{case}.keep")].data == [kept as f32];
        report.exact(&format!("{title}/{case}"), same, format!("{kept} of {} tokens", mask.shape[1]));
    }
}
