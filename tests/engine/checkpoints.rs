//! Checkpoints: what is not as it should be is named, with both sides; nothing in a file makes us panic.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use residua::Error;
use residua::gpu::Gpu;
use residua::ops::{self, Activation, Store, Target};
use residua::tensor::{Checkpoint, DType, Weights};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| super::device::open(None))
}

/// A file with a few tensors: `block.weight` [3, 5] in f16, `block.bias` [3] in f32, `wide` [2] in bf16,
/// `deep` [2] in f64, `ids` [4] in i64.
fn bytes() -> Vec<u8> {
    let halves: Vec<u8> = (0..15).flat_map(|i| half::f16::from_f32(i as f32).to_le_bytes()).collect();
    let singles: Vec<u8> = [0.5f32, -1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let brains: Vec<u8> = [1.0f32, -3.0e38].iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let doubles: Vec<u8> = [1.0f64, 0.1].iter().flat_map(|v| v.to_le_bytes()).collect();
    let ids = [0u8; 32];
    let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).unwrap();
    let all = [
        ("block.weight", view(Dtype::F16, &[3, 5], &halves)),
        ("block.bias", view(Dtype::F32, &[3], &singles)),
        ("wide", view(Dtype::BF16, &[2], &brains)),
        ("deep", view(Dtype::F64, &[2], &doubles)),
        ("ids", view(Dtype::I64, &[4], &ids)),
    ];
    safetensors::serialize(all, None).unwrap()
}

fn saved(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    std::fs::write(&file, bytes).unwrap();
    (dir, file)
}

fn weights() -> (tempfile::TempDir, Weights) {
    let (dir, _) = saved(&bytes());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, Weights::new(gpu(), Arc::new(checkpoint), "is this the toy model?"))
}

/// The tensor named, and the message as a whole.
pub fn complaint<T>(outcome: Result<T, Error>) -> (Option<String>, String) {
    match outcome {
        Err(e) => match &e {
            Error::Checkpoint { tensor, .. } => (tensor.clone(), e.to_string()),
            other => panic!("expected a checkpoint error, got {other:?}"),
        },
        Ok(_) => panic!("expected a checkpoint error, got a tensor"),
    }
}

