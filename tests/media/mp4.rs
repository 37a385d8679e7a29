//! MP4: round trips, quality, and agreement with other programs.

use std::process::Command;

use residua::media::{self, Format, Frames, WriteOptions, quality, read_mp4, read_recipe};
use serde_json::Value;

use crate::clips::*;

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
