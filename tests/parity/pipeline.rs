//! Whole runs of shipped models against an independent implementation (`training/`) on the same weights: a folder
//! with `reference.json` and `reference.safetensors` is about the model of that name in `weights/`.

use std::path::{Path, PathBuf};

use residua::gpu::Gpu;
use residua::media::quality::psnr;
use residua::pipeline::{Event, OpenSora, Request};
use serde_json::Value;

use super::{Report, arrays, folders, json, max_abs, name};

/// Least PSNR of the frames' bytes, in dB: one level of difference in every byte would be 48.
const FRAMES: f64 = 45.0;

pub fn run(report: &mut Report, gpu: &Gpu) {
    for folder in folders(&super::root()) {
        if folder.join("reference.json").is_file() {
            model(report, gpu, &folder);
        }
    }
}

fn model(report: &mut Report, gpu: &Gpu, folder: &Path) {
    let title = format!("pipeline/{}", name(folder));
    if !report.wants(&title) {
        return;
    }
    let weights = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights").join(name(folder));
    if !weights.is_dir() {
        return report.skip(&title, format!("no weights of this name in {}", weights.display()));
    }
    let model = match OpenSora::open(gpu, &weights) {
        Ok(model) => model,
        Err(e) => return report.exact(&title, false, e),
    };
    let all = arrays(&folder.join("reference.safetensors"));
    for entry in json(&folder.join("reference.json")).as_array().into_iter().flatten() {
        let case = entry["name"].as_str().unwrap_or_default();
        let number = |k: &str| entry[k].as_f64().unwrap_or_else(|| panic!("{title}/{case}: {k}"));
        let count = |k: &str| Some(number(k) as usize);
        let request = Request {
            height: count("height"),
            width: count("width"),
            frames: count("num_frames"),
            fps: Some(number("fps")),
            steps: count("steps"),
            guidance: Some(number("guidance")),
            latents: Some(all[&format!("{case}/noise")].data.clone()),
            ..Request::new(entry["prompt"].as_str().unwrap_or_default())
        };
        let ids: Vec<u64> = entry["token_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let run = async {
            let plan = model.plan(&request)?;
            let caption = model.encode(&plan).await?;
            let tokens: Vec<u64> = caption.tokens.iter().map(|&t| u64::from(t)).collect();
            let video = model.generate(&request, &mut |_: Event<'_>| true).await?;
            let latents = video.sampled.latents.read().await?;
            residua::Result::Ok((tokens, latents, video.frames))
        };
        let (tokens, latents, frames) = match pollster::block_on(run) {
            Ok(result) => result,
            Err(e) => {
                report.exact(&format!("{title}/{case}"), false, e);
                continue;
            }
        };
        report.exact(&format!("{title}/{case} tokens"), tokens == ids, format!("{} tokens", tokens.len()));
        let far = max_abs(&latents, &all[&format!("{case}/latents")].data);
        let bytes: Vec<u8> = all[&format!("{case}/frames")].data.iter().map(|&b| b as u8).collect();
        let quality = if bytes.len() == frames.rgb.len() { psnr(&frames.rgb, &bytes) } else { f64::NAN };
        let note = format!("PSNR {quality:.1} dB of at least {FRAMES}, latents within {far:.1e}");
        report.exact(&format!("{title}/{case} frames"), quality >= FRAMES, note);
    }
}
