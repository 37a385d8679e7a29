//! Captions on disk: a prompt that was encoded before makes the same video without a text encoder.

#[path = "program/mod.rs"]
mod program;
#[path = "tiny_model/mod.rs"]
mod tiny_model;

use std::path::{Path, PathBuf};

use program::{Ran, residua, scratch};
use serde_json::Value;

const PROMPT: &str = "a red circle moving right on a blue background";

/// A model and a cache of its own.
struct Place {
    dir: tempfile::TempDir,
    model: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = scratch();
        let model = dir.path().join("model");
        tiny_model::write(&model);
        Self { dir, model }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let model = self.model.to_str().unwrap();
        let common = ["generate", "-m", model, "-s", "7", "--steps", "2", "--no-metadata", "--json", "--force"];
        let mut command = residua(self.dir.path());
        command.env("RESIDUA_CACHE_DIR", self.dir.path().join("cache")).args(common).args(args).output().unwrap().into()
    }

    /// A video of a prompt, and whether its captions were known.
    #[track_caller]
    fn video(&self, args: &[&str]) -> (Vec<u8>, bool) {
        let ran = self.run(&[&["-o", "a.rgb"], args].concat()).ok();
        let events = ran.text().lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        let text = events.into_iter().find(|e| e["event"] == "text").expect("an event of the text");
        let cached = text["cached"].as_bool().unwrap();
        assert_eq!(ran.err.lines().any(|l| l.starts_with("text ") && l.ends_with(", cached")), cached, "{}", ran.err);
        (std::fs::read(self.dir.path().join("a.rgb")).unwrap(), cached)
    }

    fn encoder(&self) -> PathBuf {
        self.model.join("text_encoder/model.safetensors")
    }

    fn kept(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.dir.path().join("cache/captions"));
        let paths = files.into_iter().flatten().flatten().map(|e| e.path());
        paths.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect()
    }
}

#[test]
fn a_known_prompt_needs_no_text_encoder() {
    let place = Place::new();
    let prompt = ["-p", PROMPT];
    let (first, cached) = place.video(&prompt);
    assert!(!cached && place.kept().len() == 1);
    assert_eq!(place.video(&prompt), (first.clone(), true));
    // the same from scratch
    assert_eq!(place.video(&[&prompt[..], &["--no-caption-cache"]].concat()), (first.clone(), false));

    std::fs::rename(place.encoder(), place.dir.path().join("away")).unwrap();
    assert_eq!(place.video(&prompt), (first.clone(), true));
    for args in [&["-p", "a green star"][..], &["-p", PROMPT, "--no-caption-cache"]] {
        let ran = place.run(&[args, &["-o", "b.rgb"]].concat());
        assert!(
            ran.exit == 3 && ran.err.contains("text_encoder") && ran.err.contains("expected weights"),
            "{}",
            ran.err
        );
        assert!(!place.dir.path().join("b.rgb").exists());
    }
    // one of two is known
    std::fs::rename(place.dir.path().join("away"), place.encoder()).unwrap();
    let ran = place.run(&["-p", PROMPT, "-p", "a green star", "-o", "many/"]).ok();
    assert!(ran.err.contains("2 prompts, 1 of 2 cached"), "{}", ran.err);
}

#[test]
fn other_encoders_and_devices_make_their_own() {
    let place = Place::new();
    let (halves, _) = place.video(&["-p", PROMPT]);
    let (singles, cached) = place.video(&["-p", PROMPT, "--dtype", "f32"]);
    assert!(!cached && halves != singles);
    assert!(place.video(&["-p", PROMPT, "--dtype", "f32"]).1 && place.video(&["-p", PROMPT]).1);
    // other weights of the same size in the same place
    let mut bytes = std::fs::read(place.encoder()).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(place.encoder(), bytes).unwrap();
    assert!(!place.video(&["-p", PROMPT]).1);
}

#[test]
fn a_damaged_caption_is_encoded_again() {
    let place = Place::new();
    let (first, _) = place.video(&["-p", PROMPT]);
    let [file] = &place.kept()[..] else { panic!("one caption") };
    let mut bytes = std::fs::read(file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(file, bytes).unwrap();
    let ran = place.run(&["-p", PROMPT, "-o", "a.rgb"]).ok();
    assert!(ran.err.contains("warning") || ran.err.contains("warn: "), "{}", ran.err);
    assert!(ran.err.contains("the caption is encoded again"), "{}", ran.err);
    assert_eq!(place.video(&["-p", PROMPT]), (first, true), "and was written again");
}

#[test]
fn a_cache_that_cannot_be_written_is_no_failure() {
    let place = Place::new();
    std::fs::write(place.dir.path().join("cache"), "a file where the folder should be").unwrap();
    let (first, _) = place.video(&["-p", PROMPT]);
    assert_eq!(place.video(&["-p", PROMPT]), (first, false));
}

#[test]
fn the_library_keeps_nothing_unless_asked() {
    let gpu = pollster::block_on(residua::gpu::Gpu::open(&residua::gpu::Prefs {
        device: std::env::var("RESIDUA_DEVICE").ok(),
        ..Default::default()
    }))
    .expect("a device for the tests");
    let dir = scratch();
    let folder = dir.path().join("captions");
    let sora = residua::pipeline::OpenSora::open(&gpu, tiny_model::folder()).unwrap();
    let encode = |sora: &residua::pipeline::OpenSora| pollster::block_on(sora.encode_texts(&[PROMPT])).unwrap();
    assert!(!encode(&sora)[0].known && !encode(&sora)[0].known && !folder.exists());
    let sora = sora.captions_in(Some(folder.clone()));
    let [first, second] = [encode(&sora), encode(&sora)];
    assert!(!first[0].known && second[0].known && folder.is_dir());
    assert_eq!((&first[0].tokens, &first[0].rows), (&second[0].tokens, &second[0].rows));
    let own = |path: &Path| std::fs::read_dir(path).unwrap().count();
    assert_eq!(own(&folder), 2, "a caption and a note of its encoder");
}
