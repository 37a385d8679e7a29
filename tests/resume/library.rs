//! States of the library: every policy, every step, and files that are no states.

use std::sync::Arc;
use std::time::Duration;

use residua::Error;
use residua::cache::CacheSpec;
use residua::diffusion::sampler::Step;
use residua::gpu::{Gpu, Prefs};
use residua::media::{Frames, Reference};
use residua::models::stdit3::STDiT3;
use residua::pipeline::{Caption, Given, GivenLatents, Long, OpenSora, Plan, Request, Sampled, State};

use super::tiny_model;

const STEPS: usize = 8;

/// A model, ready to denoise.
struct Ready {
    sora: OpenSora,
    net: STDiT3,
}

impl Ready {
    fn new() -> Self {
        let prefs = Prefs { device: std::env::var("RESIDUA_DEVICE").ok(), ..Prefs::default() };
        let gpu = pollster::block_on(Gpu::open(&prefs)).expect("a device");
        let sora = OpenSora::open(&gpu, tiny_model::folder()).expect("a model");
        let net = sora.load_transformer().expect("a network");
        Self { sora, net }
    }

    /// What comes before denoising.
    fn stages(&self, request: &Request) -> (Plan, Vec<Caption>, GivenLatents) {
        let plan = self.sora.plan(request).unwrap_or_else(|e| panic!("{e}"));
        let texts: Vec<&str> = plan.texts.iter().map(String::as_str).collect();
        let captions = pollster::block_on(self.sora.encode_texts(&texts)).expect("captions");
        let given = pollster::block_on(self.sora.encode_given(&plan)).expect("given frames");
        (plan, captions, given)
    }

    /// A whole run, and the file of its state behind every step.
    fn watched(&self, request: &Request) -> (Sampled, Vec<Vec<u8>>) {
        let (plan, captions, given) = self.stages(request);
        let captions: Vec<&Caption> = captions.iter().collect();
        let mut run = self.sora.denoise(&self.net, &captions, &plan, &given, None).expect("a run");
        let mut files = Vec::new();
        while pollster::block_on(run.step()).expect("a step").is_some() {
            let mut state = pollster::block_on(run.state()).expect("a state");
            state.note = serde_json::json!({"kept": [1.1, null, "ö"]});
            files.push(state.to_bytes().expect("bytes"));
        }
        (pollster::block_on(run.finish()).expect("an end"), files)
    }

    /// What comes of going on behind a state; captions and given frames are its own.
    fn resumed(&self, request: &Request, file: &[u8]) -> residua::Result<(Sampled, usize)> {
        let plan = self.sora.plan(request)?;
        let state = State::from_bytes("a.state", file)?;
        assert_eq!(state.note["kept"][0], 1.1);
        let (captions, mut made) = (state.captions(), 0);
        let captions: Vec<&Caption> = captions.iter().collect();
        let mut run = self.sora.denoise(&self.net, &captions, &plan, state.given(), Some(&state))?;
        while pollster::block_on(run.step())?.is_some() {
            made += 1;
        }
        Ok((pollster::block_on(run.finish())?, made))
    }
}

fn request(cache: &str) -> Request {
    let cache = cache.parse::<CacheSpec>().unwrap_or_else(|e| panic!("{e}"));
    Request { frames: Some(17), steps: Some(STEPS), ..Request::new("a red circle").seed(5).cache(cache) }
}

/// Everything but the times, and numbers by their bits where they are printed with all digits.
#[track_caller]
fn same(a: &Sampled, b: &Sampled, what: &str) {
    let bits = |s: &Sampled| -> Vec<u32> { s.latents.read_blocking().unwrap().iter().map(|v| v.to_bits()).collect() };
    assert!(bits(a) == bits(b), "{what}: other latents");
    let told = |steps: &[Step]| -> Vec<String> {
        steps.iter().map(|s| format!("{:?}", Step { seconds: Duration::ZERO, ..s.clone() })).collect()
    };
    assert_eq!(told(&a.steps), told(&b.steps), "{what}");
    assert_eq!((&a.cache, a.cache_bytes, a.cache_planned), (&b.cache, b.cache_bytes, b.cache_planned), "{what}");
}

