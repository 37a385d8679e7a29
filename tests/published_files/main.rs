//! Every form in which the parts of Open-Sora v1.2 are published, from file to frames: narrow models with all tensors of
//! the true ones give the same video wherever they lie and however they are stored.

#[path = "../program/mod.rs"]
mod program;
#[path = "../published/mod.rs"]
mod published;
mod tiny;
#[path = "../torch_file/mod.rs"]
mod torch_file;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use program::{Ran, residua, scratch};
use residua::media::quality;
use safetensors::Dtype;
use tiny::Stored;

const STDIT: &str = "hpcai-tech/OpenSora-STDiT-v3";
const VAE: &str = "hpcai-tech/OpenSora-VAE-v1.2";
const T5: &str = "DeepFloyd/t5-v1_1-xxl";
const PIXART: &str = "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers";

fn transformer(folder: &Path) {
    tiny::write_json(&folder.join("config.json"), &tiny::transformer_config());
    tiny::write(&folder.join("model.safetensors"), &tiny::transformer(), Dtype::F32);
}

/// The autoencoder as it is published: its spatial part inside. (The widths of that are in a folder of their own.)
fn vae(folder: &Path) {
    tiny::write_json(&folder.join("config.json"), &tiny::vae_config());
    tiny::write_json(&folder.join("vae_2d/config.json"), &tiny::spatial_config());
    tiny::write(&folder.join("model.safetensors"), &tiny::vae(), Dtype::F32);
}

const SPATIAL: &str = "spatial_vae.module.";

/// The autoencoder without its spatial part.
fn temporal_only(folder: &Path) {
    let all: Vec<Stored> = tiny::vae().into_iter().filter(|t| !t.name.starts_with(SPATIAL)).collect();
    tiny::write_json(&folder.join("config.json"), &tiny::vae_config());
    tiny::write(&folder.join("model.safetensors"), &all, Dtype::F32);
}

/// The spatial part by itself, as diffusers stores it; `old` as it did before, or as those before it did.
fn spatial(folder: &Path, old: Option<[&str; 4]>) {
    let mut all: Vec<Stored> = tiny::vae();
    all.retain_mut(|t| match t.name.strip_prefix(SPATIAL) {
        Some(own) => {
            t.name = own.into();
            true
        }
        None => false,
    });
    if let Some(names) = old {
        for t in &mut all {
            for (new, old) in ["to_q", "to_k", "to_v", "to_out.0"].iter().zip(names) {
                if t.name.contains(new) && names[0] == "q" && t.shape.len() == 2 {
                    t.shape.extend([1, 1]);
                }
                t.name = t.name.replace(&format!(".{new}."), &format!(".{old}."));
            }
        }
    }
    tiny::write_json(&folder.join("config.json"), &tiny::spatial_config());
    tiny::write(&folder.join("diffusion_pytorch_model.safetensors"), &all, Dtype::F32);
}

/// The text encoder as one file of safetensors.
fn t5(folder: &Path, dtype: Dtype) {
    tiny::write_json(&folder.join("config.json"), &tiny::t5_config());
    tiny::write(&folder.join("model.safetensors"), &tiny::t5(), dtype);
}

/// As two torch shards with their index.
fn t5_torch(folder: &Path) {
    t5(folder, Dtype::F32);
    let safe = folder.join("model.safetensors");
    torch_file::convert(&safe, folder, "pytorch_model", 2);
    std::fs::remove_file(safe).unwrap();
}

/// As sharded safetensors, without the second name of the embedding.
fn t5_sharded(folder: &Path) {
    tiny::write_json(&folder.join("config.json"), &tiny::t5_config());
    let all: Vec<Stored> = tiny::t5().into_iter().filter(|t| t.name != "encoder.embed_tokens.weight").collect();
    tiny::write_sharded(folder, "model", &all, 2);
}

