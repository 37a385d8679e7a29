//! Frames to files and back: every format, the recipe in each, refusals, damaged input, and how two videos compare.
//! Checks with ffmpeg say so and pass when it is not installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use residua::Error;
use residua::media::{self, Format, Frames, WriteOptions, quality, read_mp4, read_recipe};
use serde_json::{Value, json};

/// A smooth coloured wave that drifts, with a bright disc crossing it.
fn clip(width: usize, height: usize, count: usize) -> Frames {
    let mut rgb = Vec::new();
    for t in 0..count {
        for y in 0..height {
            for x in 0..width {
                let (u, v, s) = (x as f64 / 64.0, y as f64 / 64.0, t as f64 / 16.0);
                let disc = (-((u - 0.2 - s).powi(2) + (v - 0.4).powi(2)) * 40.0).exp();
                let wave = |phase: f64| 0.5 + 0.35 * (3.0 * u + 2.0 * v + 4.0 * s + phase).sin();
                rgb.extend(
                    [wave(0.0), wave(2.0), wave(4.0)].map(|w| ((w * (1.0 - disc) + disc) * 255.0).round() as u8),
                );
            }
        }
    }
    Frames { width, height, fps: 24.0, rgb }
}

/// Large patches of strong colours, for swapped channels and wrong matrices to show.
const PATCHES: [[u8; 3]; 6] =
    [[220, 30, 40], [30, 200, 50], [40, 60, 230], [235, 235, 235], [20, 20, 20], [230, 210, 40]];

fn patches(count: usize) -> Frames {
    let (width, height) = (96, 64);
    let at = |i: usize| PATCHES[(i % width) / 32 + 3 * ((i / width % height) / 32)];
    Frames { width, height, fps: 25.0, rgb: (0..width * height * count).flat_map(at).collect() }
}

/// Largest distance of the patches' centres from what they should be, levels.
fn patch_error(frame: &[u8]) -> u8 {
    let centre = |i: usize| &frame[((32 * (i / 3) + 16) * 96 + 32 * (i % 3) + 16) * 3..][..3];
    (0..6).flat_map(|i| PATCHES[i].iter().zip(centre(i)).map(|(a, b)| a.abs_diff(*b))).max().unwrap()
}

fn recipe() -> Value {
    json!({"prompt": "a snail \"on\" a leaf, 蝸牛 🐌", "seed": 42, "cfg": 7.5, "nested": {"list": [1, null, true]}})
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn save(dir: &Path, name: &str, frames: &Frames) -> PathBuf {
    let path = dir.join(name);
    let recipe = recipe();
    let options = WriteOptions { recipe: Some(&recipe), ..Default::default() };
    let written = media::write(&path, frames, Format::from_path(&path).unwrap(), &options).unwrap();
    assert_eq!(written.path, path);
    if path.is_file() {
        assert_eq!(written.bytes, path.metadata().unwrap().len());
    }
    path
}

/// Names in a folder, hidden ones included.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("-version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("skip: {program} is not installed");
    }
    found
}

