//! Given frames, and clips that continue one another: by the command line alone.

#[path = "program/mod.rs"]
mod program;
#[path = "tiny_model/mod.rs"]
mod tiny_model;

use std::path::Path;

use image::{Rgb, RgbImage};
use program::{Ran, names, run, scratch};
use residua::media::{Frames, quality, read_recipe};
use residua::tensor::Checkpoint;

const PROMPT: &str = "a red circle moving right on a blue background";

/// `generate` with the tiny model and a seed.
fn generate(dir: &Path, args: &[&str]) -> Ran {
    let model = tiny_model::folder().to_str().unwrap();
    let seed = if args.contains(&"-s") { &[][..] } else { &["-s", "7"] };
    run(dir, &[&["generate", "-m", model], seed, args].concat())
}

fn bytes(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A picture with edges and a gradient, other ones by `tag`.
fn picture(dir: &Path, name: &str, tag: u8) {
    let pixel = |x: u32, y: u32| Rgb([(5 * x) as u8, 200u8.wrapping_sub(tag), if y > x { 30 } else { tag }]);
    RgbImage::from_fn(50, 41, pixel).save(dir.join(name)).unwrap();
}

/// Latent frames `[T]` of a file, each `[4, h, w]`.
fn latents(dir: &Path, name: &str) -> Vec<Vec<f32>> {
    let file = Checkpoint::open(&dir.join(name)).unwrap();
    let entry = file.entry("latents").unwrap();
    let [1, c, t, h, w] = *entry.shape else { panic!("{:?}", entry.shape) };
    let all = entry.widen(0..c * t * h * w).unwrap();
    let at = |frame: usize| (0..c).flat_map(|ch| all[(ch * t + frame) * h * w..][..h * w].to_vec()).collect();
    (0..t).map(at).collect()
}

#[test]
fn given_frames_stay_as_they_are() {
    let dir = scratch();
    let d = dir.path();
    picture(d, "a.png", 0);
    picture(d, "b.jpg", 90);
    let go = |args: &[&str]| {
        let mean = if args.contains(&"--posterior") { &[][..] } else { &["--posterior", "mean"] };
        generate(d, &[&["-o", "x.rgb", "--force", "--latents-out", "l.safetensors"], mean, args].concat()).ok();
        latents(d, "l.safetensors")
    };
    let a = go(&["-p", PROMPT, "-f", "1", "-i", "a.png"]);
    let b = go(&["-p", "another", "-f", "1", "-i", "b.jpg"]);
    assert!(a.len() == 1 && a != b);
    let first = go(&["-p", PROMPT, "-f", "34", "-i", "a.png"]);
    let other = go(&["-p", "another", "-f", "34", "-i", "a.png"]);
    assert_eq!((&first[0], &other[0]), (&a[0], &a[0]), "nothing but the picture");
    assert!((1..10).all(|t| first[t] != other[t]), "the rest is made");
    let both = go(&["-p", PROMPT, "-f", "34", "-i", "a.png", "--end-image", "b.jpg"]);
    assert_eq!((&both[0], &both[5]), (&a[0], &b[0]), "the last chunk of 17 frames begins at latent frame 5");
    let exact = go(&["-p", PROMPT, "-f", "17", "-i", "a.png", "--end-image", "b.jpg", "--align", "off"]);
    assert_eq!((&exact[0], &exact[4]), (&a[0], &b[0]));
    let twice = go(&["-p", PROMPT, "-f", "17", "--ref", "a.png:0,0,3;0,0,1", "--align", "off"]);
    assert_eq!((&twice[3], &twice[1]), (&a[0], &a[0]));
    assert!(twice[0] != a[0] && twice[2] != a[0]);
    // a sample of the posterior belongs to the seed
    let sampled = go(&["-p", PROMPT, "-f", "1", "-i", "a.png", "--posterior", "sample"]);
    assert!(sampled != a && sampled == go(&["-p", "y", "-f", "1", "-i", "a.png", "--posterior", "sample"]));
}

#[test]
fn the_same_in_other_words() {
    let dir = scratch();
    let d = dir.path();
    picture(d, "a.png", 0);
    picture(d, "b.png", 90);
    let go = |prompt: &str, args: &[&str]| {
        generate(d, &[&["-f", "34", "-o", "x.rgb", "--force", "-p", prompt], args].concat()).ok();
        bytes(d, "x.rgb")
    };
    let plain = go(PROMPT, &[]);
    let flags = go(PROMPT, &["-i", "a.png", "--end-image", "b.png"]);
    assert!(plain != flags);
    let embedded = format!("{PROMPT} {{\"reference_path\": \"a.png;b.png\", \"mask_strategy\": \"0;0,1,0,-1,1\"}}");
    assert!(go(&embedded, &[]) == flags);
    assert!(go(PROMPT, &["--reference-path", "a.png;b.png", "--mask-strategy", "0;0,1,0,-1,1"]) == flags);
    assert!(go(PROMPT, &["--ref", "a.png", "--ref", "b.png:0,0,-1"]) == flags);
    // all of it made anew is none of it given
    assert!(go(PROMPT, &["--ref", "a.png:0,0,0,1,1.0"]) == plain);
}

#[test]
fn frames_that_become_active_late() {
    let dir = scratch();
    let d = dir.path();
    picture(d, "a.png", 0);
    let go = |args: &[&str]| {
        let own = ["-p", PROMPT, "-f", "17", "--steps", "6", "--ref", "a.png:0,0,0,1,0.6", "-o", "x.rgb", "--force"];
        let ran = generate(d, &[&own[..], args].concat()).ok();
        assert!(ran.err.contains("latent frame 0 (of 0-4), changed from level 0.6"), "{}", ran.err);
        bytes(d, "x.rgb")
    };
    let once = go(&["--posterior", "mean"]);
    assert!(once == go(&["--posterior", "mean"]));
    let philox = go(&["--posterior", "mean", "--rng", "philox"]);
    assert!(once != philox && philox == go(&["--posterior", "mean", "--rng", "torch-cuda:132x2048"]));
    assert!(once != go(&["--posterior", "mean", "-s", "8"]), "another seed");
}

#[test]
fn clips_become_one_video() {
    let dir = scratch();
    let d = dir.path();
    let model = tiny_model::folder().to_str().unwrap();
    let go = |prompt: &str, args: &[&str]| {
        let own = ["-p", prompt, "-f", "34", "--force", "-o", "x.rgb", "--latents-out", "l.safetensors"];
        let ran = generate(d, &[&own[..], args].concat()).ok();
        (bytes(d, "x.rgb"), ran.err)
    };
    let frame = 3 * tiny_model::SIZE * tiny_model::SIZE;
    let (one, _) = go(PROMPT, &[]);
    assert_eq!(one.len(), 34 * frame);
    let (three, told) = go(PROMPT, &["--loop", "3"]);
    assert_eq!(three.len(), (34 + 17 + 17) * frame);
    assert!(told.contains("x 68 frames") && told.contains("in 3 clips"), "{told}");
    assert!(three[..one.len()] == one, "the first clip is what it is alone");
    run(d, &["decode", "l.safetensors", "-m", model, "-o", "y.rgb"]).ok();
    assert!(bytes(d, "y.rgb") == three, "the latents are those of the whole video");
    // texts of clips
    let (green, _) = go("a green star", &["--loop", "2"]);
    let (both, _) = go(&format!("|0|{PROMPT}|1|a green star"), &["--loop", "2"]);
    assert!(both[..one.len()] == one);
    assert!(both != green && both[one.len()..] != three[one.len()..][..17 * frame]);
    let (spaced, _) = go(&format!("|0| {PROMPT} |1| a green star "), &["--loop", "2"]);
    assert!(spaced == both);
    // what is shared may change, and may be more
    let (edited, _) = go(PROMPT, &["--loop", "2", "--condition-edit", "0.7"]);
    assert!(edited.len() == 51 * frame && edited[..one.len()] == one && edited[..] != three[..51 * frame]);
    let longer = ["-p", PROMPT, "-f", "51", "--loop", "2", "--condition-frames", "10", "-o", "z.rgb"];
    generate(d, &longer).ok();
    assert_eq!(bytes(d, "z.rgb").len(), (51 + 17) * frame);
}

#[test]
fn a_recipe_with_given_frames_and_clips() {
    let dir = scratch();
    let d = dir.path();
    std::fs::create_dir(d.join("weights")).unwrap();
    tiny_model::write(&d.join("weights/tiny"));
    picture(d, "it's a.png", 0);
    picture(d, "b.png", 30);
    let args = ["generate", "-m", "tiny", "-p", "|0|a snail|1|a leaf", "--steps", "3", "-f", "34", "--loop", "2"];
    let more =
        ["-i", "it's a.png", "--ref", "b.png:1,0,-1,1,0.5", "--align", "1", "--posterior", "mean", "-o", "a.png"];
    run(d, &[&args[..], &more].concat()).ok();
    let command = run(d, &["info", "a.png", "--rerun"]).ok().text().to_string();
    let program = command.strip_prefix("residua ").expect(&command);
    let line = format!("'{}' {program} -o b2.png", env!("CARGO_BIN_EXE_residua"));
    let ran: Ran = std::process::Command::new("sh").args(["-c", &line]).current_dir(d).output().unwrap().into();
    ran.ok();
    assert!(bytes(d, "a.png") == bytes(d, "b2.png"), "{command}");
    let recipe = read_recipe(&d.join("a.png")).unwrap().unwrap();
    assert_eq!(recipe["given"]["references"][1]["file"], "b.png");
    assert_eq!(recipe["given"]["references"][1]["sha256"].as_str().map(str::len), Some(64));
    assert_eq!((&recipe["loop"]["clips"], &recipe["loop"]["frames"]), (&2.into(), &51.into()));
}

/// The shipped model: a picture given first is what the video begins with, to what its autoencoder makes of pictures.
#[test]
fn the_shipped_model_begins_with_a_picture() {
    let dir = scratch();
    let d = dir.path();
    run(d, &["generate", "-p", PROMPT, "-s", "1", "-o", "frames"]).ok();
    let args = ["generate", "-p", PROMPT, "-s", "5", "-i", "frames/0000.png", "--posterior", "mean", "-o", "out.rgb"];
    run(d, &args).ok();
    run(d, &["generate", "-p", "a green star growing on a black background", "-s", "5", "-o", "other.rgb"]).ok();
    let given = image::open(d.join("frames/0000.png")).unwrap().into_rgb8().into_raw();
    let first = |name: &str| {
        let frames = Frames { width: 64, height: 64, fps: 24.0, rgb: bytes(d, name) };
        (frames.count(), quality::psnr(frames.frame(0), &given), quality::psnr(frames.frame(16), frames.frame(0)))
    };
    let (count, kept, moved) = first("out.rgb");
    println!("first frame {kept:.1} dB from what was given, last frame {moved:.1} dB from the first");
    assert!(count == 17 && kept > 22.0 && moved < kept, "{kept:.1} dB, {moved:.1} dB");
    assert!(first("other.rgb").1 < 15.0);
}

#[track_caller]
fn refused(dir: &Path, args: &[&str], exit: i32, words: &[&str]) {
    let before = names(dir);
    let ran = generate(dir, &[&["-p", "x", "-o", "out.mp4"], args].concat());
    assert_eq!(ran.exit, exit, "{}", ran.err);
    let message: Vec<&str> = ran.err.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(message.len(), 1, "one message: {}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
    }
    assert!(!ran.err.contains("text    ok"), "no work was done: {}", ran.err);
    assert_eq!(names(dir), before);
}

#[test]
fn files_that_are_no_frames() {
    let dir = scratch();
    let d = dir.path();
    refused(d, &["-i", "nothing.png"], 3, &["nothing.png", "No such file"]);
    refused(d, &["--ref", "nothing.mp4:0"], 3, &["nothing.mp4", "No such file"]);
    refused(d, &["-i", "/dev/zero"], 3, &["/dev/zero", "not a file"]);
    let set = |name: &str, bytes: &[u8]| std::fs::write(d.join(name), bytes).unwrap();
    set("empty.png", b"");
    refused(d, &["-i", "empty.png"], 3, &["empty.png", "empty", "PNG, JPEG"]);
    set("words.png", b"just words, whatever the name");
    refused(d, &["--end-image", "words.png"], 3, &["words.png", "no picture or clip", "MP4"]);
    set("film.mkv", b"\x1a\x45\xdf\xa3 a Matroska file");
    refused(d, &["--ref", "film.mkv"], 3, &["film.mkv", "a folder of PNGs"]);
    std::fs::create_dir(d.join("folder")).unwrap();
    refused(d, &["--ref", "folder"], 3, &["folder", "without PNGs"]);
    // a header that promises 100000 x 100000 pixels
    picture(d, "good.png", 0);
    let good = bytes(d, "good.png");
    let mut huge = good[..33].to_vec();
    huge[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let crc = png_crc(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.to_be_bytes());
    huge.extend(&good[33..]);
    set("huge.png", &huge);
    refused(d, &["-i", "huge.png"], 3, &["huge.png", "100000 x 100000", "too large"]);
    set("cut.png", &good[..good.len() / 2]);
    refused(d, &["-i", "cut.png"], 3, &["cut.png"]);
    let mut gif = b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff".to_vec();
    gif.extend(b"\x2c\0\0\0\0\xff\xff\xff\xff\0\x02\x01\x44\0\x3b");
    set("huge.gif", &gif);
    refused(d, &["-i", "huge.gif"], 3, &["huge.gif", "65535 x 65535"]);
}

/// Of a PNG chunk's name and contents.
fn png_crc(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

#[test]
fn strategies_that_fit_nothing() {
    let dir = scratch();
    let d = dir.path();
    picture(d, "a.png", 0);
    refused(d, &["--ref", "a.png:0,0,6"], 2, &["mask strategy", "frame 6 of the video, which has 6"]);
    refused(d, &["--ref", "a.png:0,1"], 2, &["mask strategy", "frame 1 of its reference"]);
    refused(d, &["--ref", "a.png:0,0,0,1,1.5"], 2, &["mask strategy", "1.5"]);
    refused(d, &["--ref", "a.png:1"], 2, &["mask strategy", "clip 1 of 1"]);
    refused(d, &["--ref", "a.png:x"], 2, &["mask strategy", "`x`"]);
    refused(d, &["--ref", "a.png:0,0,0,0,0,0"], 2, &["mask strategy", "7 fields"]);
    refused(d, &["-i", "a.png", "--mask-strategy", "0,1"], 2, &["mask strategy", "of which there are 1"]);
    refused(d, &["-i", "a.png", "--mask-strategy", ""], 2, &["mask strategy", "empty"]);
    refused(d, &["--mask-strategy", "0"], 2, &["--image"]);
    refused(d, &["-i", "a.png", "--mask-strategy", "0", "--ref", "a.png"], 2, &["--mask-strategy"]);
    refused(d, &["-i", "a.png", "--end-image", "a.png", "-f", "17"], 2, &["end-image", "34 or more", "--align off"]);
    refused(d, &["-i", "a.png", "--align", "0"], 2, &["--align"]);
    let args = ["generate", "-m", tiny_model::folder().to_str().unwrap(), "-i", "a.png", "-o", "out.mp4", "-p"];
    let ran = run(d, &[&args[..], &["x {\"reference_path\": \"a.png\", \"mask_strategy\": \"0\"}"]].concat());
    assert!(ran.exit == 2 && ran.err.contains("names given frames itself"), "{}", ran.err);
    let clip = Frames { width: 16, height: 16, fps: 8.0, rgb: vec![9; 3 * 16 * 16 * 4] };
    let options = residua::media::WriteOptions::default();
    residua::media::write(&d.join("clip.gif"), &clip, residua::media::Format::Gif, &options).unwrap();
    refused(d, &["-i", "clip.gif"], 2, &["image", "a clip of 4 frames", "--ref clip.gif:0"]);
}

#[test]
fn loops_that_cannot_be() {
    let dir = scratch();
    let d = dir.path();
    refused(d, &["--loop", "0"], 2, &["loop", "0 is not between 1 and 1000"]);
    refused(d, &["--loop=-1"], 2, &["loop"]);
    refused(d, &["--loop", "99999", "-f", "34"], 2, &["loop", "99999"]);
    refused(d, &["--loop", "1000", "-f", "51"], 2, &["loop", "34017", "20000"]);
    refused(d, &["--loop", "2"], 2, &["frames", "21 frames are no whole chunks of 17"]);
    refused(d, &["--loop", "2", "-f", "17"], 2, &["frames", "34 or more"]);
    refused(d, &["--loop", "2", "-f", "1"], 2, &["frames", "1 frames are no whole chunks"]);
    for wrong in ["0", "3", "10", "15"] {
        refused(d, &["--loop", "2", "-f", "34", "--condition-frames", wrong], 2, &["condition frames", wrong]);
    }
    refused(d, &["--loop", "2", "-f", "34", "--condition-edit", "2"], 2, &["condition edit", "2"]);
    let args = ["generate", "-m", tiny_model::folder().to_str().unwrap(), "-f", "34", "-o", "out.mp4", "-p"];
    let ran = run(d, &[&args[..], &["|0|x|2|y", "--loop", "2"]].concat());
    assert!(ran.exit == 2 && ran.err.contains("a text for clip 2"), "{}", ran.err);
    let ran = run(d, &[&args[..], &["|0|x|1|y"]].concat());
    assert!(ran.exit == 2 && ran.err.contains("one is made"), "{}", ran.err);
}

#[test]
fn caches_beside_given_frames_and_clips() {
    let dir = scratch();
    let d = dir.path();
    picture(d, "a.png", 0);
    let go = |cache: &str, name: &str| {
        let own = ["-p", PROMPT, "-f", "34", "--loop", "2", "--ref", "a.png:0,0,0,1,0.5", "--no-metadata", "-o", name];
        generate(d, &[&own[..], &["--force", "--cache", cache]].concat()).ok()
    };
    go("off", "off.rgb");
    let ran = go("adacache:codebook=1.0:1", "ones.rgb");
    assert!(bytes(d, "off.rgb") == bytes(d, "ones.rgb"), "a cache that never reuses");
    assert!(ran.err.contains("12 of 12 steps computed"), "of both clips: {}", ran.err);
    for cache in ["adacache:codebook=9:2,moreg=on", "static:every=2", "teacache:threshold=900", "fbcache:threshold=900"]
    {
        go(cache, "x.rgb");
        assert!(bytes(d, "x.rgb") != bytes(d, "off.rgb"), "{cache}");
    }
    let ran = go("pab:window=0-1000,skip=1", "x.rgb");
    assert!(ran.err.contains(" of 12 steps computed"), "{}", ran.err);
}
