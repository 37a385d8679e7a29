//! `residua convert` and what is behind it: every number where it was, nothing half-written, nothing overwritten.

#[path = "program/mod.rs"]
mod program;
#[path = "tiny_model/mod.rs"]
mod tiny_model;
#[path = "torch_file/mod.rs"]
mod torch_file;

use std::path::Path;

use program::{Ran, names, run, scratch};
use residua::Error;
use residua::media::quality;
use residua::models::t5;
use residua::tensor::{Checkpoint, Conversion, Converted, Stored};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// 80 rows of 60: enough of both to be worth it.
const SHAPE: [usize; 2] = [80, 60];

/// Numbers from −1 to 1, rows of very different size.
fn numbers(seed: usize) -> Vec<f32> {
    let at = |i: usize| ((i * 7919 + seed * 104_729) % 20_011) as f32 / 10_005.5 - 1.0;
    (0..4800).map(|i| at(i) * 2f32.powi((i / 60 % 9) as i32 - 4)).collect()
}

fn checkpoint(tensors: &[(&str, Vec<usize>, Vec<f32>)]) -> Checkpoint {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(.., numbers)| numbers.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let view = |shape: &Vec<usize>, bytes| TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| (*name, view(shape, bytes)));
    Checkpoint::from_bytes("model.safetensors", safetensors::serialize(views, None).unwrap()).unwrap()
}

fn convert(from: &Checkpoint, folder: &Path, to: Stored, shard: Option<u64>) -> Result<Converted, Error> {
    from.convert(folder, "model", &Conversion { to: Some(to), table: &t5::EMBEDDING, shard }, &mut |_, _| true)
}

fn read(file: &Checkpoint, name: &str) -> Vec<f32> {
    let entry = file.entry(name).unwrap_or_else(|| panic!("no `{name}`"));
    entry.widen(0..entry.shape.iter().product()).unwrap()
}

#[test]
fn every_number_is_the_nearest_there_is() {
    let dir = scratch();
    let (a, b) = (numbers(1), numbers(2));
    let bias: Vec<f32> = a[..80].to_vec();
    let from = checkpoint(&[
        ("a.weight", SHAPE.to_vec(), a.clone()),
        ("conv.weight", vec![80, 15, 2, 2], b.clone()),
        ("a.bias", vec![80], bias.clone()),
        ("table", SHAPE.to_vec(), b.clone()),
    ]);
    for to in [Stored::F32, Stored::F16, Stored::Bf16, Stored::Int8] {
        let converted = convert(&from, dir.path(), to, None).unwrap();
        let file = Checkpoint::open(&converted.files[0]).unwrap();
        assert_eq!(read(&file, "a.bias"), bias, "{to}: vectors stay as they are");
        let half = |v: f32| half::f16::from_f32(v).to_f32();
        for (name, numbers) in [("a.weight", &a), ("conv.weight", &b), ("table", &b)] {
            let told = converted.tensors.iter().find(|t| t.name == name).unwrap();
            let got = read(&file, name);
            assert_eq!(file.entry(name).unwrap().type_name(), told.to);
            let (mut off, mut of) = (0.0, 0.0);
            for (i, (&v, &got)) in numbers.iter().zip(&got).enumerate() {
                let row = &numbers[i / 60 * 60..][..60];
                let step = row.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
                match to {
                    Stored::F32 => assert_eq!(got, v),
                    Stored::Bf16 => assert_eq!(got, half::bf16::from_f32(v).to_f32()),
                    Stored::Int8 if name != "table" => assert!((got - v).abs() <= 0.50001 * step, "{v} became {got}"),
                    _ => assert_eq!(got, half(v)),
                }
                off += f64::from(got - v).powi(2);
                of += f64::from(v).powi(2);
            }
            assert!((told.error - (off / of).sqrt()).abs() < 1e-9, "{to}, {name}: {}", told.error);
        }
        let stored: u64 = file.names().map(|n| file.entry(n).unwrap()).map(|e| e.bytes().len() as u64).sum();
        assert_eq!(converted.after(), stored, "{to}");
        // once more: the same bytes, or, of the same type, nothing to do
        let bytes = std::fs::read(&converted.files[0]).unwrap();
        convert(&from, dir.path(), to, None).unwrap();
        assert!(bytes == std::fs::read(&converted.files[0]).unwrap(), "{to}: a conversion is the same every time");
        let again = dir.path().join("again");
        std::fs::create_dir_all(&again).unwrap();
        let same = convert(&file, &again, to, None).unwrap();
        assert!(same.worst().is_none() && same.before() == same.after());
        let file = Checkpoint::open(&same.files[0]).unwrap();
        assert!(["a.weight", "conv.weight", "table"].into_iter().all(|n| read(&file, n).len() == 4800));
        // and back
        let back = convert(&file, &again, Stored::F32, None).unwrap();
        let back = Checkpoint::open(&back.files[0]).unwrap();
        assert_eq!(read(&back, "a.weight"), read(&Checkpoint::open(&converted.files[0]).unwrap(), "a.weight"));
        assert!(!back.names().any(|n| n.ends_with("_scale")));
    }
}

