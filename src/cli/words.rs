//! The words of a request that need more than a parser: size, length, scores.

use residua::cache::CacheSpec;
use residua::pipeline::{Defaults, Request, sizes};
use residua::text::prompt::Scores;

use super::args::{Generate, Input, Size};
use super::exit::{Failure, Outcome};
use super::screen::Screen;

/// The request that the flags make, with this cache and without a prompt; its seed is drawn if none was given.
///
/// # Errors
/// Wrong use, naming the flag.
pub fn request(args: &Generate, cache: CacheSpec, screen: &Screen) -> Outcome<Request> {
    let (height, width) = size(&args.size, screen)?;
    let frames = args.size.frames.as_deref().map(sizes::frames).transpose()?;
    Ok(Request {
        height,
        width,
        frames,
        fps: args.size.fps,
        steps: args.sampling.steps,
        guidance: args.sampling.cfg,
        seed: args.sampling.seed.and_then(|s| s.0).unwrap_or_else(random_seed),
        rng: args.sampling.rng,
        latents: None,
        scores: None,
        cache,
        memory: args.memory.memory,
        ..Request::default()
    })
}

/// The scores asked for; what was left open is the model's.
pub fn scores(input: &Input, defaults: &Defaults) -> Scores {
    let own = defaults.scores.clone();
    Scores {
        aesthetic: input.aes.map_or(own.aesthetic, |s| s.0),
        motion: input.flow.map_or(own.motion, |s| s.0),
        camera_motion: input.camera_motion.clone().or(own.camera_motion),
    }
}

/// Height and width, as far as they are given.
///
/// # Errors
/// A resolution or an aspect ratio that is unknown.
pub fn size(size: &Size, screen: &Screen) -> Outcome<(Option<usize>, Option<usize>)> {
    if let Some([height, width]) = size.image_size.as_deref() {
        return Ok((Some(*height), Some(*width)));
    }
    let Some(resolution) = &size.resolution else { return Ok((size.height, size.width)) };
    if let Some(ratio) = &size.aspect_ratio {
        screen.say("note: --aspect-ratio is height:width, as Open-Sora has it; --aspect is width:height");
        let (height, width) = sizes::image_size(resolution, ratio)?;
        return Ok((Some(height), Some(width)));
    }
    let asked = size.aspect.as_deref().unwrap_or("16:9");
    let turned = match asked.split_once(':') {
        Some((w, h)) => format!("{h}:{w}"),
        None => return Err(Failure::wrong("aspect", format!("`{asked}` is not a width:height such as 16:9"))),
    };
    let found = sizes::image_size(resolution, &turned).map_err(|e| {
        let failure = Failure::from(e);
        if size.aspect.is_some() {
            failure.hint("--aspect is width:height; the list above has the height first")
        } else {
            failure
        }
    });
    let (height, width) = found?;
    Ok((Some(height), Some(width)))
}

/// A seed that is short enough to be copied by hand; torch's generator takes 32 bits anyway.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // every RandomState starts from the system's randomness
    std::hash::RandomState::new().build_hasher().finish() >> 32
}
