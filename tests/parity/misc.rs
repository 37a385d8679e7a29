//! Everything that is only text and numbers: `stdit3/misc` (but the position tables) and the start noise.

use half::bf16;
use residua::diffusion::noise::TorchCpuRng;
use residua::diffusion::schedule::{RectifiedFlow, Rounding, TimestepTransform};
use residua::pipeline::{mask_strategy, sizes};
use residua::text::clean::clean_caption;
use residua::text::prompt::{Embedded, Scores, Segments};
use serde_json::Value;

use super::text::{equal, indices, per_loop, rows, strings, text};
use super::{Report, files, json, name, root};

pub fn run(report: &mut Report) {
    for path in files(&root().join("stdit3/misc"), "json") {
        let case = format!("stdit3/misc/{}", name(&path));
        // the position tables are read beside the model
        if !report.wants(&case) || name(&path) == "positions" {
            continue;
        }
        let file = json(&path);
        match name(&path).as_str() {
            "timesteps" => timesteps(report, &case, &file),
            "sizes" => rows(report, &case, &file, size_row),
            "text_cleaning" => rows(report, &case, &file, |row| {
                equal("cleaned", text(row, "output"), &clean_caption(text(row, "input")))
            }),
            "prompts" => prompts(report, &case, &file),
            "mask_strategy" => rows(report, &case, &file, mask_row),
            "resolution_tables" => tables(report, &case, &file),
            _ => report.skip(&case, "no test reads this file"),
        }
    }
    for path in files(&root().join("stdit3/misc"), "safetensors") {
        if name(&path) != "positions" {
            report.skip(&format!("stdit3/misc/{}", name(&path)), "no test reads this file");
        }
    }
    for path in files(&root().join("noise"), "json") {
        let case = format!("noise/{}", name(&path));
        if report.wants(&case) {
            rows(report, &case, &json(&path)["rows"], noise_row);
        }
    }
}

/// The fixture is torch's f32; ours is f64. Four operations of f32 on numbers up to 1000 lose at most some 3e-4.
fn timesteps(report: &mut Report, case: &str, file: &Value) {
    let mut worst: f64 = 0.0;
    let mut differing = 0;
    for row in file.as_array().unwrap() {
        let transform = TimestepTransform {
            height: number(row, "height"),
            width: number(row, "width"),
            num_frames: number(row, "num_frames"),
            rounding: if text(row, "args_dtype") == "bfloat16" { Rounding::Bf16 } else { Rounding::Exact },
        };
        let flow = RectifiedFlow {
            steps: number(row, "steps"),
            transform: row["transform"].as_bool().unwrap().then_some(transform),
        };
        let got = flow.timesteps();
        let expected = floats(&row["timesteps"]);
        if got.len() != expected.len() {
            worst = f64::NAN;
        }
        for (a, b) in got.iter().zip(&expected) {
            worst = if (a - b).is_nan() { f64::NAN } else { worst.max((a - b).abs()) };
        }
        // what a bfloat16 model sees: our numbers must round to the same, unless they lie on the very edge
        for (a, b) in got.iter().zip(floats(&row["timesteps_as_bf16"])) {
            let near = [a - 3e-4, *a, a + 3e-4].map(|t| bf16::from_f32(t as f32).to_f64());
            differing += usize::from(!near.contains(&b));
        }
    }
    report.error(case, worst, 3e-4);
    report.exact(
        &format!("{case}/bf16"),
        differing == 0,
        format!("{differing} timesteps round differently to bfloat16"),
    );
}

fn size_row(row: &Value) -> Result<(), String> {
    let (height, width) =
        sizes::image_size(text(row, "resolution"), text(row, "aspect_ratio")).map_err(|e| e.to_string())?;
    let frames = sizes::frames(text(row, "frames_arg")).map_err(|e| e.to_string())?;
    equal("size", &[number(row, "height"), number(row, "width"), number(row, "num_frames")], &[height, width, frames])?;
    let latent = sizes::latent_size(frames, height, width);
    equal("latent", &indices(&row["latent"]).unwrap()[..], &latent[..])?;
    equal("grid", &indices(&row["grid"]).unwrap()[..], &sizes::token_grid(latent)[..])?;
    let fps = sizes::model_fps(frames, row["fps"].as_f64().unwrap_or(24.0));
    let told = [
        ("height", height as f64),
        ("width", width as f64),
        ("num_frames", frames as f64),
        ("ar", height as f64 / width as f64),
        ("fps", fps),
    ];
    for (field, value) in told {
        equal(field, &row["float32"][field].as_f64(), &Some((value as f32).into()))?;
        equal(field, &row["bfloat16"][field].as_f64(), &Some(bf16::from_f32(value as f32).to_f64()))?;
    }
    Ok(())
}

