//! The Open-Sora VAE, and the plain image autoencoder inside it, against what upstream's code computed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use residua::Result;
use residua::gpu::Gpu;
use residua::models::vae::{Config, Noise, OpenSoraVae, config, spatial};
use residua::nn::Tap;
use residua::tensor::{Checkpoint, Tensor, Weights};

use super::{Array, Measure, Report, arrays, files, folders, json, name};

/// Of max(1, largest value), on every tensor (fixture README).
const BOUND: f64 = 1e-4;

/// Some twenty convolutions one after the other, each of a rounded input and a rounded weight. Gains measured in
/// halves: 0.4 at most.
fn measure(gpu: &Gpu) -> Measure {
    Measure::of(gpu, BOUND, 40, 1.0)
}
/// What latents of the image autoencoder are multiplied with where its config does not say.
const SCALING_FACTOR: f32 = 0.18215;

pub fn run(report: &mut Report, gpu: &Gpu) {
    for folder in folders(&super::root().join("vae")) {
        let case = format!("vae/{}", name(&folder));
        let about = folder.join("config.json");
        let kind = about.is_file().then(|| json(&about)).and_then(|c| {
            c.get("model_type").or_else(|| c.get("_class_name")).and_then(|k| k.as_str()).map(String::from)
        });
        match (kind.as_deref(), name(&folder).as_str()) {
            (Some("VideoAutoencoderPipeline"), _) => pipeline(report, gpu, &folder, &case),
            (Some("AutoencoderKL"), _) => images(report, gpu, &folder, &case),
            (_, "real_keys") => real_keys(report, gpu, &folder, &case),
            (_, "postprocess") => postprocess(report, gpu, &folder, &case),
            (_, "reference_input") => super::given::run(report, &folder, &case),
            _ if !report.wants(&case) => {}
            (Some(other), _) => report.skip(&case, format!("`{other}` is not implemented")),
            (None, _) => report.skip(&case, "no model; not a fixture of the VAE's arithmetic"),
        }
    }
}

fn pipeline(report: &mut Report, gpu: &Gpu, folder: &Path, case: &str) {
    let vae = match OpenSoraVae::open(gpu, folder, None) {
        Ok(vae) => vae,
        Err(e) => return report.exact(case, false, e),
    };
    if folder.join("keys.json").is_file() {
        let config = Config::read(folder, None);
        listed(report, &format!("{case}/keys"), gpu, &folder.join("keys.json"), |w| all_of(w, config?));
    }
    for file in files(folder, "safetensors") {
        let case = format!("{case}/{}", name(&file));
        if name(&file) == "model" || !report.wants(&case) {
            continue;
        }
        let want = arrays(&file);
        let outcome = match name(&file) {
            n if n.starts_with("decode_") => decode(report, gpu, &vae, &want, &case),
            n if n.starts_with("encode_") => encode(report, gpu, &vae, &want, &case),
            n if n.starts_with("taps_") => taps(report, gpu, &vae, &want, &n, &case),
            _ => {
                report.skip(&case, "not a stage of the pipeline");
                Ok(())
            }
        };
        if let Err(e) = outcome {
            report.exact(&case, false, e);
        }
    }
}