#[test]
fn every_policy_at_every_step() {
    let ready = Ready::new();
    for cache in [
        "off",
        "adacache:codebook=0.02:4/0.2:3/9:2",
        "adacache:codebook=0.02:4/0.2:3/9:2,moreg=on,window=1-8,strides=1/2,residual=mlp,layers=0/1",
        "adacache:codebook=0.05:4/9:3,order=2,distance=cosine,head=3,tail=1,residual=ca-mlp",
        "static:every=3",
        "static:mask=##.##..#",
        "teacache:threshold=0.4,coefficients=0/0/0/1/0.05",
        "fbcache:threshold=9,warmup=3,order=2",
        "fbcache:threshold=0.6",
        "magcache:threshold=9,most=2",
        "taylorseer:every=3,order=2,first=2",
        "delta-dit:blocks=0-0/1-1,window=0-3/4-7,gap=2",
        "pab:window=0-1000,ranges=2/3/4,skip=2",
        "tgate:gate=4,gap=2",
    ] {
        let request = request(cache);
        let (whole, files) = ready.watched(&request);
        assert_eq!((files.len(), whole.steps.len()), (STEPS, STEPS));
        assert_eq!(cache != "off", whole.steps.iter().any(|s| s.work < 1.0), "{cache}: reuses");
        for (i, file) in files.iter().enumerate() {
            let what = format!("{cache}, behind step {}", i + 1);
            let (resumed, made) = ready.resumed(&request, file).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(made, STEPS - 1 - i, "{what}");
            same(&whole, &resumed, &what);
        }
    }
}

fn picture(tag: u8) -> Reference {
    let rgb = (0..3 * 40 * 30).map(|i| (i as u8).wrapping_mul(7) ^ tag).collect();
    Reference::Picture(Frames { width: 40, height: 30, fps: 1.0, rgb })
}

/// Two clips with texts of their own, frames that are given and become active late.
fn two_clips() -> Request {
    let mut request = request("adacache:codebook=0.05:3/9:2,moreg=on,window=1-8");
    request.prompt = "|0|a red circle|1|a blue ring".into();
    request.frames = Some(34);
    request.steps = Some(5);
    request.long = Long { clips: 2, edit: 0.7, ..Long::default() };
    let mut given = Given { align: None, ..Given::default() };
    given.place(picture(0), "0;0,0,7,1,0.5").unwrap();
    given.place(picture(99), "1,0,8,1,0.6").unwrap();
    Request { given, ..request }
}

#[test]
fn clips_given_frames_and_their_noise() {
    let ready = Ready::new();
    let request = two_clips();
    let (whole, files) = ready.watched(&request);
    assert_eq!((files.len(), whole.steps.len()), (10, 10));
    // one stand-in is as good as another: given frames are in the state
    let mut without = request.clone();
    let stand_in = Frames { width: 1, height: 1, fps: 1.0, rgb: vec![0; 3] };
    without.given.references.fill(Arc::new(Reference::Picture(stand_in)));
    for (i, file) in files.iter().enumerate() {
        let (resumed, made) = ready.resumed(&without, file).unwrap();
        assert_eq!(made, 9 - i);
        same(&whole, &resumed, &format!("behind step {}", i + 1));
    }
    let plan = ready.sora.plan(&request).unwrap();
    let last = State::from_bytes("last", &files[9]).unwrap();
    let finished = pollster::block_on(ready.sora.finished(&plan, &last)).unwrap().expect("all steps");
    same(&whole, &finished, "finished");
    let earlier = State::from_bytes("earlier", &files[4]).unwrap();
    assert!(pollster::block_on(ready.sora.finished(&plan, &earlier)).unwrap().is_none());
    assert_eq!((earlier.steps(), earlier.clip(), last.steps(), last.clip()), (5, 0, 10, 1));
}

/// A latent that was given is drawn nowhere, but later draws are where they would be.
#[test]
fn a_start_latent() {
    let ready = Ready::new();
    let mut request = request("static:every=3");
    let count = ready.sora.plan(&request).unwrap().latent.iter().product::<usize>();
    request.latents = Some((0..count).map(|i| (i as f32 * 0.7).sin()).collect());
    let (whole, files) = ready.watched(&request);
    let state = State::from_bytes("a", &files[2]).unwrap();
    assert_eq!(state.start(), request.latents.as_deref());
    let (resumed, _) = ready.resumed(&request, &files[2]).unwrap();
    same(&whole, &resumed, "a start latent");
    request.latents = None;
    refused(ready.resumed(&request, &files[2]), &["start latent is given, here it is noise"]);
}

#[track_caller]
fn refused<T>(outcome: residua::Result<T>, words: &[&str]) {
    let error = outcome.err().expect("a refusal");
    assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "no `{word}` in: {error}");
    }
}

