//! The recipe of a video: everything that makes it again, and nothing that differs between two runs.

use residua::gpu::Gpu;
use residua::pipeline::Plan;
use residua::text::prompt::Scores;
use serde_json::{Value, json};

use super::exit::{Failure, Outcome};
use super::given::{self, Files};
use super::model;
use super::report::Summary;
use super::screen::round;

/// What a recipe holds beyond the plan.
pub struct Facts<'a> {
    pub model: &'a str,
    pub files: &'a Value,
    pub prompt: &'a str,
    pub scores: &'a Scores,
    /// The words of `--cache`.
    pub cache: &'a str,
    /// Where given frames are from.
    pub given: &'a Files,
    /// SHA-256 of the file the run started from.
    pub latents_in: Option<&'a str>,
}

impl Facts<'_> {
    /// The recipe of a run, with what became of the cache when it is finished; `fps` is that of the file.
    pub fn recipe(&self, plan: &Plan, gpu: &Gpu, done: Option<&Summary>, fps: f64) -> Value {
        let mut cache = json!({"asked": self.cache, "settings": plan.cache.settings(plan.timesteps.len())});
        if let Some(done) = done {
            cache["policy"] = done.policy.as_str().into();
            cache["computed"] = done.computed.into();
            cache["skipped"] = done.skipped.into();
            cache["work"] = round(done.work).into();
        }
        json!({
            "residua": env!("CARGO_PKG_VERSION"),
            "model": {"name": self.model, "files": self.files},
            "prompt": self.prompt,
            "text": plan.text,
            "scores": {
                "aes": self.scores.aesthetic, "flow": self.scores.motion, "camera_motion": self.scores.camera_motion
            },
            "width": plan.width,
            "height": plan.height,
            "frames": plan.frames,
            "fps": plan.fps,
            "file_fps": fps,
            "steps": plan.timesteps.len(),
            "cfg": plan.guidance,
            "seed": plan.seed,
            "rng": plan.rng.to_string(),
            "latents_in": self.latents_in,
            "given": self.given.recipe(plan),
            "loop": given::loop_recipe(plan),
            "cache": cache,
            "adapter": model::adapter(gpu),
        })
    }
}

/// The command that makes a recipe's video again, for a shell.
///
/// # Errors
/// If the recipe lacks what a command needs.
pub fn command(recipe: &Value) -> Outcome<String> {
    let words = words(recipe)?;
    Ok(words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
}

/// The words of that command.
///
/// # Errors
/// As there.
pub fn words(recipe: &Value) -> Outcome<Vec<String>> {
    let lacks = |what: &str| Failure::wrong("rerun", format!("the recipe names no {what}; was it written by Residua?"));
    let text = |at: &str| recipe.pointer(at).and_then(Value::as_str);
    let mut words: Vec<String> = vec!["residua".into(), "generate".into()];
    let mut flag = |name: &str, value: String| words.extend([name.to_string(), value]);
    flag("-m", text("/model/name").ok_or_else(|| lacks("model"))?.into());
    flag("-p", text("/prompt").ok_or_else(|| lacks("prompt"))?.into());
    let numbers =
        [("-W", "width"), ("-H", "height"), ("-f", "frames"), ("--fps", "fps"), ("--steps", "steps"), ("--cfg", "cfg")];
    for (name, field) in numbers.into_iter().chain([("--seed", "seed")]) {
        let value = recipe.get(field).filter(|v| v.is_number()).ok_or_else(|| lacks(field))?;
        flag(name, value.to_string());
    }
    if recipe.get("file_fps") != recipe.get("fps")
        && let Some(fps) = recipe.get("file_fps").filter(|v| v.is_number())
    {
        flag("--save-fps", fps.to_string());
    }
    for (name, field) in [("--aes", "/scores/aes"), ("--flow", "/scores/flow")] {
        match recipe.pointer(field) {
            Some(Value::Number(n)) => flag(name, n.to_string()),
            // what was left out stays out, whatever the model's default is
            _ if name == "--aes" => flag(name, "none".into()),
            _ => {}
        }
    }
    if let Some(motion) = text("/scores/camera_motion") {
        flag("--camera-motion", motion.into());
    }
    given::rerun(recipe).into_iter().for_each(|(name, value)| flag(name, value));
    if let Some(rng) = text("/rng").filter(|r| *r != "torch-cpu") {
        flag("--rng", rng.into());
    }
    if let Some(cache) = text("/cache/asked").filter(|c| *c != "off") {
        flag("--cache", cache.into());
    }
    if text("/latents_in").is_some() {
        flag("--latents-in", "LATENTS".into());
    }
    Ok(words)
}

/// A word as a POSIX shell reads it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let recipe = json!({
            "model": {"name": "toybox"}, "prompt": "it's a snail", "width": 64, "height": 48, "frames": 17, "fps": 24.0,
            "file_fps": 12.0, "steps": 9, "cfg": 4.5, "seed": 7, "scores": {"aes": null, "camera_motion": "pan left"},
            "cache": {"asked": "adacache:codebook=1.0:1/2:2"}, "rng": "torch-cuda:108x2048",
        });
        let expected = "residua generate -m toybox -p 'it'\\''s a snail' -W 64 -H 48 -f 17 --fps 24.0 --steps 9 --cfg 4.5 \
                        --seed 7 --save-fps 12.0 --aes none --camera-motion 'pan left' --rng torch-cuda:108x2048 --cache adacache:codebook=1.0:1/2:2";
        assert_eq!(command(&recipe).unwrap(), expected);
        assert_eq!(command(&json!({"model": {"name": "x"}})).unwrap_err().exit, 2);
    }
}