fn decode(report: &mut Report, gpu: &Gpu, vae: &OpenSoraVae, want: &BTreeMap<String, Array>, case: &str) -> Result<()> {
    let (z, frames) = (up(gpu, &want["z"]), want["x"].shape[2]);
    judge(report, gpu, &format!("{case}/x_z"), &vae.decode_time(&z, frames)?.read_blocking()?, &want["x_z"]);
    let start = std::time::Instant::now();
    let got = vae.decode(&z, frames)?.read_blocking()?;
    let took = start.elapsed();
    judge(report, gpu, &format!("{case}/x"), &got, &want["x"]);
    println!("     {case}: {took:.1?}");
    // frame by frame is the same, bit for bit
    let [samples, c, t, h, w] = want["x"].shape[..] else { panic!("{case}: x has {:?}", want["x"].shape) };
    let mut pieces = vec![f32::NAN; got.len()];
    for group in vae.decode_frames(&z, frames)? {
        let group = group?;
        let [_, count, ..] = group.pixels.sizes::<4>();
        for (channel, plane) in group.pixels.read_blocking()?.chunks_exact(count * h * w).enumerate() {
            let at = ((group.sample * c + channel) * t + group.first) * h * w;
            pieces[at..at + plane.len()].copy_from_slice(plane);
        }
    }
    report.exact(&format!("{case}/frames"), pieces == got, "a few frames at a time gives the same numbers");
    if samples == 1 {
        let mut heard = Vec::new();
        let pixels = pollster::block_on(vae.decode_pixels(&z, frames, &mut |done, all| {
            heard.push((done, all));
            true
        }))?;
        let told = heard.first() == Some(&(0, frames)) && heard.last() == Some(&(frames, frames));
        report.exact(&format!("{case}/pixels"), pixels == got && told, "as pixels on the host, and progress is told");
        let stopped = pollster::block_on(vae.decode_pixels(&z, frames, &mut |_, _| false));
        report.exact(
            &format!("{case}/cancel"),
            matches!(stopped, Err(residua::Error::Cancelled)),
            "stops when told to",
        );
    }
    let wrong = vae.decode(&z, frames + 17);
    report.exact(
        &format!("{case}/refused"),
        matches!(wrong, Err(residua::Error::Request { .. })),
        "latents of another length",
    );
    Ok(())
}

fn encode(report: &mut Report, gpu: &Gpu, vae: &OpenSoraVae, want: &BTreeMap<String, Array>, case: &str) -> Result<()> {
    let x = up(gpu, &want["x"]);
    let (spatial, temporal) = (up(gpu, &want["noise_2d"]), up(gpu, &want["noise_t"]));
    let sampled = vae.encode(&x, Some(Noise { spatial: &spatial, temporal: &temporal }))?;
    for (stage, got) in [
        ("moments_2d", &sampled.moments_2d),
        ("x_z", &sampled.x_z),
        ("moments_t", &sampled.moments_t),
        ("z", &sampled.z),
    ] {
        judge(report, gpu, &format!("{case}/{stage}"), &got.read_blocking()?, &want[stage]);
    }
    judge(report, gpu, &format!("{case}/z_mode"), &vae.encode(&x, None)?.z.read_blocking()?, &want["z_mode"]);
    let shape = &want["x"].shape;
    if shape[0] == 1 {
        let noise = Noise { spatial: &spatial, temporal: &temporal };
        let pixels = vae.encode_pixels(&want["x"].data, [shape[2], shape[3], shape[4]], Some(noise))?.z;
        let same = pixels.read_blocking()? == sampled.z.read_blocking()?;
        report.exact(&format!("{case}/pixels"), same, "from host memory gives the same numbers");
    }
    let size = vae.latent_size(shape[2], shape[3], shape[4]);
    report.exact(
        &format!("{case}/size"),
        size[..] == want["z"].shape[2..],
        format!("{:?} are {size:?} latents", &shape[2..]),
    );
    Ok(())
}