/// The frames ffmpeg decodes from a file, in this pixel format; its warnings fail the test.
fn ffmpeg_raw(path: &Path, pixels: &str) -> Vec<u8> {
    let out = Command::new("ffmpeg")
        .args(["-v", "warning", "-i"])
        .arg(path)
        .args(["-vf", "scale=flags=accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"])
        .args(["-f", "rawvideo", "-pix_fmt", pixels, "-"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "{}: {said}", path.display());
    out.stdout
}

fn ffmpeg(path: &Path, width: usize, height: usize, fps: f64) -> Frames {
    Frames { width, height, fps, rgb: ffmpeg_raw(path, "rgb24") }
}

/// 4:2:0 BT.709 in limited range to RGB, chroma bilinear between samples on even columns and between rows.
fn rgb_of_420(planes: &[u8], w: usize, h: usize) -> Vec<u8> {
    let mut rgb = Vec::new();
    for frame in planes.chunks_exact(w * h * 3 / 2) {
        let (luma, chroma) = frame.split_at(w * h);
        let (cb, cr) = chroma.split_at(w * h / 4);
        let sample = |plane: &[u8], x: usize, y: usize| {
            let at = |x: usize, y: usize| plane[y.min(h / 2 - 1) * (w / 2) + x.min(w / 2 - 1)] as f64;
            let other = if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { y / 2 + 1 };
            let column = |x: usize| 0.75 * at(x, y / 2) + 0.25 * at(x, other);
            (column(x / 2) + column(x / 2 + x % 2)) / 2.0 - 128.0
        };
        for (i, l) in luma.iter().enumerate() {
            let l = (*l as f64 - 16.0) * 255.0 / 219.0;
            let r = l + sample(cr, i % w, i / w) * 255.0 / 224.0 * 1.5748;
            let b = l + sample(cb, i % w, i / w) * 255.0 / 224.0 * 1.8556;
            rgb.extend([r, (l - 0.2126 * r - 0.0722 * b) / 0.7152, b].map(|v| v.round().clamp(0.0, 255.0) as u8));
        }
    }
    rgb
}

#[test]
fn byte_rule_matches_the_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vae/postprocess/save_sample.safetensors");
    let Ok(bytes) = std::fs::read(&path) else {
        eprintln!("skip: no fixture at {}", path.display());
        return;
    };
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (x, expected) in [("x", "frames_u8"), ("image_x", "image_u8")] {
        let (x, expected) = (file.tensor(x).unwrap(), file.tensor(expected).unwrap());
        let numbers: Vec<f32> = x.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let frames = Frames::from_pixels(&numbers, x.shape().try_into().unwrap(), 24.0).unwrap();
        assert_eq!([frames.count(), frames.height, frames.width], x.shape()[1..]);
        assert_eq!(frames.rgb, expected.data());
    }
}

#[test]
fn pixels_are_clamped_and_nan_is_named() {
    let frames = Frames::from_pixels(&[-9.0, -1.0, 0.0, 1.0, 7.0, f32::INFINITY], [3, 1, 1, 2], 24.0).unwrap();
    assert_eq!(frames.rgb, [0, 128, 255, 0, 255, 255]);
    let mut x = vec![0.0; 3 * 2 * 4 * 5];
    x[20 + 5 * 3 + 2] = f32::NAN; // channel 0, frame 1, row 3, column 2
    let message = Frames::from_pixels(&x, [3, 2, 4, 5], 24.0).unwrap_err().to_string();
    assert!(message.contains("frame 1, row 3, column 2, channel 0"), "{message}");
}

#[test]
fn mp4_round_trip() {
    let dir = temporary();
    for (w, h, n) in [(64, 64, 24), (50, 38, 24), (51, 39, 7), (64, 64, 1), (2, 2, 3), (1, 1, 1), (128, 96, 90)] {
        let frames = clip(w, h, n);
        let path = save(dir.path(), &format!("{w}x{h}x{n}.mp4"), &frames);
        let back = read_mp4(&path).unwrap();
        assert_eq!((back.width, back.height, back.count()), (w, h, n));
        assert!((back.fps - 24.0).abs() < 1e-9, "{}", back.fps);
        let (_, worst) = quality::worst_frame(&quality::psnr_frames(&frames, &back)).unwrap();
        println!("{w} x {h} x {n}: worst frame {worst:.1} dB, {} bytes", path.metadata().unwrap().len());
        assert!(worst >= 35.0 || w < 16, "{w} x {h} x {n}: {worst} dB"); // tiny pictures are all chroma edges
        assert_eq!(read_recipe(&path).unwrap(), Some(recipe()));
    }
    let colours = read_mp4(&save(dir.path(), "colours.mp4", &patches(3))).unwrap();
    assert!(patch_error(colours.frame(2)) <= 5, "off by {}", patch_error(colours.frame(2)));
}

