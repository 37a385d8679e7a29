//! Clips to encode, and other programs to check with.

use std::path::{Path, PathBuf};
use std::process::Command;

use residua::media::{self, Format, Frames, WriteOptions};
use serde_json::{Value, json};

/// A smooth coloured wave that drifts, with a bright disc crossing it.
pub fn clip(width: usize, height: usize, count: usize) -> Frames {
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
pub const PATCHES: [[u8; 3]; 6] =
    [[220, 30, 40], [30, 200, 50], [40, 60, 230], [235, 235, 235], [20, 20, 20], [230, 210, 40]];

pub fn patches(count: usize) -> Frames {
    let (width, height) = (96, 64);
    let at = |i: usize| PATCHES[(i % width) / 32 + 3 * ((i / width % height) / 32)];
    Frames { width, height, fps: 25.0, rgb: (0..width * height * count).flat_map(at).collect() }
}

/// Largest distance of the patches' centres from what they should be, levels.
pub fn patch_error(frame: &[u8]) -> u8 {
    let centre = |i: usize| &frame[((32 * (i / 3) + 16) * 96 + 32 * (i % 3) + 16) * 3..][..3];
    (0..6).flat_map(|i| PATCHES[i].iter().zip(centre(i)).map(|(a, b)| a.abs_diff(*b))).max().unwrap()
}

pub fn recipe() -> Value {
    json!({"prompt": "a snail \"on\" a leaf, 蝸牛 🐌", "seed": 42, "cfg": 7.5, "nested": {"list": [1, null, true]}})
}

pub fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub fn save(dir: &Path, name: &str, frames: &Frames) -> PathBuf {
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
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("-version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("skip: {program} is not installed");
    }
    found
}

/// The frames ffmpeg decodes from a file, in this pixel format; its warnings fail the test.
pub fn ffmpeg_raw(path: &Path, pixels: &str) -> Vec<u8> {
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

pub fn ffmpeg(path: &Path, width: usize, height: usize, fps: f64) -> Frames {
    Frames { width, height, fps, rgb: ffmpeg_raw(path, "rgb24") }
}

/// 4:2:0 BT.709 in limited range to RGB, chroma bilinear between samples on even columns and between rows.
pub fn rgb_of_420(planes: &[u8], w: usize, h: usize) -> Vec<u8> {
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

/// xorshift; the damage must be the same on every run.
pub fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