fn tokenizer(folder: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/t5/tokenizer/spiece.model");
    std::fs::create_dir_all(folder).unwrap();
    std::fs::copy(golden, folder.join("spiece.model")).unwrap();
}

/// Puts what `write` writes into a hub's cache, as its own tools do: files under their hashes, links to them.
#[cfg(unix)]
fn cached(hub: &Path, repo: &str, write: impl FnOnce(&Path)) -> PathBuf {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let folder = hub.join(format!("models--{}", repo.replace('/', "--")));
    let snapshot = folder.join("snapshots").join(commit);
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    std::fs::create_dir_all(folder.join("blobs")).unwrap();
    std::fs::write(folder.join("refs/main"), commit).unwrap();
    write(&snapshot);
    let mut folders = vec![(snapshot.clone(), PathBuf::from("../../blobs"))];
    let mut blob = 0;
    while let Some((at, up)) = folders.pop() {
        for path in std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push((path, Path::new("..").join(&up)));
                continue;
            }
            blob += 1;
            std::fs::rename(&path, folder.join("blobs").join(format!("{blob:040x}"))).unwrap();
            std::os::unix::fs::symlink(up.join(format!("{blob:040x}")), path).unwrap();
        }
    }
    snapshot
}

/// Runs `generate`: a few frames in two steps, as bytes.
fn generate(folder: &Path, model: &str, shelves: Option<&Path>) -> Ran {
    let mut command = residua(folder);
    if let Some(shelves) = shelves {
        command.env("RESIDUA_MODELS", shelves);
    }
    let flags =
        ["-s", "7", "-W", "32", "-H", "24", "-f", "17", "--steps", "2", "--no-caption-cache", "--force", "-o", "x.rgb"];
    command.args(["generate", "-m", model, "-p", "a red circle"]).args(flags).output().unwrap().into()
}

#[track_caller]
fn frames(folder: &Path, model: &str) -> Vec<u8> {
    generate(folder, model, None).ok();
    std::fs::read(folder.join("x.rgb")).unwrap()
}

/// The video of the plain layout: all in f32, a folder for each part.
fn expected() -> &'static [u8] {
    static FRAMES: OnceLock<Vec<u8>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let dir = scratch();
        plain(&dir.path().join("model"));
        let frames = frames(dir.path(), "model");
        assert_eq!(frames.len(), 17 * 24 * 32 * 3);
        let mean = frames.iter().map(|&b| f64::from(b)).sum::<f64>() / frames.len() as f64;
        let spread = frames.iter().map(|&b| (f64::from(b) - mean).powi(2)).sum::<f64>() / frames.len() as f64;
        assert!(spread.sqrt() > 10.0, "a video that shows nothing proves nothing: {mean:.0} ± {:.1}", spread.sqrt());
        frames
    })
}

fn plain(model: &Path) {
    transformer(&model.join("transformer"));
    vae(&model.join("vae"));
    t5(&model.join("text_encoder"), Dtype::F32);
    tokenizer(&model.join("tokenizer"));
}

#[test]
fn copies_of_the_three_repositories() {
    let dir = scratch();
    let shelf = dir.path().join("shelf");
    transformer(&shelf.join("OpenSora-STDiT-v3"));
    vae(&shelf.join("OpenSora-VAE-v1.2"));
    t5_torch(&shelf.join("t5-v1_1-xxl"));
    tokenizer(&shelf.join("t5-v1_1-xxl"));
    assert!(frames(dir.path(), "shelf") == expected(), "side by side");
    // the same by name
    generate(dir.path(), "open-sora-1.2", Some(&shelf)).ok();
    assert!(std::fs::read(dir.path().join("x.rgb")).unwrap() == expected(), "on a shelf");
    // twins
    transformer(&shelf.join("OpenSora-STDiT-v3-copy"));
    let ran = generate(dir.path(), "shelf", None);
    assert!(ran.exit == 3 && ran.err.contains("OpenSora-STDiT-v3-copy") && ran.err.contains("residua-model.toml"));
}