#[test]
fn mp4_keeps_order_over_many_frames_and_cuts() {
    // longer than the encoder's group of pictures and than its counters; cuts to the negative and back
    let dir = temporary();
    let mut frames = clip(32, 32, 300);
    let (n, third) = (32 * 32 * 3, 300 / 3);
    frames.rgb[third * n..2 * third * n].iter_mut().for_each(|v| *v = 255 - *v);
    let path = save(dir.path(), "long.mp4", &frames);
    let back = read_mp4(&path).unwrap();
    assert_eq!(back.count(), 300);
    let (i, worst) = quality::worst_frame(&quality::psnr_frames(&frames, &back)).unwrap();
    println!("300 frames with cuts: worst frame {i} at {worst:.1} dB");
    assert!(worst >= 33.0, "frame {i}: {worst} dB");
    if installed("ffmpeg") {
        let theirs = rgb_of_420(&ffmpeg_raw(&path, "yuv420p"), 32, 32);
        assert_eq!(theirs.len(), back.rgb.len());
        assert!(theirs.iter().zip(&back.rgb).all(|(a, b)| a.abs_diff(*b) <= 1));
    }
    if installed("ffprobe") {
        let probe = Command::new("ffprobe")
            .args(["-v", "warning", "-of", "csv=p=0", "-show_entries", "packet=flags"])
            .arg(&path)
            .output()
            .unwrap();
        let keys: Vec<usize> = String::from_utf8_lossy(&probe.stdout)
            .lines()
            .enumerate()
            .filter_map(|(i, flags)| flags.contains('K').then_some(i))
            .collect();
        println!("key frames {keys:?}");
        assert!(keys.contains(&0) && keys.len() >= 2 && keys.len() < 20, "{keys:?}");
    }
}

#[test]
fn mp4_quality_follows_crf() {
    let dir = temporary();
    let frames = clip(64, 64, 8);
    let sizes = [10, 20, 40].map(|crf| {
        let path = dir.path().join(format!("{crf}.mp4"));
        let bytes =
            media::write(&path, &frames, Format::Mp4, &WriteOptions { crf, ..Default::default() }).unwrap().bytes;
        (bytes, quality::psnr(&frames.rgb, &read_mp4(&path).unwrap().rgb))
    });
    println!("{sizes:?}");
    assert!(sizes.windows(2).all(|w| w[0].0 > w[1].0 && w[0].1 > w[1].1), "{sizes:?}");
}