fn prompts(report: &mut Report, case: &str, file: &Value) {
    for (kind, list) in file.as_object().unwrap() {
        let case = format!("{case}/{kind}");
        match kind.as_str() {
            "append_score" => rows(report, &case, list, |row| {
                let scores = Scores {
                    aesthetic: row["aes"].as_f64(),
                    motion: row["flow"].as_f64(),
                    camera_motion: row["camera_motion"].as_str().map(str::to_string),
                };
                equal("output", text(row, "output"), &scores.append(text(row, "prompt")))
            }),
            "loops" => rows(report, &case, list, |row| {
                let segments = Segments::split(text(row, "prompt")).map_err(|e| e.to_string())?;
                equal("segments", &strings(&row["segments"]), &segments.texts)?;
                equal("loop_index", &indices(&row["loop_index"]), &segments.starts)?;
                equal("merged", text(row, "merged"), &segments.merged())?;
                per_loop(&row["per_loop"], &segments)
            }),
            "json" => rows(report, &case, list, |row| {
                let embedded = Embedded::split(text(row, "prompt")).map_err(|e| e.to_string())?;
                equal("text", text(row, "text"), &embedded.text)?;
                equal("reference_path", text(row, "reference_path"), &embedded.reference_path.unwrap_or_default())?;
                equal("mask_strategy", text(row, "mask_strategy"), &embedded.mask_strategy.unwrap_or_default())
            }),
            _ => report.skip(&case, "no test reads this list"),
        }
    }
}

/// Reference j holds 100·(j + 1) + frame, so the video shows where each frame went.
fn mask_row(row: &Value) -> Result<(), String> {
    let frames = number(row, "latent_frames");
    let align = row["align"].as_u64().map(|a| a as usize);
    for (i, strategy) in strings(&row["mask_strategy"]).iter().enumerate() {
        let groups = mask_strategy::parse(strategy).map_err(|e| e.to_string())?;
        let parsed: Vec<Vec<f64>> = groups
            .iter()
            .map(|g| {
                let whole = [g.at_loop, g.reference, g.ref_start, g.target_start, g.length].map(|v| v as f64);
                [&whole[..], &[g.edit]].concat()
            })
            .collect();
        let expected: Vec<Vec<f64>> = row["parsed"][i].as_array().unwrap().iter().map(floats).collect();
        equal("parsed", &expected, &parsed)?;

        let references = indices(&row["reference_latent_frames"][i]).unwrap();
        let plan = mask_strategy::apply(&groups, number(row, "loop"), frames, &references, align)
            .map_err(|e| e.to_string())?;
        let mask: Vec<f32> = floats(&row["mask"][i]).iter().map(|&v| v as f32).collect();
        equal("mask", &mask, &plan.mask)?;
        let mut video = vec![0.0; frames];
        for copy in plan.copies {
            for k in 0..copy.length {
                video[copy.target_start + k] = (100 * (copy.reference + 1) + copy.ref_start + k) as f64;
            }
        }
        equal("z", &floats(&row["z"][i]), &video)?;
    }
    Ok(())
}

/// Every size of every table, by the table's key and by each name of the ratio.
fn tables(report: &mut Report, case: &str, file: &Value) {
    let mut wrong = Vec::new();
    let mut sizes_seen = 0;
    let names = file["aspect_ratio_map"].as_object().unwrap();
    for (resolution, table) in file["tables"].as_object().unwrap() {
        if sizes::nominal_pixels(resolution).ok() != Some(number(table, "pixels")) {
            wrong.push(format!("{resolution}: nominal pixels"));
        }
        for (key, size) in table["sizes"].as_object().unwrap() {
            let expected = indices(size).unwrap();
            let named = names.iter().filter(|(_, k)| *k == key).map(|(name, _)| name);
            for ratio in named.chain([key]) {
                sizes_seen += 1;
                match sizes::image_size(resolution, ratio) {
                    Ok((h, w)) if [h, w] == expected[..] => {}
                    other => wrong.push(format!("{resolution} {ratio}: {other:?}, expected {expected:?}")),
                }
            }
        }
    }
    let durations = file["num_frames_map"].as_object().unwrap();
    for (name, frames) in durations {
        if sizes::frames(name).ok() != frames.as_u64().map(|f| f as usize) {
            wrong.push(format!("duration {name}"));
        }
    }
    let note = format!("{sizes_seen} sizes and {} durations", durations.len());
    report.exact(case, wrong.is_empty() && sizes_seen > 0, [vec![note], wrong].concat().join("\n     "));
}

/// Bit for bit: all values by their checksum, some or all by themselves.
fn noise_row(row: &Value) -> Result<(), String> {
    let mut rng = TorchCpuRng::new(row["seed"].as_u64().unwrap());
    let draws = indices(&row["draws"]).unwrap();
    let bits: Vec<u32> = draws.iter().flat_map(|&n| rng.randn(n)).map(f32::to_bits).collect();
    let at = format!("seed {} draws {draws:?}", row["seed"]);
    for (field, got) in
        [("bits", &bits[..]), ("first", &bits[..bits.len().min(16)]), ("last", &bits[bits.len().saturating_sub(16)..])]
    {
        if let Some(expected) = indices(&row[field]) {
            let got: Vec<usize> = got.iter().map(|&b| b as usize).collect();
            equal(&format!("{at} {field}"), &expected, &got)?;
        }
    }
    let hash = bits
        .iter()
        .flat_map(|b| b.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    equal(&format!("{at} checksum"), text(row, "fnv1a64"), &format!("{hash:016x}"))
}

fn number(row: &Value, field: &str) -> usize {
    row[field].as_u64().unwrap_or_else(|| panic!("no whole number `{field}` in {row}")) as usize
}

fn floats(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}
