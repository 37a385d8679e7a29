//! The T5 encoder against transformers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use residua::Result;
use residua::gpu::Gpu;
use residua::models::t5::{Config, T5Encoder};
use residua::nn::Tap;
use residua::tensor::{Checkpoint, Tensor, Weights};
use residua::text::Tokenizer;

use super::{Array, Measure, Report, arrays, files, folders, json, max_abs, name};

/// Of the largest value (fixture README).
const BOUND: f64 = 2e-5;

/// A block rounds about as many operands as one of STDiT3 without cross-attention. Gains measured in halves: 0.3 at most.
fn measure_of(t5: &T5Encoder) -> Measure {
    Measure::of(t5.gpu(), BOUND, 18 * t5.config().num_layers, 1.0)
}

pub fn run(report: &mut Report, gpu: &Gpu) {
    let top = super::root().join("t5");
    let models: Vec<PathBuf> = folders(&top).into_iter().filter(|f| name(f).starts_with("model")).collect();
    for folder in &models {
        model(report, gpu, folder);
    }
    // fixtures beside the models are those of the first one of their width
    let plain: Vec<&PathBuf> = models.iter().filter(|f| f.join("model.safetensors").is_file()).collect();
    for file in files(&top, "safetensors") {
        let case = format!("t5/{}", name(&file));
        if !report.wants(&case) {
            continue;
        }
        if name(&file) == "relative_buckets" {
            buckets(report, &arrays(&file), &case);
            continue;
        }
        let want = arrays(&file);
        let width = want.get("last_hidden_state").or(want.get("y_cond")).and_then(|a| a.shape.last().copied());
        let is_its = |f: &&&PathBuf| json(&f.join("config.json"))["d_model"].as_u64().map(|d| d as usize) == width;
        let Some(folder) = plain.iter().find(is_its) else {
            report.skip(&case, "no model beside it has run this");
            continue;
        };
        let outcome = T5Encoder::load(gpu, folder).and_then(|t5| {
            if name(&file) == "conditioning" {
                conditioning(report, &t5, &top, &file, &want, &case)
            } else {
                encode(report, &t5, &want, "last_hidden_state", &case)
            }
        });
        if let Err(e) = outcome {
            report.exact(&case, false, e);
        }
    }
    for file in files(&top.join("real_keys"), "json") {
        let case = format!("t5/real_keys/{}", name(&file));
        if report.wants(&case) {
            real_keys(report, gpu, &file, &case);
        }
    }
}

/// A model folder with the fixtures inside it: its own files, and other layouts of the same model as sub-folders.
fn model(report: &mut Report, gpu: &Gpu, folder: &Path) {
    let mut layouts: Vec<(String, Result<T5Encoder>, String)> = Vec::new();
    for layout in std::iter::once(folder.to_path_buf()).chain(folders(folder)) {
        if !layout.join("config.json").is_file() {
            continue;
        }
        let case = format!("t5/{}", layout.strip_prefix(super::root().join("t5")).unwrap_or(&layout).display());
        if !report.wants(&case) {
            continue;
        }
        // reference runs with rounded weights have names of their own
        let stored = json(&layout.join("config.json"))["torch_dtype"].as_str().unwrap_or_default().to_string();
        let key = match stored.as_str() {
            "float16" => "last_hidden_state_f16_weights",
            "bfloat16" => "last_hidden_state_bf16_weights",
            _ => "last_hidden_state",
        };
        layouts.push((case, T5Encoder::load(gpu, &layout), key.into()));
    }
    let truth = folder.join("all_tensors_f32.safetensors");
    let about = folders(folder).into_iter().find(|f| f.join("config.json").is_file());
    if let (true, Some(about)) = (truth.is_file(), about) {
        let loaded = Config::read(&about)
            .and_then(|c| T5Encoder::from_weights(Weights::new(gpu, Arc::new(Checkpoint::open(&truth)?), ""), c));
        layouts.push((format!("t5/{}/all_tensors_f32", name(folder)), loaded, "last_hidden_state".into()));
    }
    for (case, t5, key) in layouts {
        let t5 = match t5 {
            Ok(t5) => t5,
            Err(e) => {
                report.exact(&case, false, e);
                continue;
            }
        };
        refused(report, &t5, &case);
        for file in
            files(folder, "safetensors").iter().filter(|f| name(f).starts_with("encode") || name(f).starts_with("taps"))
        {
            let case = format!("{case}/{}", name(file));
            let want = arrays(file);
            let key = if want.contains_key(&key) { &key } else { "last_hidden_state" };
            if let Err(e) = encode(report, &t5, &want, key, &case) {
                report.exact(&case, false, e);
            }
        }
    }
}

