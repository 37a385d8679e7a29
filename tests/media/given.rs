//! Pictures and clips that a video is to contain, read from files.

use std::path::Path;

use residua::Error;
use residua::media::{Frames, Reference};

use crate::clips::*;

fn read(path: &Path) -> Reference {
    Reference::read(path).unwrap_or_else(|e| panic!("{e}"))
}

/// Whether a file of this name can be made, and read, by this build.
fn readable(name: &str) -> bool {
    cfg!(feature = "pictures") || name.ends_with(".png") || name.ends_with(".gif")
}

/// Mean distance of two clips' bytes, levels.
fn distance(a: &Frames, b: &Frames) -> f64 {
    assert_eq!((a.width, a.height, a.count()), (b.width, b.height, b.count()));
    a.rgb.iter().zip(&b.rgb).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.rgb.len() as f64
}

#[test]
fn pictures() {
    let dir = temporary();
    let one = clip(48, 31, 1);
    let image = image::RgbImage::from_raw(48, 31, one.rgb.clone()).unwrap();
    for (name, most) in [("a.png", 0.0), ("a.webp", 0.0), ("a.jpg", 4.0), ("a.gif", 6.0)] {
        if !readable(name) {
            continue;
        }
        let path = dir.path().join(name);
        image.save(&path).unwrap();
        let Reference::Picture(frames) = read(&path) else { panic!("{name} is a picture") };
        assert!(distance(&frames, &one) <= most, "{name}: {}", distance(&frames, &one));
        // the contents decide, not the name
        let other = dir.path().join("renamed.txt");
        std::fs::rename(&path, &other).unwrap();
        assert!(matches!(read(&other), Reference::Picture(_)), "{name}");
    }
    // alpha is dropped, gray is gray, 16 bits are 8
    let path = dir.path().join("b.png");
    image::RgbaImage::from_pixel(2, 2, image::Rgba([10, 20, 30, 0])).save(&path).unwrap();
    assert_eq!(read(&path).frames().rgb, [10, 20, 30].repeat(4));
    image::GrayImage::from_pixel(2, 2, image::Luma([77])).save(&path).unwrap();
    assert_eq!(read(&path).frames().rgb, [77; 12]);
    let deep = image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(2, 1, image::Rgb([0xffffu16, 0x8000, 0]));
    deep.save(&path).unwrap();
    assert_eq!(read(&path).frames().rgb, [255, 128, 0].repeat(2));
}

#[test]
fn clips() {
    let dir = temporary();
    let film = clip(48, 32, 5);
    for (name, most) in [("a.png", 0.0), ("a.gif", 6.0), ("a.mp4", 4.0), ("frames", 0.0)] {
        let Reference::Clip(frames) = read(&save(dir.path(), name, &film)) else { panic!("{name} is a clip") };
        assert!(distance(&frames, &film) <= most, "{name}: {}", distance(&frames, &film));
    }
    // one frame of a folder or an animation is a picture
    assert!(matches!(read(&save(dir.path(), "one", &clip(16, 16, 1))), Reference::Picture(_)));
    let odd = dir.path().join("frames/0002.png");
    image::RgbImage::new(47, 32).save(&odd).unwrap();
    let said = Reference::read(&dir.path().join("frames")).unwrap_err().to_string();
    assert!(said.contains("0002.png") && said.contains("47 x 32") && said.contains("48 x 32"), "{said}");
}

#[test]
fn damaged_files_are_errors() {
    let dir = temporary();
    let path = dir.path().join("bad");
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let (mut good, mut refused) = (0, 0);
    let film = clip(24, 16, 3);
    let image = image::RgbImage::from_raw(24, 16, film.frame(0).to_vec()).unwrap();
    for name in ["a.png", "b.png", "b.gif", "a.jpg", "a.webp"].into_iter().filter(|name| readable(name)) {
        let file = dir.path().join(name);
        if name.starts_with('a') {
            image.save(&file).unwrap()
        } else {
            drop(save(dir.path(), name, &film))
        }
        let whole = std::fs::read(&file).unwrap();
        let mut judge = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            match Reference::read(&path) {
                Ok(reference) => {
                    good += 1;
                    let frames = reference.frames();
                    assert_eq!(frames.rgb.len(), frames.count() * frames.width * frames.height * 3);
                    assert!(frames.count() > 0);
                }
                Err(e) => {
                    refused += 1;
                    assert!(matches!(e, Error::Io { .. }) && e.to_string().contains("bad"), "names the file: {e}");
                }
            }
        };
        for cut in (0..whole.len()).step_by(whole.len().div_ceil(80)) {
            judge(&whole[..cut]);
        }
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random(&mut state) % 4 {
                let at = random(&mut state) as usize % bytes.len();
                bytes[at] = if random(&mut state).is_multiple_of(3) { 0xff } else { random(&mut state) as u8 };
            }
            judge(&bytes);
        }
    }
    println!("{good} read, {refused} refused");
    assert!(refused > 150 && good > 0);
}