#[test]
fn numbers_that_do_not_fit_are_kept_and_told_of() {
    let dir = scratch();
    let with =
        |at: usize, v: f32| numbers(1).into_iter().enumerate().map(|(i, n)| if i == at { v } else { n }).collect();
    let from = checkpoint(&[
        ("large.weight", SHAPE.to_vec(), with(77, 1e5)),
        ("mask.weight", SHAPE.to_vec(), with(0, f32::NEG_INFINITY)),
        ("zero.weight", SHAPE.to_vec(), vec![0.0; 4800]),
    ]);
    for to in [Stored::F16, Stored::Int8] {
        let converted = convert(&from, dir.path(), to, None).unwrap();
        let file = Checkpoint::open(&converted.files[0]).unwrap();
        for (told, word) in converted.tensors.iter().zip([Some("1e5"), Some("infinite"), None]) {
            assert_eq!(told.note.is_some(), word.is_some());
            assert!(word.is_none_or(|w| told.note.as_ref().unwrap().contains(w)), "{told:?}");
            assert_eq!(told.to, if word.is_some() { "f32".to_string() } else { to.to_string() });
            assert!(read(&file, &told.name) == read(&from, &told.name) && told.error == 0.0, "{told:?}");
        }
    }
}

#[test]
fn equal_tables_are_written_once_and_others_not_lost() {
    let dir = scratch();
    let [shared, embed] = t5::EMBEDDING;
    let tensors =
        |second: usize| checkpoint(&[(embed, SHAPE.to_vec(), numbers(1)), (shared, SHAPE.to_vec(), numbers(second))]);
    let file = |from: &Checkpoint| convert(from, dir.path(), Stored::Int8, None).unwrap();
    let once = file(&tensors(1));
    assert_eq!(once.tensors.iter().map(|t| (&*t.name, &*t.to)).collect::<Vec<_>>(), [(shared, "f16")]);
    assert_eq!(file(&tensors(2)).tensors.len(), 2);
}

#[test]
fn shards_have_an_index_and_are_read_as_one() {
    let dir = scratch();
    let names: Vec<String> = (0..7).map(|i| format!("block.{i}.weight")).collect();
    let tensors: Vec<_> = names.iter().enumerate().map(|(i, n)| (&**n, SHAPE.to_vec(), numbers(i))).collect();
    let from = checkpoint(&tensors);
    // each has 4800 bytes and 80 scales: two fit
    let converted = convert(&from, dir.path(), Stored::Int8, Some(11_000)).unwrap();
    let made = converted.files.iter().map(|f| f.file_name().unwrap().to_str().unwrap());
    let shards = (1..=4).map(|i| format!("model-{i:05}-of-00004.safetensors"));
    assert!(made.eq(shards.chain(["model.safetensors.index.json".to_string()])));
    let file = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(file.names().filter(|n| !file.is_scale(n)).collect::<Vec<_>>(), names);
    let whole = scratch();
    convert(&from, whole.path(), Stored::Int8, None).unwrap();
    let whole = Checkpoint::open(whole.path()).unwrap();
    assert!(names.iter().all(|n| read(&file, n) == read(&whole, n)));
}