/// Rows of every text, run on its real tokens alone.
fn encode(report: &mut Report, t5: &T5Encoder, want: &BTreeMap<String, Array>, key: &str, case: &str) -> Result<()> {
    let Some(ids) = want.get("input_ids").filter(|_| want.contains_key(key)) else {
        report.skip(case, "no `input_ids` with an outcome");
        return Ok(());
    };
    let (texts, length) = (ids.shape[0], ids.shape[1]);
    let mask = want.get("attention_mask").map_or(vec![1.0; ids.data.len()], |m| m.data.clone());
    let real: Vec<usize> = mask.chunks_exact(length).map(|m| m.iter().take_while(|&&v| v != 0.0).count()).collect();
    assert_eq!(real.iter().sum::<usize>(), mask.iter().filter(|&&v| v != 0.0).count(), "{case}: padding is not behind");
    let tokens: Vec<Vec<u32>> = ids
        .data
        .chunks_exact(length)
        .zip(&real)
        .map(|(row, &n)| row[..n].iter().map(|&v| v as u32).collect())
        .collect();
    let tokens: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    // stages come text by text
    let mut stages: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
    let mut look = |n: &str, v: Tensor| stages.entry(n.to_string()).or_default().push(v);
    let out = t5.forward_all(&tokens, &mut Tap::On(&mut look))?;
    let one = t5.forward(tokens[0])?.read_blocking()?;
    report.exact(&format!("{case}/alone"), one == out[0].read_blocking()?, "a text alone gives the same numbers");

    let (layers, measure) = (t5.config().num_layers, measure_of(t5));
    let (mut worst, mut at) = (0.0, String::new());
    let mut unseen = Vec::new();
    for (stage, expected) in want {
        let own = match stage.strip_prefix("hidden_states.").and_then(|k| k.parse::<usize>().ok()) {
            Some(0) => "shared".into(),
            Some(k) if k == layers => "encoder.final_layer_norm".into(),
            Some(k) => format!("encoder.block.{}", k - 1),
            None => stage.clone(),
        };
        // the attention module's output and the feed-forward's are those of their last projection
        let own = match own.strip_suffix(".SelfAttention").or(own.strip_suffix(".DenseReluDense")) {
            Some(_) if own.ends_with("SelfAttention") => format!("{own}.o"),
            Some(_) => format!("{own}.wo"),
            None => own,
        };
        let error = match (stage.as_str(), stages.get(&own)) {
            ("input_ids" | "attention_mask", _) => continue,
            (s, _) if s.starts_with("last_hidden_state") && s != key => continue,
            ("position_bias", _) => position_bias(t5, expected),
            (s, _) if s == key => rows(&out, expected, &real, measure)?,
            (_, Some(seen)) => rows(seen, expected, &real, measure)?,
            (s, None) => {
                unseen.push(s);
                continue;
            }
        };
        if error.is_nan() || error > worst {
            (worst, at) = (error, stage.clone());
        }
    }
    report.error(&format!("{case} ({texts} texts, {at})"), worst, measure.bound());
    if !unseen.is_empty() {
        report.skip(case, format!("inside one kernel, so never stored: {}", unseen.join(", ")));
    }
    Ok(())
}

/// Largest error over the rows of real tokens, of the largest value there. expected: `[texts, length, C]`.
fn rows(got: &[Tensor], expected: &Array, real: &[usize], measure: Measure) -> Result<f64> {
    let [_, length, c] = expected.shape[..] else { panic!("a stage has {:?}", expected.shape) };
    let largest = expected.data.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    let mut worst = 0.0;
    for ((got, all), &n) in got.iter().zip(expected.data.chunks_exact(length * c)).zip(real) {
        let own = &all[..n * c];
        let error = measure.distance(&got.read_blocking()?, own, largest);
        worst = if error <= worst { worst } else { error };
    }
    Ok(worst)
}

/// expected: `[1, heads, n, n]`, by query and key.
fn position_bias(t5: &T5Encoder, expected: &Array) -> f64 {
    let [_, heads, n, _] = expected.shape[..] else { panic!("position_bias has {:?}", expected.shape) };
    let table = t5.relative_table(n);
    let got: Vec<f32> = (0..heads * n * n)
        .map(|i| (i / (n * n), i / n % n, i % n))
        .map(|(head, query, key)| table[head * (2 * n - 1) + key + n - 1 - query])
        .collect();
    max_abs(&got, &expected.data)
}

