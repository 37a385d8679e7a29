//! The lossless and the palette formats, and the rule from pixels to bytes.

use std::path::Path;
use std::process::Command;

use residua::media::{self, Format, Frames, quality, read_recipe};

use crate::clips::*;

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
