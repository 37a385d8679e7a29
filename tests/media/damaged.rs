//! Hostile input.

use residua::Error;
use residua::media::{read_mp4, read_recipe};

use crate::clips::*;

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