#[cfg(unix)]
#[test]
fn the_cache_of_a_hub() {
    let dir = scratch();
    let hub = dir.path().join("hub");
    cached(&hub, STDIT, transformer);
    cached(&hub, VAE, vae);
    let ran = generate(dir.path(), "open-sora-1.2", None);
    assert_eq!(ran.exit, 3);
    for word in ["lacks text_encoder", "tokenizer", T5, PIXART, "hub", "residua pull open-sora-1.2"] {
        assert!(ran.err.contains(word), "no `{word}` in {}", ran.err);
    }
    assert!(!ran.err.contains(STDIT), "{}", ran.err);
    // another repository has the same encoder
    cached(&hub, PIXART, |folder| {
        t5_sharded(&folder.join("text_encoder"));
        tokenizer(&folder.join("tokenizer"));
    });
    assert!(frames(dir.path(), "open-sora-1.2") == expected(), "the other encoder");
    let snapshot = cached(&hub, T5, |folder| {
        t5_torch(folder);
        tokenizer(folder);
    });
    assert!(frames(dir.path(), "open-sora-1.2") == expected(), "torch shards");
    let told = program::run(dir.path(), &["info", "open-sora-1.2"]).ok();
    assert!(told.text().contains(&format!("({T5})")) && told.text().contains("973 tensors"), "{}", told.text());
    // a shard whose blob is gone: the other encoder serves
    let shard = snapshot.join("pytorch_model-00002-of-00002.bin");
    std::fs::remove_file(shard.canonicalize().unwrap()).unwrap();
    assert!(frames(dir.path(), "open-sora-1.2") == expected(), "one of two encoders is damaged");
    std::fs::remove_dir_all(hub.join("models--PixArt-alpha--pixart_sigma_sdxlvae_T5_diffusers")).unwrap();
    let ran = generate(dir.path(), "open-sora-1.2", None);
    assert!(ran.exit == 3 && ran.err.contains("pytorch_model-00002-of-00002.bin` is a link to"), "{}", ran.err);
    // a name that stands for something else
    let main = hub.join("models--hpcai-tech--OpenSora-VAE-v1.2/refs/main");
    std::fs::write(&main, "../../../outside").unwrap();
    let ran = generate(dir.path(), "open-sora-1.2", None);
    assert!(ran.exit == 3 && ran.err.contains("refs/main") && ran.err.contains("no commit"), "{}", ran.err);
    let listed = program::run(dir.path(), &["list"]).ok();
    assert!(
        listed.err.contains("note: open-sora-1.2 is not listed") && listed.err.contains("refs/main"),
        "{}",
        listed.err
    );
}

#[cfg(unix)]
#[test]
fn a_repository_that_is_a_whole_model() {
    let dir = scratch();
    let hub = dir.path().join("hub");
    cached(&hub, "somebody/small", plain);
    assert!(frames(dir.path(), "somebody/small") == expected());
    let commit = "somebody/small@0123456789abcdef0123456789abcdef01234567";
    assert!(frames(dir.path(), commit) == expected(), "a commit");
    let ran = generate(dir.path(), "somebody/small@v2", None);
    assert!(ran.exit == 3 && ran.err.contains("does not know `v2`"), "{}", ran.err);
    // beside it lies one of another program
    cached(&hub, "somebody/else", |folder| {
        plain(folder);
        tiny::write_json(&folder.join("transformer/config.json"), &serde_json::json!({"_class_name": "Other3D"}));
    });
    let listed = program::run(dir.path(), &["list"]).ok();
    assert!(listed.text().contains("somebody/small") && !listed.text().contains("somebody/else"), "{}", listed.text());
    // one from elsewhere describes itself, but reaches no further than other names
    let snapshot = hub.join("models--somebody--small/snapshots/0123456789abcdef0123456789abcdef01234567");
    let describe = |vae: &str| {
        let text = format!(
            "kind = \"open-sora-1.2\"\n[parts]\ntransformer = \"transformer\"\nvae = \"{vae}\"\n\
             text_encoder = \"text_encoder\"\ntokenizer = \"tokenizer\"\n"
        );
        std::fs::write(snapshot.join("residua-model.toml"), text).unwrap();
    };
    describe("vae");
    assert!(frames(dir.path(), "somebody/small") == expected(), "described");
    for (vae, word) in [("../vae", "leaves the model's folder"), ("/vae", "absolute")] {
        describe(vae);
        let ran = generate(dir.path(), "somebody/small", None);
        assert!(ran.exit == 3 && ran.err.contains(word), "{}", ran.err);
    }
}