#[test]
fn ffmpeg_agrees_on_mp4() {
    if !installed("ffmpeg") || !installed("ffprobe") {
        return;
    }
    let dir = temporary();
    for (w, h, n, fps) in [(64, 64, 24, 24.0), (50, 38, 24, 29.97), (64, 64, 1, 8.0), (128, 96, 90, 60.0)] {
        let frames = Frames { fps, ..clip(w, h, n) };
        let path = save(dir.path(), &format!("{w}x{h}x{n}.mp4"), &frames);
        let theirs = ffmpeg(&path, w, h, fps);
        assert_eq!(theirs.count(), n);
        let ours = read_mp4(&path).unwrap();
        let source = quality::psnr(&frames.rgb, &theirs.rgb);
        println!("{w} x {h} x {n}: ffmpeg against source {source:.1} dB");
        assert!(source >= 35.0, "{source}");
        // the decoders agree bit for bit; only how chroma is brought to full size is a matter of taste
        let expected = rgb_of_420(&ffmpeg_raw(&path, "yuv420p"), w, h);
        let worst = ours.rgb.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(ours.rgb.len() == expected.len() && worst <= Some(1), "decoders differ by {worst:?}");

        let out = Command::new("ffprobe")
            .args(["-v", "warning", "-of", "json", "-show_streams", "-show_format", "-count_frames"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        let told: Value = serde_json::from_slice(&out.stdout).unwrap();
        let stream = &told["streams"][0];
        let expected = [
            ("codec_name", "h264"),
            ("codec_tag_string", "avc1"),
            ("profile", "High"),
            ("pix_fmt", "yuv420p"),
            ("color_range", "tv"),
            ("color_space", "bt709"),
            ("color_transfer", "bt709"),
            ("color_primaries", "bt709"),
            ("chroma_location", "left"),
        ];
        for (key, value) in expected {
            assert_eq!(stream[key], value, "{key}");
        }
        assert_eq!((stream["width"].as_u64(), stream["height"].as_u64()), (Some(w as u64), Some(h as u64)));
        assert_eq!(stream["nb_read_frames"], n.to_string());
        let seconds: f64 = stream["duration"].as_str().unwrap().parse().unwrap();
        assert!((seconds - n as f64 / fps).abs() < 1e-3, "{seconds}");
        assert_eq!(stream["avg_frame_rate"], if fps == 29.97 { "30000/1001".into() } else { format!("{fps}/1") });
        let tag = told["format"]["tags"][media::RECIPE_KEY].as_str().expect("the recipe, as others see it");
        assert_eq!(serde_json::from_str::<Value>(tag).unwrap(), recipe());
    }
    let path = save(dir.path(), "colours.mp4", &patches(5));
    let theirs = ffmpeg(&path, 96, 64, 25.0);
    assert!(patch_error(theirs.frame(4)) <= 5, "off by {}", patch_error(theirs.frame(4)));
}

#[test]
fn reads_what_others_write() {
    if !installed("ffmpeg") {
        return;
    }
    // x264 with B pictures, several references, no colour named: reordering and BT.601 are the reader's business
    let dir = temporary();
    let (raw, path) = (dir.path().join("in.y4m"), dir.path().join("theirs.mp4"));
    let frames = clip(128, 96, 30);
    media::write(&raw, &frames, Format::Y4m, &WriteOptions::default()).unwrap();
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(&raw)
        .args(["-c:v", "libx264", "-crf", "12", "-bf", "3", "-refs", "3", "-pix_fmt", "yuv420p"])
        .arg(&path)
        .output()
        .unwrap();
    if !made.status.success() {
        eprintln!("skip: this ffmpeg has no libx264");
        return;
    }
    let back = read_mp4(&path).unwrap();
    assert_eq!(back.count(), 30);
    let (i, worst) = quality::worst_frame(&quality::psnr_frames(&frames, &back)).unwrap();
    println!("x264 with B pictures: worst frame {i} at {worst:.1} dB");
    assert!(worst >= 35.0, "frame {i}: {worst} dB");
    assert_eq!(read_recipe(&path).unwrap(), None);
}

#[test]
fn png_and_apng_are_exact() {
    let dir = temporary();
    for (w, h, n) in [(37, 21, 5), (16, 16, 1)] {
        let frames = Frames { fps: 29.97, ..clip(w, h, n) };
        let path = save(dir.path(), &format!("{n}.png"), &frames);
        let mut reader =
            png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap())).read_info().unwrap();
        let animation = reader.info().animation_control.map(|a| (a.num_frames, a.num_plays));
        assert_eq!(animation, (n > 1).then_some((n as u32, 0)), "one frame is a plain picture");
        for i in 0..n {
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut pixels).unwrap();
            assert_eq!(pixels, frames.frame(i), "frame {i}");
            let delay = reader.info().frame_control.map(|f| (f.delay_num, f.delay_den));
            assert_eq!(delay, (n > 1).then_some((1001, 30000)));
        }
        assert_eq!(read_recipe(&path).unwrap(), Some(recipe()));

        let folder = save(dir.path(), &format!("folder {n}"), &frames);
        assert_eq!(names(&folder), (0..n).map(|i| format!("{i:04}.png")).collect::<Vec<_>>());
        for (i, name) in names(&folder).iter().enumerate() {
            assert_eq!(image::open(folder.join(name)).unwrap().to_rgb8().as_raw(), frames.frame(i));
        }
        assert_eq!(read_recipe(&folder).unwrap(), Some(recipe()));
    }
}

#[test]
fn gif_keeps_frames_delays_and_recipe() {
    use image::AnimationDecoder;
    let dir = temporary();
    let frames = clip(64, 48, 12);
    let path = save(dir.path(), "a.gif", &frames);
    let decoder =
        image::codecs::gif::GifDecoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap())).unwrap();
    let read = decoder.into_frames().collect_frames().unwrap();
    assert_eq!(read.len(), 12);
    let delays: Vec<u32> = read.iter().map(|f| f.delay().numer_denom_ms().0).collect();
    assert_eq!(delays.iter().sum::<u32>(), 500, "{delays:?}");
    let rgb = read.iter().flat_map(|f| f.buffer().pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]])).collect();
    let psnr = quality::psnr_frames(&frames, &Frames { rgb, ..frames.clone() });
    println!("gif: {psnr:.1?} dB");
    assert!(psnr.iter().all(|p| *p >= 32.0), "{psnr:?}");
    assert_eq!(read_recipe(&path).unwrap(), Some(recipe()));
    // few colours survive exactly
    let path = save(dir.path(), "b.gif", &patches(2));
    assert_eq!(image::open(&path).unwrap().to_rgb8().as_raw(), patches(1).frame(0));
    if installed("ffprobe") {
        let probe = Command::new("ffprobe")
            .args(["-v", "warning", "-count_frames", "-of", "csv=p=0", "-show_entries", "stream=nb_read_frames"])
            .arg(&path)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&probe.stdout).trim(), "2", "{}", String::from_utf8_lossy(&probe.stderr));
    }
}

