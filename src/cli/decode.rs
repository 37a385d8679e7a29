//! `residua decode`: latents to a video. Also the decoding stage of `generate`.

use std::time::{Duration, Instant};

use residua::media::Frames;
use residua::models::vae::OpenSoraVae;
use residua::pipeline::{OpenSora, sizes};
use residua::tensor::Tensor;
use serde_json::{Value, json};

use super::args::Decode;
use super::exit::{Failure, Outcome};
use super::latents::Latents;
use super::output::Target;
use super::pace::memory_line;
use super::screen::{Screen, round, size};
use super::signals::Stop;
use super::{latents, model};

/// Where neither flag nor file says anything.
const FPS: f64 = 24.0;

/// Runs the verb.
///
/// # Errors
/// Whatever goes wrong; nothing is left half-written.
pub fn run(args: &Decode, screen: &Screen) -> Outcome {
    let stop = Stop::listen();
    pollster::block_on(work(args, screen, &stop)).map_err(|failure| stop.explain(failure))
}

async fn work(args: &Decode, screen: &Screen, stop: &Stop) -> Outcome {
    let began = Instant::now();
    if screen.json && args.video.output.as_ref().is_some_and(|p| p.as_os_str() == "-") {
        return Err(Failure::wrong("output", "`-` and --json both want standard output; name a file"));
    }
    let given = latents::read(&args.latents)?;
    let (frames, fps) = length(args, &given)?;
    let stem = args.latents.file_stem().map_or_else(|| "video".into(), |s| s.to_string_lossy().into_owned());
    let target = Target::choose(&args.video, &stem, if frames == 1 { "png" } else { "mp4" })?;
    let parts = model::find(args.model.model.as_deref())?;
    model::check(&parts)?;
    let sora = model::open(&parts, &args.device).await?;

    let [_, _, _, h, w] = given.shape;
    let gpu = sora.gpu();
    screen.say(format!("{}  {}x{} x {frames} frames, decode only", parts.name, 8 * w, 8 * h));
    screen.say(format!("{} ({})", gpu.info().name, gpu.info().backend));
    screen.event(
        "plan",
        json!({
            "model": parts.name, "size": [8 * w, 8 * h], "frames": frames, "fps": fps, "latent": given.shape,
            "adapter": model::adapter(gpu), "output": target.path.display().to_string(),
        }),
    );
    let [_, c, t, ..] = given.shape;
    let footprint = sora.decode_footprint([c, t, h, w], frames, args.memory)?;
    screen.say(memory_line(&footprint, false));
    gpu.set_budget(footprint.budget);
    let latents = gpu.upload(&given.numbers, given.shape);
    let (video, _) = self::frames(&sora, &sora.open_vae()?, &latents, frames, fps, screen, stop, "").await?;
    stop.check()?;
    let recipe = given.recipe.filter(|_| !args.video.no_metadata).map(|r| amended(r, frames, fps));
    let bytes = target.write(&video, recipe.as_ref(), screen)?;
    let total = began.elapsed().as_secs_f64();
    screen.say(format!("wrote   {}  {}  total {total:.1} s", target.path.display(), size(bytes)));
    screen.event("done", json!({"seconds": round(total), "peak_bytes": gpu.held().1}));
    Ok(())
}

/// Decodes by an open autoencoder, with a bar; `run` tells the decoding of several runs apart.
///
/// # Errors
/// Those of [`OpenSora::decode_by`].
pub async fn frames(
    sora: &OpenSora,
    vae: &OpenSoraVae,
    latents: &Tensor,
    frames: usize,
    fps: f64,
    screen: &Screen,
    stop: &Stop,
    run: &str,
) -> Outcome<(Frames, Duration)> {
    let bar = screen.bar("decode", frames);
    let mut seen = |done: usize, all: usize| {
        bar.frames(done, all, run);
        !stop.asked()
    };
    let video = sora.decode_by(vae, latents, frames, fps, &mut seen).await?;
    let took = bar.elapsed();
    drop(bar);
    let run = if run.is_empty() { String::new() } else { format!(", {run}") };
    screen.say(format!("decode  ok {:.1} s{run}", took.as_secs_f64()));
    Ok((video, took))
}

/// Frames and their rate: the flags', the file's.
fn length(args: &Decode, given: &Latents) -> Outcome<(usize, f64)> {
    let stated = |field: &str| given.recipe.as_ref().and_then(|r| r.get(field));
    let t = given.shape[2];
    let most = t / 5 * 17 + (4 * (t % 5)).min(16);
    let frames = match &args.frames {
        Some(words) => sizes::frames(words)?,
        None => stated("loop")
            .and_then(|l| l.get("frames"))
            .or(stated("frames"))
            .and_then(Value::as_u64)
            .map(|n| n as usize)
            .ok_or_else(|| {
                Failure::wrong(
                    "frames",
                    format!("`{}` does not say how many; give -f, such as -f {most}", args.latents.display()),
                )
            })?,
    };
    let needs = sizes::latent_frames(frames);
    if needs != t {
        let problem =
            format!("{frames} frames have {needs} latent frames, but the file holds {t}; -f {most} would fit");
        return Err(Failure::wrong("frames", problem));
    }
    let own = stated("file_fps").or_else(|| stated("fps")).and_then(Value::as_f64);
    let fps = args.fps.or(own).unwrap_or(FPS);
    if !(0.1..=1000.0).contains(&fps) {
        return Err(Failure::wrong("fps", format!("{fps} is not between 0.1 and 1000")));
    }
    Ok((frames, fps))
}

/// The recipe of the latents, with what was decoded otherwise than it says.
fn amended(mut recipe: Value, frames: usize, fps: f64) -> Value {
    let own = recipe.pointer("/loop/frames").unwrap_or(&recipe["frames"]);
    if *own != json!(frames) || recipe["file_fps"] != json!(fps) {
        recipe["decoded"] = json!({"frames": frames, "fps": fps});
    }
    recipe
}