#[test]
fn states_of_other_runs() {
    let ready = Ready::new();
    let own = request("adacache:codebook=9:2");
    let (_, files) = ready.watched(&own);
    let file = &files[3];
    type Change = fn(&mut Request);
    let changes: [(Change, &str); 8] = [
        (|r| r.seed = 6, "seed is 5, here it is 6"),
        (|r| r.steps = Some(9), "steps is 8, here it is 9"),
        (|r| r.guidance = Some(3.5), "guidance is 4, here it is 3.5"),
        (|r| r.prompt = "a ring".into(), "text"),
        (|r| r.frames = Some(34), "frames is 17, here it is 34"),
        (|r| r.cache = "adacache:codebook=9:3".parse().unwrap(), "cache"),
        (|r| r.cache = CacheSpec::Off, "cache"),
        (|r| r.rng = "philox".parse().unwrap(), "noise is torch-cpu, here it is philox"),
    ];
    for (change, says) in changes {
        let mut other = own.clone();
        change(&mut other);
        refused(ready.resumed(&other, file), &["a.state", "another run", says]);
    }
}

/// The head of a file, changed; the tensors stay.
pub fn rewritten(file: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let size = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&file[8..8 + size]).unwrap();
    let head = &mut header["__metadata__"]["residua.state"];
    let mut inner: serde_json::Value = serde_json::from_str(head.as_str().unwrap()).unwrap();
    change(&mut inner);
    *head = inner.to_string().into();
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text, &file[8 + size..]].concat()
}

#[test]
fn damaged_files() {
    let ready = Ready::new();
    let own = request("pab:window=0-1000,ranges=2/3/4");
    let (whole, files) = ready.watched(&own);
    let file = &files[2];
    let go = |bytes: &[u8]| ready.resumed(&own, bytes);
    same(&whole, &go(&rewritten(file, |_| {})).unwrap().0, "rewritten as it was");
    for cut in [0, 7, 8, 100, file.len() / 2, file.len() - 4, file.len() - 1] {
        refused(go(&file[..cut]), &["a.state"]);
    }
    refused(go(&file[..file.len() - 1]), &["cut short"]);
    refused(go(b"not a state at all, but long enough to look at"), &["no state"]);
    refused(go(&std::fs::read(tiny_model::folder().join("transformer/model.safetensors")).unwrap()), &["no state"]);
    refused(go(&rewritten(file, |h| h["v"] = 2.into())), &["version 2", "version 1"]);
    refused(go(&rewritten(file, |h| h["head"]["more"] = 2.into())), &["damaged head"]);
    for (at, value, says) in [
        ("/head/clip", serde_json::json!(1), "3 steps in clip 1"),
        ("/head/clip", serde_json::json!(u64::MAX), "steps in clip"),
        ("/head/steps", serde_json::json!([]), "0 steps"),
        ("/head/captions", serde_json::json!([7]), "caption 7"),
        ("/head/captions", serde_json::json!([]), "captions"),
        ("/head/tokens/0", serde_json::json!([1]), "tokens of caption 0"),
        ("/head/cache/kept", serde_json::json!([]), "tensors of a cache"),
        ("/head/cache/kept/0/1", serde_json::json!(u64::MAX), "tensors of a cache"),
        ("/head/cache/sums", serde_json::json!([{"start": 0, "end": 9}, 0]), "the model has 2"),
        ("/head/cache/sums", serde_json::json!([{"start": 2, "end": 1}, 0]), "the model has 2"),
        ("/head/steps/1/computed", serde_json::json!(false), "step 2"),
        ("/head/model/vae", serde_json::json!("00"), "autoencoder"),
    ] {
        let changed = rewritten(file, |h| *h.pointer_mut(at).unwrap_or_else(|| panic!("{at}")) = value);
        refused(go(&changed), &["a.state", says]);
    }
    let named = rewritten(file, |h| {
        h["head"]["model"]["transformer"] = "00".into();
        h["head"]["model"]["name"] = "another-model".into();
    });
    refused(go(&named), &["another-model", "tiny-model-", "other weights"]);
    // the device decides about last digits only
    let elsewhere = rewritten(file, |h| h["head"]["device"]["driver"] = "another".into());
    same(&whole, &go(&elsewhere).unwrap().0, "from another driver");
    let mut nan = file.clone();
    let at = nan.len() - 8;
    nan[at..].copy_from_slice(&[0xff; 8]);
    let _ = go(&nan); // whatever tensor that was, nothing panics
    // bytes of the header and of the tensors, one after the other
    for at in (0..600).chain((600..file.len()).step_by(997)) {
        let mut bytes = file.clone();
        bytes[at] ^= 1 << (at % 8);
        let _ = State::from_bytes("a.state", &bytes).map(|state| state.to_bytes());
    }
}
