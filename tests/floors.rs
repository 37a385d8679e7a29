//! The floors of the crate: a module looks only at what stands below it.

use std::path::Path;

const FLOORS: [&[&str]; 9] = [
    &["error", "text", "media"],
    &["gpu"],
    &["tensor"],
    &["ops"],
    &["nn"],
    &["cache"],
    &["models", "diffusion"],
    &["pipeline"],
    &["cli", "main"],
];

/// Known exceptions: the recorder binds tensors, which stand on the device it is part of; a device that is opened
/// decides on a kernel family only after a trial of its kernels.
const EXCEPTIONS: [(&str, &str); 2] = [("gpu/recorder.rs", "tensor"), ("gpu/open.rs", "ops")];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn walk(dir: &Path, look: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, look) } else { look(&path) }
    }
}

/// First names behind each `crate::`, those of a group in braces included.
fn names(code: &str) -> Vec<&str> {
    let heads = code.split("crate::").skip(1);
    let word = |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    heads
        .flat_map(|rest| match rest.strip_prefix('{') {
            None => vec![&rest[..word(rest)]],
            Some(group) => {
                let (mut depth, mut found, mut fresh) = (1, Vec::new(), true);
                for (i, c) in group.char_indices() {
                    depth = depth + i32::from(c == '{') - i32::from(c == '}');
                    if depth == 0 {
                        break;
                    }
                    if fresh && depth == 1 && c.is_alphabetic() {
                        found.push(&group[i..i + word(&group[i..])]);
                        fresh = false;
                    }
                    fresh |= depth == 1 && c == ',';
                }
                found
            }
        })
        .collect()
}

#[test]
fn modules_look_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut wrong, mut seen) = (Vec::new(), 0);
    walk(&src, &mut |path| {
        let file = path.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
        let own = file.split(['/', '.']).next().unwrap();
        if own == "lib" {
            return;
        }
        let Some(height) = floor(own) else { return wrong.push(format!("src/{file}: `{own}` has no floor")) };
        let text = std::fs::read_to_string(path).unwrap();
        let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        for name in names(&code.join("\n")) {
            // what is at the root itself (`Error`, `wgpu`) belongs to nobody; errors are everybody's
            let Some(below) = floor(name) else { continue };
            seen += 1;
            let known = EXCEPTIONS.contains(&(file.as_str(), name));
            if name != own && name != "error" && below >= height && !known {
                wrong.push(format!("src/{file} (floor {height}, `{own}`) looks at `{name}` (floor {below})"));
            }
        }
    });
    assert!(seen > 50, "found only {seen} uses: is this test still reading the code?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn groups_are_taken_apart() {
    assert_eq!(
        names("use crate::{gpu::{Gpu, Prefs}, ops, tensor::Tensor};\nfn f(x: crate::Error) {}"),
        ["gpu", "ops", "tensor", "Error"]
    );
}