#[test]
fn y4m_and_rgb() {
    let dir = temporary();
    let frames = clip(33, 17, 4);
    let path = save(dir.path(), "a.y4m", &frames);
    let bytes = std::fs::read(&path).unwrap();
    let header = b"YUV4MPEG2 W33 H17 F24:1 Ip A1:1 C444 XCOLORRANGE=LIMITED\n";
    assert!(bytes.starts_with(header));
    assert_eq!(bytes.len(), header.len() + 4 * (6 + 33 * 17 * 3));
    let mut streamed = Vec::new();
    media::write_to(&mut streamed, &frames, Format::Y4m).unwrap();
    assert_eq!(streamed, bytes);
    assert_eq!(std::fs::read(save(dir.path(), "a.rgb", &frames)).unwrap(), frames.rgb);
    assert!(media::write_to(&mut streamed, &frames, Format::Mp4).is_err());
    assert_eq!(read_recipe(&path).unwrap(), None);
    if installed("ffmpeg") {
        let theirs = ffmpeg(&path, 33, 17, 24.0);
        assert_eq!(theirs.count(), 4);
        let psnr = quality::psnr(&frames.rgb, &theirs.rgb);
        println!("y4m through ffmpeg: {psnr:.1} dB");
        assert!(psnr >= 45.0, "{psnr}");
        let theirs = ffmpeg(&save(dir.path(), "colours.y4m", &patches(1)), 96, 64, 25.0);
        assert!(patch_error(theirs.frame(0)) <= 2, "off by {}", patch_error(theirs.frame(0)));
    }
}

#[test]
fn refuses_to_overwrite_unless_asked() {
    let dir = temporary();
    let (first, second) = (clip(16, 16, 2), clip(16, 16, 3));
    for name in ["a.mp4", "a.gif", "a.png", "a.y4m", "a.rgb", "frames"] {
        let path = save(dir.path(), name, &first);
        let format = Format::from_path(&path).unwrap();
        let again = |overwrite| media::write(&path, &second, format, &WriteOptions { overwrite, ..Default::default() });
        let message = again(false).unwrap_err();
        assert!(matches!(message, Error::Request { .. }) && message.to_string().contains(name), "{message}");
        again(true).unwrap();
        assert!(media::check_writable(&path, format, false).is_err());
        media::check_writable(&path, format, true).unwrap();
    }
    assert_eq!(names(&dir.path().join("frames")), ["0000.png", "0001.png", "0002.png"]);
    assert_eq!(names(dir.path()).len(), 6, "nothing temporary is left: {:?}", names(dir.path()));

    // a folder of anything else is never replaced, an empty one is filled, a file is no folder and the other way round
    let other = dir.path().join("holiday");
    std::fs::create_dir(&other).unwrap();
    media::check_writable(&other, Format::PngFolder, false).unwrap();
    std::fs::write(other.join("beach.png"), b"x").unwrap();
    let forced = WriteOptions { overwrite: true, ..Default::default() };
    assert!(matches!(media::write(&other, &first, Format::PngFolder, &forced), Err(Error::Request { .. })));
    assert_eq!(names(&other), ["beach.png"]);
    std::fs::remove_file(other.join("beach.png")).unwrap();
    media::write(&other, &first, Format::PngFolder, &WriteOptions::default()).unwrap();
    assert_eq!(names(&other).len(), 2);
    assert!(matches!(media::write(&other, &first, Format::Mp4, &forced), Err(Error::Request { .. })));
    assert!(matches!(
        media::write(&dir.path().join("a.gif"), &first, Format::PngFolder, &forced),
        Err(Error::Request { .. })
    ));
    assert!(matches!(media::check_writable(Path::new(".."), Format::PngFolder, true), Err(Error::Request { .. })));
    assert!(matches!(media::check_writable(Path::new("-"), Format::Mp4, true), Err(Error::Request { .. })));
    media::check_writable(Path::new("-"), Format::Y4m, false).unwrap();
}