#[test]
fn tensors_arrive_as_they_were_stored() {
    let (_dir, w) = weights();
    let block = w.at("block");
    let weight = block.matrix("weight", [3, 5]).unwrap();
    // fifteen halves end in the middle of a word
    assert_eq!((weight.dtype(), weight.bytes()), (DType::F16, 30));
    assert_eq!(weight.read_blocking().unwrap(), (0..15).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(block.get("weight", [3, 5]).unwrap().dtype(), DType::F32);
    assert_eq!(w.host("wide", [2]).unwrap(), [1.0, half::bf16::from_f32(-3.0e38).to_f32()]);
    assert_eq!(w.host("deep", [2]).unwrap(), [1.0, 0.1]);
    assert_eq!(w.shape_of("block.bias"), Some(vec![3]));
    assert!(block.has("bias") && !block.has("gamma") && w.shape_of("nothing").is_none());

    let x = gpu().upload(&[1.0, 0.0, 0.0, 0.0, 1.0], [1, 5]);
    let bias = block.get("bias", [3]).unwrap();
    let out = ops::linear(&x, &weight, Some(&bias), Activation::None, Target::Plain, Store::Full);
    assert_eq!(out.read_blocking().unwrap(), [4.5, 13.0, 26.0]);

    let turned = |x: &[f32]| (0..15).map(|i| x[i % 3 * 5 + i / 3]).collect::<Vec<f32>>();
    let arranged = block.arranged("weight", [3, 5], turned, [5, 3]).unwrap();
    assert_eq!((arranged.dtype(), arranged.dims()), (DType::F16, &[5, 3][..]));
    assert_eq!(arranged.read_blocking().unwrap()[..4], [0.0, 5.0, 10.0, 1.0]);
}

#[test]
fn a_missing_tensor_is_named_with_its_neighbour() {
    let (_dir, w) = weights();
    let (tensor, message) = complaint(w.at("block").get("weights", [3, 5]));
    assert_eq!(tensor.as_deref(), Some("block.weights"));
    for part in
        ["`block.weights`", "missing", "[3, 5]", "`block.weight`", "is this the toy model?", "model.safetensors"]
    {
        assert!(message.contains(part), "{part} in: {message}");
    }
}

#[test]
fn a_wrong_shape_is_named_with_both_sides() {
    let (_dir, w) = weights();
    let block = w.at("block");
    for outcome in [block.get("weight", [5, 3]), block.matrix("weight", [5, 3]), block.get("weight", [15])] {
        let (tensor, message) = complaint(outcome);
        assert_eq!(tensor.as_deref(), Some("block.weight"));
        let both =
            message.contains("is [3, 5]") && (message.contains("expected [5, 3]") || message.contains("expected [15]"));
        assert!(both && message.contains("is this the toy model?"), "{message}");
    }
}

#[test]
fn integers_are_no_weights() {
    let (_dir, w) = weights();
    for outcome in [w.get("ids", [4]), w.matrix("ids", [4])] {
        let (tensor, message) = complaint(outcome);
        assert_eq!(tensor.as_deref(), Some("ids"));
        assert!(message.contains("I64") && message.contains("float"), "{message}");
    }
    assert!(w.host("ids", [4]).is_err());
}

/// A file of this header over `data` zeros.
pub fn with_header(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

#[test]
fn broken_files_are_errors() {
    let good = bytes();
    let one = |shape: &str, dtype: &str, from: u64, to: u64| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let two = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("no header", vec![1, 0, 0]),
        ("nothing but the size of a header", 100u64.to_le_bytes().to_vec()),
        ("a header as large as numbers go", [&u64::MAX.to_le_bytes()[..], &[b'{'; 64]].concat()),
        ("a header larger than the file", [&(1u64 << 20).to_le_bytes()[..], &[b' '; 64]].concat()),
        ("a header that is no text", [&4u64.to_le_bytes()[..], &[0xff, 0xfe, 0xfd, 0xfc]].concat()),
        ("a header that is no JSON", with_header("{\"a\":", 8)),
        ("overlapping tensors", with_header(two, 12)),
        ("a tensor past the end", with_header(&one("[4]", "F32", 0, 16), 8)),
        ("a tensor that ends before it begins", with_header(&one("[2]", "F32", 8, 0), 8)),
        ("a gap in front", with_header(&one("[2]", "F32", 8, 16), 16)),
        ("a shape that is not its bytes", with_header(&one("[3]", "F32", 0, 8), 8)),
        ("a shape that overflows", with_header(&one("[4294967296,4294967296,16]", "F32", 0, 8), 8)),
        ("offsets that overflow", with_header(&one("[2]", "F32", u64::MAX - 8, u64::MAX), 8)),
        ("a type nobody knows", with_header(&one("[2]", "F31", 0, 8), 8)),
        ("an HTML page", b"<!DOCTYPE html><html><body>404</body></html>".to_vec()),
    ];
    cases.extend([1, 8, 9, 100, good.len() / 2, good.len() - 1].map(|cut| ("cut off", good[..cut].to_vec())));
    for (what, file) in cases {
        let (_dir, path) = saved(&file);
        match Checkpoint::open(&path) {
            Err(Error::Checkpoint { file, problem, .. }) => {
                assert!(file == path && !problem.is_empty(), "{what}: {problem}")
            }
            Err(other) => panic!("{what} ({} bytes): {other:?}", file.len()),
            Ok(_) => panic!("{what} ({} bytes) was opened", file.len()),
        }
    }
}

/// Any byte of the header changed: an error or another checkpoint, never a panic.
#[test]
fn flipped_bits_do_no_harm() {
    let good = bytes();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for at in 0..8 + header {
        for bit in [0, 4, 7] {
            let mut file = good.clone();
            file[at] ^= 1 << bit;
            let (_dir, path) = saved(&file);
            let Ok(checkpoint) = Checkpoint::open(&path) else { continue };
            for name in checkpoint.names() {
                let entry = checkpoint.entry(name).unwrap();
                let _ = entry.widen(0..entry.shape.iter().product());
            }
        }
    }
}

pub fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

const INDEX: &str = "model.safetensors.index.json";

fn index(map: &str) -> Vec<u8> {
    format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#).into_bytes()
}

#[test]
fn shards_are_joined() {
    let single = |v: f32| v.to_le_bytes().to_vec();
    let shard = |name: &str, v: f32| {
        safetensors::serialize([(name, TensorView::new(Dtype::F32, vec![1], &single(v)).unwrap())], None).unwrap()
    };
    let (a, b) = (shard("a", 1.0), shard("b", 2.0));
    let map = index(r#"{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}"#);
    let dir =
        folder(&[(INDEX, &map), ("model-00001-of-00002.safetensors", &a), ("model-00002-of-00002.safetensors", &b)]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.entry("b").unwrap().widen(0..1).unwrap(), [2.0]);

    let dir = folder(&[(INDEX, &index(r#"{"a":"one.safetensors","c":"one.safetensors"}"#)), ("one.safetensors", &a)]);
    let (_, message) = complaint(Checkpoint::open(dir.path()));
    assert!(message.contains("`c`") && message.contains("one.safetensors"), "{message}");
}

#[test]
fn an_index_may_not_leave_its_folder() {
    let outside = folder(&[("x.safetensors", &bytes())]);
    let absolute = outside.path().join("x.safetensors");
    let absolute = absolute.to_string_lossy();
    for name in ["../x.safetensors", "sub/x.safetensors", "..", "", "/etc/hostname", r"..\\x.safetensors", &absolute] {
        let dir = folder(&[(INDEX, &index(&format!(r#"{{"a":"{name}"}}"#)))]);
        let (_, message) = complaint(Checkpoint::open(dir.path()));
        assert!(message.contains("outside"), "{name}: {message}");
    }
    for broken in [&b"{"[..], b"[]", b"{}", br#"{"weight_map":{"a":1}}"#] {
        complaint(Checkpoint::open(folder(&[(INDEX, broken)]).path()));
    }
    // a shard that is a folder, or is not there: an error that names it
    for name in [".", "gone.safetensors"] {
        let dir = folder(&[(INDEX, &index(&format!(r#"{{"a":"{name}"}}"#)))]);
        let message = Checkpoint::open(dir.path()).err().unwrap().to_string();
        assert!(message.contains(dir.path().to_str().unwrap()), "{message}");
    }
}

#[test]
fn a_place_without_weights_is_an_error() {
    complaint(Checkpoint::open(Path::new("/nowhere/at/all")));
    let (_, message) = complaint(Checkpoint::open(folder(&[("readme.txt", b"")]).path()));
    assert!(message.contains("model.safetensors"), "{message}");
}