#[test]
fn described_by_a_file() {
    let dir = scratch();
    let d = dir.path();
    let elsewhere = d.join("elsewhere");
    transformer(&d.join("model/net"));
    temporal_only(&d.join("model/time"));
    spatial(&elsewhere.join("vae"), Some(["query", "key", "value", "proj_attn"]));
    t5_sharded(&d.join("model/t5"));
    tokenizer(&d.join("model/t5"));
    let describe = |spatial: &str| {
        let text = format!(
            "kind = \"open-sora-1.2\"\nlicence = \"MIT\"\n\n[parts]\ntransformer = \"net\"\nvae = \"time\"\n{spatial}\n\
             text_encoder = \"t5\"\n\n[defaults]\nsteps = 3\nheight = 32\n"
        );
        std::fs::write(d.join("model/residua-model.toml"), text).unwrap();
    };
    let absolute = format!("vae_2d = {:?}", elsewhere.join("vae"));
    describe(&absolute);
    assert!(frames(d, "model") == expected());
    assert!(frames(d, "model/residua-model.toml") == expected());
    let told = program::run(d, &["info", "model", "--json"]).ok();
    let told: serde_json::Value = serde_json::from_str(told.text()).unwrap();
    assert_eq!(
        (&told["licence"], &told["defaults"]["steps"], &told["defaults"]["height"]),
        (&"MIT".into(), &3.into(), &32.into())
    );
    assert_eq!(told["parts"]["vae_2d"]["tensors"], 248);
    // both folders hold it
    vae(&d.join("model/time"));
    let ran = generate(d, "model", None);
    assert!(ran.exit == 3 && ran.err.contains("cannot be told; leave one of the two out"), "{}", ran.err);
    // nobody does
    temporal_only(&d.join("model/time"));
    describe("");
    let ran = generate(d, "model", None);
    for word in ["lacks vae_2d", PIXART, "residua pull"] {
        assert!(ran.exit == 3 && ran.err.contains(word), "{}", ran.err);
    }
    describe("vae2d = \"x\"");
    let ran = generate(d, "model", None);
    assert!(ran.exit == 3 && ran.err.contains("`vae2d`") && ran.err.contains("`vae_2d`"), "{}", ran.err);
}

#[test]
fn a_spatial_autoencoder_stored_apart() {
    let dir = scratch();
    let d = dir.path();
    plain(&d.join("model"));
    let vae = d.join("model/vae");
    std::fs::remove_dir_all(&vae).unwrap();
    temporal_only(&vae);
    spatial(&vae.join("vae_2d"), None);
    assert!(frames(d, "model") == expected(), "in a folder of its own");
    std::fs::remove_dir_all(vae.join("vae_2d")).unwrap();
    spatial(&vae.join("vae"), Some(["q", "k", "v", "proj_out"]));
    assert!(frames(d, "model") == expected(), "1 × 1 convolutions, in the folder that the config names");
    #[cfg(unix)]
    {
        std::fs::remove_dir_all(vae.join("vae")).unwrap();
        cached(&d.join("hub"), PIXART, |folder| spatial(&folder.join("vae"), None));
        assert!(frames(d, "model") == expected(), "in the repository that the config names");
    }
}