#[test]
fn unwritable_places_are_named_and_left_alone() {
    let dir = temporary();
    let frames = clip(16, 16, 2);
    std::fs::write(dir.path().join("file"), b"x").unwrap();
    for parent in [dir.path().join("missing"), dir.path().join("file"), PathBuf::from("/proc/self")] {
        if parent.starts_with("/proc") && !parent.exists() {
            continue;
        }
        for name in ["a.mp4", "a.gif", "a.png", "a.y4m", "a.rgb", "frames"] {
            let path = parent.join(name);
            let format = Format::from_path(&path).unwrap();
            for error in [
                media::check_writable(&path, format, true).unwrap_err(),
                media::write(&path, &frames, format, &WriteOptions::default()).unwrap_err(),
            ] {
                assert!(matches!(error, Error::Io { .. }), "{error}");
                assert!(error.to_string().contains(parent.to_str().unwrap()), "{error}");
            }
        }
    }
    // frames that cannot be written leave nothing either
    let broken = [
        Frames { rgb: Vec::new(), ..frames.clone() },
        Frames { rgb: vec![0; 1000], ..frames.clone() },
        Frames { width: 0, ..frames.clone() },
        Frames { fps: f64::NAN, ..frames.clone() },
        Frames { fps: 0.0, ..frames.clone() },
    ];
    for frames in broken {
        let path = dir.path().join("b.mp4");
        assert!(media::write(&path, &frames, Format::Mp4, &WriteOptions::default()).is_err());
    }
    assert_eq!(names(dir.path()), ["file"]);
}

#[cfg(unix)]
#[test]
fn new_files_have_ordinary_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let dir = temporary();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, b"").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
    assert_eq!(mode(&save(dir.path(), "a.rgb", &clip(2, 2, 1))), mode(&plain));
    std::fs::create_dir(dir.path().join("made")).unwrap();
    assert_eq!(mode(&save(dir.path(), "frames", &clip(2, 2, 1))), mode(&dir.path().join("made")));
}

/// xorshift; the damage must be the same on every run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn damaged_files_are_errors_not_panics() {
    let dir = temporary();
    let good = std::fs::read(save(dir.path(), "good.mp4", &clip(48, 32, 6))).unwrap();
    let path = dir.path().join("bad");
    let mut state = 0x2545_f491_4f6c_dd1d;
    for cut in (0..good.len()).step_by(good.len() / 60) {
        std::fs::write(&path, &good[..cut]).unwrap();
        assert!(read_mp4(&path).is_err(), "cut at {cut} of {}", good.len());
        let _ = read_recipe(&path);
    }
    for length in [0, 1, 7, 8, 100, 5000] {
        let noise: Vec<u8> = (0..length).map(|_| random(&mut state) as u8).collect();
        std::fs::write(&path, &noise).unwrap();
        assert!(read_mp4(&path).is_err());
        std::fs::write(&path, [b"\0\0\0\x08ftyp".as_slice(), &noise].concat()).unwrap();
        assert!(read_mp4(&path).is_err());
    }
    // a few bytes changed: anything but a panic, a hang or an unbounded allocation will do
    let (mut read, mut refused) = (0, 0);
    for round in 0..600 {
        let mut bytes = good.clone();
        let range = if round % 2 == 0 { 1200.min(bytes.len()) } else { bytes.len() }; // half of it in the index
        for _ in 0..1 + random(&mut state) % 6 {
            let at = random(&mut state) as usize % range;
            bytes[at] = if random(&mut state).is_multiple_of(3) { 0xff } else { random(&mut state) as u8 };
        }
        std::fs::write(&path, &bytes).unwrap();
        match read_mp4(&path) {
            Ok(frames) => {
                read += 1;
                assert_eq!(frames.rgb.len(), frames.count() * frames.width * frames.height * 3);
            }
            Err(e) => {
                refused += 1;
                assert!(e.to_string().contains("bad"), "names the file: {e}");
            }
        }
        let _ = read_recipe(&path);
    }
    println!("{read} read, {refused} refused");
    for name in ["a.gif", "a.png"] {
        let good = std::fs::read(save(dir.path(), name, &clip(24, 16, 3))).unwrap();
        for cut in 0..good.len() {
            std::fs::write(&path, &good[..cut]).unwrap();
            let _ = read_recipe(&path);
        }
        for _ in 0..300 {
            let mut bytes = good.clone();
            let at = random(&mut state) as usize % bytes.len();
            bytes[at] = random(&mut state) as u8;
            std::fs::write(&path, &bytes).unwrap();
            let _ = read_recipe(&path);
        }
    }
    // a hundred thousand tiny boxes must cost neither stack nor time
    let boxes = [b"\0\0\0\x08ftyp".as_slice(), &b"\0\0\0\x08free".repeat(100_000)].concat();
    std::fs::write(&path, boxes).unwrap();
    assert!(read_mp4(&path).unwrap_err().to_string().contains("moov"));
    assert!(matches!(read_mp4(&dir.path().join("nowhere.mp4")), Err(Error::Io { .. })));
}