#[test]
fn a_caller_that_says_stop_leaves_nothing() {
    let from = checkpoint(&[("a.weight", SHAPE.to_vec(), numbers(1)), ("b.weight", SHAPE.to_vec(), numbers(2))]);
    let how = Conversion { to: Some(Stored::F16), table: &[], shard: None };
    for calls in 0..4 {
        let dir = scratch();
        let (mut left, mut last) = (calls, 0);
        let mut seen = |done: u64, all: u64| {
            assert!(last <= done && done <= all);
            last = done;
            left -= 1;
            left >= 0
        };
        assert!(matches!(from.convert(dir.path(), "model", &how, &mut seen), Err(Error::Cancelled)), "{calls} calls");
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

fn program(dir: &Path, args: &[&str]) -> Ran {
    run(dir, &[&["convert"], args].concat())
}

#[test]
fn a_whole_model_converts_and_runs() {
    let dir = scratch();
    let d = dir.path();
    let model = tiny_model::folder().to_str().unwrap();
    let args = [model, "-o", "eight", "--dtype", "f16", "--part", "text_encoder=int8", "--part", "vae=int8", "--json"];
    let ran = program(d, &args).ok();
    let events: Vec<Value> = ran.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let done = events.iter().find(|e| e["event"] == "done").unwrap();
    assert!(done["bytes_after"].as_u64() < done["bytes_before"].as_u64().map(|n| n / 3 * 2), "{done}");
    let wo = "encoder.block.1.layer.1.DenseReluDense.wo.weight";
    let told = events.iter().find(|e| e["event"] == "tensor" && e["name"] == wo).unwrap();
    assert!(told["to"] == "int8" && told["part"] == "text_encoder");
    assert!((0.001..0.02).contains(&told["error"].as_f64().unwrap()), "{told}");
    assert_eq!(names(d), ["eight"]);
    for file in ["model_index.json", "conversion.json", "vae/vae_2d/config.json", "tokenizer/spiece.model"] {
        assert!(d.join("eight").join(file).is_file(), "{file}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(d.join("eight/conversion.json")).unwrap()).unwrap();
    assert_eq!(report["parts"]["text_encoder"]["tensors"][wo]["error"], told["error"]);
    let info = run(d, &["info", "eight"]).ok();
    let line = info.text().lines().find(|l| l.starts_with("text_encoder")).unwrap();
    assert!(line.contains("int8"), "{line}");

    let video = |model: &str| {
        let args = ["generate", "-m", model, "-p", "a red circle", "-s", "7", "--steps", "2", "--force", "-o", "a.rgb"];
        run(d, &args).ok();
        std::fs::read(d.join("a.rgb")).unwrap()
    };
    let psnr = quality::psnr(&video(model), &video("eight"));
    println!("PSNR {psnr:.1} dB");
    assert!(psnr > 30.0, "PSNR {psnr:.1} dB");
}

#[test]
fn torch_files_become_safetensors() {
    let dir = scratch();
    let d = dir.path();
    let encoder = tiny_model::folder().join("text_encoder");
    std::fs::create_dir(d.join("torch")).unwrap();
    std::fs::copy(encoder.join("config.json"), d.join("torch/config.json")).unwrap();
    torch_file::convert(&encoder.join("model.safetensors"), &d.join("torch"), "pytorch_model", 2);
    program(d, &["torch", "-o", "safe"]).ok();
    assert_eq!(names(&d.join("safe")), ["config.json", "conversion.json", "model.safetensors"]);
    program(d, &["torch/pytorch_model-00001-of-00002.bin", "-o", "one.safetensors"]).ok();
    let [safe, from] = [d.join("safe"), encoder].map(|p| Checkpoint::open(&p).unwrap());
    let once: Vec<&str> = from.names().filter(|n| safe.entry(n).is_none()).collect();
    assert!(once.iter().all(|n| t5::EMBEDDING.contains(n)), "{once:?}");
    assert!(safe.names().all(|n| read(&safe, n) == read(&from, n)));
    let one = Checkpoint::open(&d.join("one.safetensors")).unwrap();
    assert!(one.names().count() > 3 && one.names().all(|n| read(&one, n) == read(&from, n)));
}

#[test]
fn what_is_there_stays_there() {
    let dir = scratch();
    let d = dir.path();
    let model = tiny_model::folder();
    let encoder = model.join("text_encoder");
    let (whole, part) = (model.to_str().unwrap(), encoder.to_str().unwrap());
    let refused = |args: &[&str], exit: i32, words: &[&str]| {
        let before = names(d);
        let ran = program(d, args);
        assert_eq!(ran.exit, exit, "{args:?}: {}", ran.err);
        for word in words {
            assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
        }
        assert_eq!(names(d), before, "{args:?}");
    };
    std::fs::create_dir_all(d.join("mine")).unwrap();
    std::fs::write(d.join("mine/diary.txt"), "dear").unwrap();
    refused(&[part, "-o", "mine", "--dtype", "int8"], 7, &["mine", "overwrite"]);
    refused(&[part, "-o", "mine", "--dtype", "int8", "--force"], 7, &["mine", "did not make"]);
    refused(&[part, "-o", "mine/diary.txt"], 7, &["is a file", "a folder"]);
    refused(&[part, "-o", part, "--force"], 7, &["read from"]);
    let (inside, above) = (encoder.join("new"), model.parent().unwrap());
    refused(&[part, "-o", inside.to_str().unwrap()], 7, &["read from"]);
    refused(&[part, "-o", above.to_str().unwrap(), "--force"], 7, &["read from"]);
    refused(&[whole, "-o", "all.safetensors"], 7, &["one file", "transformer"]);
    refused(&[whole, "-o", "new", "--part", "text=int8"], 2, &["no part `text`", "text_encoder, transformer, vae"]);
    refused(&["nowhere", "-o", "new"], 3, &["nowhere"]);
    refused(&["mine", "-o", "new"], 3, &["holds no weights"]);
    refused(&[part, "-o", "no/such/place"], 7, &["no/such"]);
    refused(&[part, "-o", "new", "--dtype", "int4"], 2, &["int4", "int8"]);
    let bad = d.join("mine/bad.safetensors");
    std::fs::write(&bad, "not weights").unwrap();
    refused(&[bad.to_str().unwrap(), "-o", "new"], 3, &["bad.safetensors"]);

    program(d, &[part, "-o", "made", "--dtype", "int8", "--shard-size", "100 kB"]).ok();
    assert!(names(&d.join("made")).len() > 4);
    refused(&[part, "-o", "made", "--dtype", "f16"], 7, &["--force"]);
    program(d, &[part, "-o", "made", "--dtype", "f16", "--force"]).ok();
    assert_eq!(names(&d.join("made")), ["config.json", "conversion.json", "model.safetensors"]);
    assert_eq!(names(&d.join("mine")), ["bad.safetensors", "diary.txt"]);
    let file = encoder.join("model.safetensors");
    let to_file = [file.to_str().unwrap(), "-o", "x.safetensors", "--dtype", "int8"];
    program(d, &to_file).ok();
    refused(&to_file, 7, &["--force"]);
    program(d, &[&to_file[..], &["--force"]].concat()).ok();
}

#[test]
fn what_nobody_could_read_is_refused() {
    let folder = scratch();
    let names = || std::fs::read_dir(folder.path()).unwrap().count();
    // a name that the scales would take
    let clash =
        checkpoint(&[("a.weight", vec![100, 100], vec![0.5; 10_000]), ("a.weight_scale", vec![100], vec![1.0; 100])]);
    let error = convert(&clash, folder.path(), Stored::Int8, None).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("`a.weight_scale`, which is another tensor"), "{error}");
    // scales that are none, passed on
    let (bytes, scales) = (vec![1u8; 64 * 64], [f32::NAN; 64].map(f32::to_le_bytes).concat());
    let views = [
        ("b.weight", TensorView::new(Dtype::I8, vec![64, 64], &bytes).unwrap()),
        ("b.weight_scale", TensorView::new(Dtype::F32, vec![64], &scales).unwrap()),
    ];
    let unsound = Checkpoint::from_bytes("unsound", safetensors::serialize(views, None).unwrap()).unwrap();
    for to in [Stored::Int8, Stored::F16] {
        assert!(matches!(convert(&unsound, folder.path(), to, None), Err(Error::Checkpoint { .. })), "{to:?}");
    }
    assert_eq!(names(), 0, "nothing is left");
}