/// Halves are the numbers they were rounded to, to the last bit, and the video is near the one of the true numbers: a
/// network of 80 random blocks makes much of the 8 bits of a bfloat16.
#[test]
fn text_encoders_in_halves() {
    for (dtype, least) in [(Dtype::F16, 35.0), (Dtype::BF16, 15.0)] {
        let dir = scratch();
        let encoder = dir.path().join("model/text_encoder");
        plain(&dir.path().join("model"));
        t5(&encoder, dtype);
        let halves = frames(dir.path(), "model");
        let psnr = quality::psnr(&halves, expected());
        assert!(psnr > least && psnr < 90.0, "{dtype:?}: {psnr:.1} dB");
        let mut rounded = tiny::t5();
        for v in rounded.iter_mut().flat_map(|t| &mut t.numbers) {
            *v = if dtype == Dtype::F16 { half::f16::from_f32(*v).to_f32() } else { half::bf16::from_f32(*v).to_f32() };
        }
        tiny::write(&encoder.join("model.safetensors"), &rounded, Dtype::F32);
        assert!(frames(dir.path(), "model") == halves, "{dtype:?}");
    }
}

/// Tensors that nobody knows are told to those who want to know, and change nothing.
#[test]
fn unknown_tensors() {
    let dir = scratch();
    let model = dir.path().join("model");
    plain(&model);
    let extra = |all: Vec<Stored>, count: usize, name: &str| -> Vec<Stored> {
        let more = (0..count).map(|i| Stored { name: format!("{name}{i:02}"), shape: vec![1], numbers: vec![0.0] });
        all.into_iter().chain(more).collect()
    };
    let write =
        |part: &str, tensors: &[Stored]| tiny::write(&model.join(part).join("model.safetensors"), tensors, Dtype::F32);
    write("transformer", &extra(tiny::transformer(), 23, "ema."));
    write("vae", &extra(tiny::vae(), 1, "loss."));
    write("text_encoder", &extra(tiny::t5(), 3, "decoder.block."));
    let mut command = residua(dir.path());
    command.env("RESIDUA_LOG", "residua=debug");
    let flags = ["-s", "7", "-W", "32", "-H", "24", "-f", "17", "--steps", "2", "--no-caption-cache", "-o", "x.rgb"];
    let ran: Ran = command.args(["generate", "-m", "model", "-p", "a red circle"]).args(flags).output().unwrap().into();
    let ran = ran.ok();
    assert!(std::fs::read(dir.path().join("x.rgb")).unwrap() == expected());
    let told: Vec<&str> = ran.err.lines().filter(|l| l.contains("nobody reads")).collect();
    assert_eq!(told.len(), 2, "a decoder beside the text encoder is known: {told:?}");
    assert!(told[0].contains("`ema.00`, `ema.01`") && told[0].ends_with("`ema.19` and 3 more"), "{told:?}");
    assert!(told[1].ends_with("nobody reads `loss.00`"), "{told:?}");
}

#[test]
fn files_that_are_not_there_are_no_models() {
    let dir = scratch();
    for name in ["out/gone.mp4", "gone.safetensors"] {
        let ran = program::run(dir.path(), &["info", name]);
        assert!(ran.exit == 3 && ran.err.contains("there is no such file"), "{}", ran.err);
        assert!(!ran.err.contains("pull") && !ran.err.contains("-m"), "{}", ran.err);
    }
}

#[cfg(unix)]
#[test]
fn links_to_nothing_are_named() {
    let dir = scratch();
    let model = dir.path().join("model");
    plain(&model);
    let file = model.join("transformer/model.safetensors");
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("../blobs/gone", &file).unwrap();
    let ran = generate(dir.path(), "model", None);
    let named = ran.err.contains("transformer/model.safetensors: is a link to `../blobs/gone`, which is not there");
    assert!(ran.exit == 3 && named, "{}", ran.err);
}