/// SSIM as the paper writes it: every window summed in two dimensions.
fn ssim_by_hand(a: &[u8], b: &[u8], width: usize, height: usize) -> f64 {
    let luma = |p: &[u8], i: usize| 0.299 * p[3 * i] as f64 + 0.587 * p[3 * i + 1] as f64 + 0.114 * p[3 * i + 2] as f64;
    let weight = |i: usize, j: usize| (-((i as f64 - 5.0).powi(2) + (j as f64 - 5.0).powi(2)) / 4.5).exp();
    let total: f64 = (0..121).map(|k| weight(k / 11, k % 11)).sum();
    let (mut sum, mut windows) = (0.0, 0.0);
    for y in 0..=height - 11 {
        for x in 0..=width - 11 {
            let mean = |f: &dyn Fn(usize) -> f64| {
                (0..121).map(|k| weight(k / 11, k % 11) / total * f((y + k / 11) * width + x + k % 11)).sum::<f64>()
            };
            let (ma, mb) = (mean(&|i| luma(a, i)), mean(&|i| luma(b, i)));
            let va = mean(&|i| (luma(a, i) - ma).powi(2));
            let vb = mean(&|i| (luma(b, i) - mb).powi(2));
            let cov = mean(&|i| (luma(a, i) - ma) * (luma(b, i) - mb));
            let (c1, c2) = (6.5025, 58.5225);
            sum += (2.0 * ma * mb + c1) * (2.0 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
            windows += 1.0;
        }
    }
    sum / windows
}

#[test]
fn quality_measures() {
    assert_eq!(quality::psnr(&[1, 2, 3], &[1, 2, 3]), f64::INFINITY);
    assert_eq!(quality::psnr(&[0; 5], &[255; 5]), 0.0);
    assert!((quality::psnr(&[10, 10, 10, 10], &[10, 12, 10, 10]) - 48.1308).abs() < 1e-4); // mean square 1

    let a = clip(40, 28, 3);
    let mut state = 7;
    let mut b = a.clone();
    let n = b.rgb.len();
    for v in &mut b.rgb[n / 3..] {
        *v = v.saturating_add((random(&mut state) % 25) as u8);
    }
    let each = quality::ssim_frames(&a, &b);
    for (i, v) in each.iter().enumerate() {
        let expected = ssim_by_hand(a.frame(i), b.frame(i), 40, 28);
        assert!((v - expected).abs() < 1e-9, "frame {i}: {v} against {expected}");
    }
    assert!((each[0] - 1.0).abs() < 1e-12 && each[1] < 0.99, "{each:?}");
    assert!((quality::ssim(&a, &b) - each.iter().sum::<f64>() / 3.0).abs() < 1e-15);
    assert!((quality::ssim(&clip(6, 5, 1), &clip(6, 5, 1)) - 1.0).abs() < 1e-12, "smaller than a window");

    let psnr = quality::psnr_frames(&a, &b);
    assert_eq!(psnr[0], f64::INFINITY);
    assert_ne!(quality::worst_frame(&psnr).unwrap().0, 0);
    assert_eq!(quality::worst_frame(&[3.0, 1.0, 1.0]), Some((1, 1.0)));
    assert_eq!(quality::worst_frame(&[3.0, f64::NAN]).unwrap().0, 1);
    assert_eq!(quality::worst_frame(&[]), None);
}