fn taps(
    report: &mut Report,
    gpu: &Gpu,
    vae: &OpenSoraVae,
    want: &BTreeMap<String, Array>,
    file: &str,
    case: &str,
) -> Result<()> {
    let mut stages: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut look = |n: &str, v: Tensor| drop(stages.insert(n.to_string(), v));
    let mut tap = Tap::On(&mut look);
    let inputs: &[&str] = match file {
        "taps_spatial_decode" => {
            let x = vae.decoder()?.spatial.forward(&channels_last(gpu, &want["z_in"]), &mut tap);
            stages.insert("x".into(), x);
            &["x_z", "z_in"]
        }
        "taps_spatial_encode" => {
            vae.encoder()?.spatial.forward(&channels_last(gpu, &want["x"]), &mut tap);
            &["x"]
        }
        "taps_mid_attention" => {
            let x = vae.decoder()?.spatial.mid.attention.forward(&channels_last(gpu, &want["inp"]), &mut tap);
            stages.insert("out".into(), x);
            &["inp"]
        }
        "taps_temporal_decode" => {
            let x = vae.decoder()?.temporal.forward(&channels_last(gpu, &want["z"]), &mut tap);
            stages.insert("x_z".into(), x);
            &["z"]
        }
        "taps_temporal_encode" => {
            let x = &want["x_z"];
            let factor = vae.config().temporal.factor();
            let full = x.shape[2].next_multiple_of(factor);
            vae.encoder()?.temporal.forward(&channels_last(gpu, &zeros_in_front(x, full)), &mut tap);
            &["x_z"]
        }
        _ => {
            report.skip(case, "taps of a stage that is not known");
            return Ok(());
        }
    };
    let measure = measure(gpu);
    let (mut worst, mut at) = (0.0, String::new());
    for (stage, expected) in want.iter().filter(|(n, _)| !inputs.contains(&n.as_str())) {
        let own = if stage == "to_out.0" { "out" } else { stage };
        let Some(tensor) = stages.get(own) else {
            report.exact(&format!("{case}/{stage}"), false, "the model shows no such stage");
            continue;
        };
        let mut got = tensor.read_blocking()?;
        let [n, made, h, w, c] = tensor.sizes();
        if !stage.starts_with("to_") {
            got = transposed(&got, [n, made * h * w, c]);
        }
        if stage == "to_out.0" {
            // in one kernel with the residual here
            let residual = transposed(&want["inp"].data, [n, c, h * w]);
            got.iter_mut().zip(&residual).for_each(|(v, r)| *v -= r);
        }
        if (file, stage.as_str()) == ("taps_temporal_decode", "x_z") {
            let kept = expected.shape[2] * h * w;
            got = got.chunks_exact(made * h * w).flat_map(|plane| &plane[plane.len() - kept..]).copied().collect();
        }
        let error = measure.distance(&got, &expected.data, largest(expected));
        if error.is_nan() || error > worst {
            (worst, at) = (error, stage.clone());
        }
    }
    report.error(&format!("{case} ({at})"), worst, measure.bound());
    Ok(())
}

/// An `AutoencoderKL` alone, as Latte uses it: the image part of the Open-Sora VAE without a prefix.
fn images(report: &mut Report, gpu: &Gpu, folder: &Path, case: &str) {
    let mut all = || -> Result<()> {
        let sizes: config::Spatial =
            serde_json::from_value(json(&folder.join("config.json"))).expect("a diffusers config");
        let weights = Weights::new(gpu, Arc::new(Checkpoint::open(folder)?), "");
        let factor = json(&folder.join("config.json")).get("scaling_factor").and_then(|f| f.as_f64());
        let factor = factor.map_or(SCALING_FACTOR, |f| f as f32);
        let file = folder.join("decode.safetensors");
        if file.is_file() && report.wants(&format!("{case}/decode")) {
            let want = arrays(&file);
            let mut z = want["latents"].clone();
            z.data.iter_mut().for_each(|v| *v /= factor);
            let z = frames_as_images(gpu, &z);
            let x = spatial::Decoder::load(&weights, &sizes)?.forward(&z, &mut Tap::Off);
            let [n, _, h, w, c] = x.sizes();
            judge(
                report,
                gpu,
                &format!("{case}/decode/x"),
                &transposed(&x.read_blocking()?, [n, h * w, c]),
                &want["x"],
            );
        }
        let file = folder.join("encode.safetensors");
        if file.is_file() && report.wants(&format!("{case}/encode")) {
            let want = arrays(&file);
            let moments =
                spatial::Encoder::load(&weights, &sizes)?.forward(&channels_last(gpu, &want["x"]), &mut Tap::Off);
            let [n, _, h, w, c] = moments.sizes();
            let got = transposed(&moments.read_blocking()?, [n, h * w, c]);
            judge(report, gpu, &format!("{case}/encode/moments"), &got, &want["moments"]);
            let means =
                got.chunks_exact(h * w * c).flat_map(|m| &m[..m.len() / 2]).map(|v| v * factor).collect::<Vec<_>>();
            judge(report, gpu, &format!("{case}/encode/mode_scaled"), &means, &want["mode_scaled"]);
        }
        Ok(())
    };
    if let Err(e) = all() {
        report.exact(case, false, e);
    }
}

/// Every tensor of the real checkpoints is asked for, and nothing that they do not hold.
fn real_keys(report: &mut Report, gpu: &Gpu, folder: &Path, case: &str) {
    for file in files(folder, "json") {
        let case = format!("{case}/{}", name(&file));
        match name(&file).as_str() {
            "opensora_vae_v1_2" => listed(report, &case, gpu, &file, |w| all_of(w, Config::default())),
            "sd_vae_ft_ema_old_names" => listed(report, &case, gpu, &file, |w| {
                spatial::Decoder::load(w, &config::Spatial::default())?;
                spatial::Encoder::load(w, &config::Spatial::default()).map(drop)
            }),
            _ if report.wants(&case) => report.skip(&case, "a model that is not implemented"),
            _ => {}
        }
    }
}