fn refused(report: &mut Report, t5: &T5Encoder, case: &str) {
    let beyond = t5.forward(&[t5.config().vocab_size as u32]);
    let empty = t5.forward(&[]);
    let request = |r: &Result<Tensor>| matches!(r, Err(residua::Error::Request { .. }));
    report.exact(
        &format!("{case}/refused"),
        request(&beyond) && request(&empty),
        "a token beyond the vocabulary, no token",
    );
}

fn buckets(report: &mut Report, want: &BTreeMap<String, Array>, case: &str) {
    for (setting, expected) in want.iter().filter(|(n, _)| n.starts_with("buckets_")) {
        let numbers: Vec<usize> = setting.split('_').filter_map(|p| p.parse().ok()).collect();
        let [count, distance] = numbers[..] else { panic!("{case}: `{setting}`") };
        let config = Config {
            relative_attention_num_buckets: count,
            relative_attention_max_distance: distance,
            ..Config::xxl()
        };
        let got: Vec<f32> = want["relative_position"].data.iter().map(|&r| config.bucket(r as isize) as f32).collect();
        report.exact(&format!("{case}/{setting}"), got == expected.data, format!("{} distances", got.len()));
    }
}

/// From prompts to the packed rows of the guidance batch: captions, then the learned null rows cut to the same lengths.
fn conditioning(
    report: &mut Report,
    t5: &T5Encoder,
    top: &Path,
    file: &Path,
    want: &BTreeMap<String, Array>,
    case: &str,
) -> Result<()> {
    let bytes = std::fs::read(file).unwrap_or_else(|e| panic!("{case}: {e}"));
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{case}: {e}"));
    let Some(texts) = header.metadata().as_ref().and_then(|m| m.get("texts")) else {
        report.skip(case, "it does not name its texts");
        return Ok(());
    };
    let texts: Vec<String> = serde_json::from_str(texts).unwrap_or_else(|e| panic!("{case}: {e}"));
    let tokenizer = Tokenizer::open(&top.join("tokenizer"))?;
    let (mask, y) = (&want["mask"], &want["y_cond"]);
    let (length, c) = (mask.shape[1], y.shape[3]);
    let (mut captions, mut nulls, mut lens) = (Vec::new(), Vec::new(), Vec::new());
    let largest = y.data.iter().fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    let measure = measure_of(t5);
    let mut worst = 0.0;
    for (i, text) in texts.iter().enumerate() {
        let ids = tokenizer.encode(text, length);
        let got = t5.forward(&ids)?.read_blocking()?;
        let kept = mask.data[i * length..][..length].iter().filter(|&&v| v != 0.0).count();
        let error = measure.distance(&got, &y.data[i * length * c..][..kept * c], largest);
        worst = if error <= worst { worst } else { error };
        captions.extend(got);
        nulls.extend_from_slice(&want["y_embedding"].data[..ids.len() * c]);
        lens.push(ids.len() as f32);
    }
    report.error(&format!("{case}/y_cond"), worst, measure.bound());
    captions.extend(nulls);
    report.error(
        &format!("{case}/packed"),
        measure.distance(&captions, &want["y_packed_before_projection"].data, largest),
        measure.bound(),
    );
    lens.extend(lens.clone());
    report.exact(&format!("{case}/y_lens"), lens == want["y_lens"].data, format!("{lens:?}"));
    Ok(())
}

/// Every tensor of the real encoder is asked for, and nothing that it does not hold.
fn real_keys(report: &mut Report, gpu: &Gpu, file: &Path, case: &str) {
    if name(file) != "t5_v1_1_xxl_encoder" {
        return report.skip(case, "a model that is not implemented");
    }
    let weights = match Checkpoint::outline(file) {
        Ok(list) => Weights::new(gpu, Arc::new(list), ""),
        Err(e) => return report.exact(case, false, e),
    };
    match T5Encoder::from_weights(weights.clone(), Config::xxl()) {
        Err(e) => report.exact(case, false, e),
        Ok(_) => {
            let left = weights.unasked();
            report.exact(case, left.is_empty(), format!("all names and shapes; asked for by nobody: {left:?}"));
        }
    }
}
