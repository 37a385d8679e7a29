//! Where files may go, and what happens to what is there.

use std::path::{Path, PathBuf};

use residua::Error;
use residua::media::{self, Format, Frames, WriteOptions};

use crate::clips::*;

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