fn all_of(w: &Weights, config: Config) -> Result<()> {
    let vae = OpenSoraVae::from_weights(w.clone(), config)?;
    vae.decoder()?;
    vae.encoder().map(drop)
}

fn listed(report: &mut Report, case: &str, gpu: &Gpu, file: &Path, load: impl FnOnce(&Weights) -> Result<()>) {
    if !report.wants(case) {
        return;
    }
    let weights = match Checkpoint::outline(file) {
        Ok(list) => Weights::new(gpu, Arc::new(list), ""),
        Err(e) => return report.exact(case, false, e),
    };
    match load(&weights) {
        Err(e) => report.exact(case, false, e),
        Ok(()) => {
            let left = weights.unasked();
            report.exact(case, left.is_empty(), format!("all names and shapes; asked for by nobody: {left:?}"));
        }
    }
}

/// Pixels to bytes, as upstream saves them.
fn postprocess(report: &mut Report, gpu: &Gpu, folder: &Path, case: &str) {
    for file in files(folder, "safetensors") {
        let want = arrays(&file);
        for (pixels, bytes) in [("x", "frames_u8"), ("image_x", "image_u8")] {
            let case = format!("{case}/{}/{bytes}", name(&file));
            let (Some(x), Some(bytes), true) = (want.get(pixels), want.get(bytes), report.wants(&case)) else {
                continue;
            };
            let width = x.shape[3];
            let packed =
                residua::ops::pack_rgba(&up(gpu, x), width).read_blocking().unwrap_or_else(|e| panic!("{case}: {e}"));
            let got: Vec<f32> =
                packed.iter().flat_map(|v| v.to_bits().to_le_bytes()[..3].to_vec()).map(f32::from).collect();
            report.exact(&case, got == bytes.data, format!("{} bytes", got.len()));
        }
    }
}

fn judge(report: &mut Report, gpu: &Gpu, case: &str, got: &[f32], want: &Array) {
    let measure = measure(gpu);
    report.error(case, measure.distance(got, &want.data, largest(want)), measure.bound());
}

fn largest(a: &Array) -> f64 {
    a.data.iter().fold(1.0, |m, v| f64::max(m, f64::from(v.abs())))
}

fn up(gpu: &Gpu, a: &Array) -> Tensor {
    gpu.upload(&a.data, a.shape.clone())
}

/// `[n, a, b]` to `[n, b, a]`.
fn transposed(x: &[f32], [n, a, b]: [usize; 3]) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for image in x.chunks_exact(a * b).take(n) {
        for j in 0..b {
            out.extend((0..a).map(|i| image[i * b + j]));
        }
    }
    out
}

/// Images `[N, C, H, W]` or videos `[B, C, T, H, W]` with channels last and a time axis.
fn channels_last(gpu: &Gpu, a: &Array) -> Tensor {
    let (n, c) = (a.shape[0], a.shape[1]);
    let rest = &a.shape[2..];
    let mut shape = vec![n];
    shape.extend((rest.len() == 2).then_some(1));
    shape.extend(rest);
    shape.push(c);
    gpu.upload(&transposed(&a.data, [n, c, rest.iter().product()]), shape)
}

/// A video `[1, C, T, H, W]` as T images.
fn frames_as_images(gpu: &Gpu, a: &Array) -> Tensor {
    let [b, c, t, h, w] = a.shape[..] else { panic!("a video has {:?}", a.shape) };
    channels_last(gpu, a).reshape([b * t, 1, h, w, c])
}

fn zeros_in_front(a: &Array, frames: usize) -> Array {
    let [b, c, t, h, w] = a.shape[..] else { panic!("a video has {:?}", a.shape) };
    let mut data = Vec::new();
    for plane in a.data.chunks_exact(t * h * w) {
        data.resize(data.len() + (frames - t) * h * w, 0.0);
        data.extend_from_slice(plane);
    }
    Array { shape: vec![b, c, frames, h, w], data }
}
