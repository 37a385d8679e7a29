//! Given frames on their way to the encoder: bytes in, numbers out, against upstream's own resizing.

use std::path::Path;

use residua::media::{Frames, Reference};

use super::{Array, Report, arrays, files, max_abs, name};

/// Pictures agree to the byte, so only the last digit of f32 is left; clips are interpolated in f32, in another order.
const PICTURE: f64 = 2e-7;
const CLIP: f64 = 2e-6;

pub fn run(report: &mut Report, folder: &Path, title: &str) {
    for file in files(folder, "safetensors") {
        let case = format!("{title}/{}", name(&file));
        if !report.wants(&case) {
            continue;
        }
        let all = arrays(&file);
        if let (Some(bytes), Some(want)) = (all.get("image_u8_hwc"), all.get("image_vae_input")) {
            let [height, width, 3] = bytes.shape[..] else { panic!("{case}: {:?}", bytes.shape) };
            let rgb = bytes.data.iter().map(|&v| v as u8).collect();
            let picture = Reference::Picture(Frames { width, height, fps: 1.0, rgb });
            judge(report, &format!("{case}/picture"), &picture, want, PICTURE);
        }
        if let (Some(bytes), Some(want)) = (all.get("clip_u8_tchw"), all.get("clip_vae_input")) {
            let [frames, 3, height, width] = bytes.shape[..] else { panic!("{case}: {:?}", bytes.shape) };
            let plane = height * width;
            let at = |i: usize| bytes.data[(i / plane / 3 * 3 + i % 3) * plane + i / 3 % plane] as u8;
            let rgb = (0..3 * frames * plane).map(at).collect();
            let clip = Reference::Clip(Frames { width, height, fps: 1.0, rgb });
            judge(report, &format!("{case}/clip"), &clip, want, CLIP);
        }
    }
}

fn judge(report: &mut Report, case: &str, reference: &Reference, want: &Array, bound: f64) {
    let [_, _, height, width] = want.shape[..] else { panic!("{case}: {:?}", want.shape) };
    report.error(case, max_abs(&reference.fitted(height, width), &want.data), bound);
}
