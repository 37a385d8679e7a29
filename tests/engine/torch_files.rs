//! Files of `torch.save`: read as they are, without torch.

use std::path::Path;
use std::sync::Arc;

use residua::Error;
use residua::tensor::{Checkpoint, DType, Weights};

use super::checkpoints::{complaint, folder, gpu};
use crate::torch_file::{self, Code, Sizes, Stored, state_dict};

fn floats(numbers: impl IntoIterator<Item = f32>) -> Vec<u8> {
    numbers.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// `0, 1, 2, …` as f32.
fn counted(count: usize) -> Vec<u8> {
    floats((0..count).map(|n| n as f32))
}

fn open(bytes: Vec<u8>) -> Result<Checkpoint, Error> {
    Checkpoint::from_bytes("weights.bin", bytes)
}

fn numbers(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let entry = checkpoint.entry(name).unwrap_or_else(|| panic!("{name} is not there"));
    entry.widen(0..entry.shape.iter().product()).unwrap()
}

/// A file with one tensor of 24 counted f32 in storage `0`.
fn one(tensor: &Stored) -> Vec<u8> {
    torch_file::file(&state_dict(2, std::slice::from_ref(tensor)), &[("0".into(), counted(24))])
}

#[test]
fn every_type_and_protocol() {
    let halves: Vec<u8> = (0..15).flat_map(|i| half::f16::from_f32(i as f32).to_le_bytes()).collect();
    let brains: Vec<u8> = [1.0f32, -3.0e38].iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let doubles: Vec<u8> = [1.0f64, 0.1].iter().flat_map(|v| v.to_le_bytes()).collect();
    let storages = [halves, floats([0.5, -1.0, 2.0]), brains, doubles, vec![0; 32], floats([7.0]), vec![]];
    let storages: Vec<(String, Vec<u8>)> = storages.into_iter().enumerate().map(|(i, b)| (i.to_string(), b)).collect();
    let mut tensors = vec![
        Stored::dense("block.weight", "Half", 0, &[3, 5]),
        Stored { parameter: true, ..Stored::dense("block.bias", "Float", 1, &[3]) },
        Stored::dense("wide", "BFloat16", 2, &[2]),
        Stored::dense("deep", "Double", 3, &[2]),
        Stored::dense("ids", "Long", 4, &[4]),
        Stored::dense("scalar", "Float", 5, &[]),
        Stored::dense("nothing", "Float", 6, &[0, 4]),
    ];
    tensors.push(Stored { name: "tied".into(), ..tensors[0].clone() });
    for protocol in 2..=5 {
        let file = torch_file::file(&state_dict(protocol, &tensors), &storages);
        let w = Weights::new(gpu(), Arc::new(open(file).unwrap()), "is this the toy model?");
        let weight = w.at("block").matrix("weight", [3, 5]).unwrap();
        assert_eq!((weight.dtype(), weight.bytes()), (DType::F16, 30), "protocol {protocol}");
        assert_eq!(weight.read_blocking().unwrap(), (0..15).map(|i| i as f32).collect::<Vec<_>>());
        assert_eq!(w.host("tied", [3, 5]).unwrap()[14], 14.0);
        assert_eq!(w.host("block.bias", [3]).unwrap(), [0.5, -1.0, 2.0]);
        assert_eq!(w.host("wide", [2]).unwrap(), [1.0, half::bf16::from_f32(-3.0e38).to_f32()]);
        assert_eq!(w.host("deep", [2]).unwrap(), [1.0, 0.1]);
        assert_eq!(w.shape_of("scalar"), Some(vec![]));
        assert_eq!(w.shape_of("nothing"), Some(vec![0, 4]));
        let (tensor, message) = complaint(w.get("ids", [4]));
        assert!(tensor.as_deref() == Some("ids") && message.contains("I64"), "{message}");
    }
}

#[test]
fn views_come_out_row_by_row() {
    let at = |offset, shape: &[i64], strides: &[i64]| Stored {
        name: "a".into(),
        kind: "Float",
        key: "0".into(),
        count: 24,
        offset,
        shape: shape.to_vec(),
        strides: strides.to_vec(),
        parameter: false,
    };
    let cases: [(Stored, &[f32]); 7] = [
        (at(4, &[2, 3], &[3, 1]), &[4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        (at(23, &[1], &[1]), &[23.0]),
        // strides of axes with one place mean nothing
        (at(3, &[1, 2, 1], &[99, 1, 0]), &[3.0, 4.0]),
        (at(0, &[3, 2], &[1, 3]), &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        (at(1, &[2, 2], &[12, 6]), &[1.0, 7.0, 13.0, 19.0]),
        (at(2, &[2, 1, 3], &[1, 7, 8]), &[2.0, 10.0, 18.0, 3.0, 11.0, 19.0]),
        (at(5, &[2, 2], &[0, 1]), &[5.0, 6.0, 5.0, 6.0]),
    ];
    for (tensor, expected) in cases {
        let checkpoint = open(one(&tensor)).unwrap();
        let what = format!("{:?} by {:?}", tensor.shape, tensor.strides);
        assert_eq!(numbers(&checkpoint, "a"), expected, "{what}");
        let entry = checkpoint.entry("a").unwrap();
        assert_eq!(*entry.bytes(), floats(expected.iter().copied()), "{what}");
        for (i, &number) in expected.iter().enumerate() {
            assert_eq!(entry.widen(i..i + 1).unwrap(), [number], "{what}, number {i}");
        }
    }
    // halves go to the device by their bytes
    let halves: Vec<u8> = (0..6).flat_map(|i| half::f16::from_f32(i as f32).to_le_bytes()).collect();
    let turned = Stored { strides: vec![1, 2], ..Stored::dense("a", "Half", 0, &[2, 3]) };
    let file = torch_file::file(&state_dict(2, &[turned]), &[("0".into(), halves)]);
    let w = Weights::new(gpu(), Arc::new(open(file).unwrap()), "");
    let matrix = w.matrix("a", [2, 3]).unwrap();
    assert_eq!(matrix.dtype(), DType::F16);
    assert_eq!(matrix.read_blocking().unwrap(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
}

/// Files that torch itself wrote.
#[test]
fn files_of_torch() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch");
    for file in ["state_dict.bin", "wrapped_protocol_5.pt"] {
        let checkpoint = Checkpoint::open(&golden.join(file)).unwrap();
        assert_eq!(checkpoint.names().count(), 10, "{file}");
        let expect = |name: &str, shape: &[usize], expected: &[f32]| {
            assert_eq!((checkpoint.entry(name).unwrap().shape, &numbers(&checkpoint, name)[..]), (shape, expected));
        };
        let a: Vec<f32> = (0..12).map(|n| n as f32).collect();
        expect("weight", &[3, 4], &a);
        expect("half", &[3, 4], &a);
        expect("brain", &[3, 4], &a.iter().map(|n| n - 6.0).collect::<Vec<_>>());
        expect("turned", &[4, 3], &[0.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0]);
        expect("rows", &[2, 4], &a[4..]);
        expect("columns", &[3, 2], &[1.0, 2.0, 5.0, 6.0, 9.0, 10.0]);
        expect("bias", &[3], &[0.5, -1.0, 2.0]);
        expect("parameter", &[4], &a[..4]);
        expect("scalar", &[], &[2.5]);
        assert_eq!(*checkpoint.entry("count").unwrap().bytes(), 7u64.to_le_bytes());
    }
}

#[test]
fn sizes_in_every_place() {
    let tensors = [Stored::dense("a", "Float", 0, &[24])];
    for sizes in [Sizes::Behind, Sizes::Wide, Sizes::InFront] {
        let members = torch_file::members(&state_dict(2, &tensors), &[("0".into(), counted(24))]);
        let file = torch_file::zip_as(sizes, &members);
        assert_eq!(numbers(&open(file.clone()).unwrap(), "a")[23], 23.0);
        // without the wider end of the directory, and with a remark behind it
        let end = file.len() - 22;
        let mut plain = [&file[..end - 76], &file[end..], b"by hand"].concat();
        plain[end - 76 + 20] = 7;
        assert_eq!(numbers(&open(plain).unwrap(), "a")[23], 23.0);
    }
}

/// What training programs wrap around a state dict.
#[test]
fn a_set_of_tensors_within_a_dictionary() {
    let storages = [("0".to_string(), counted(24))];
    let set = [Stored::dense("a", "Float", 0, &[4, 6])];
    let wrapped = |names: &[&str]| {
        let mut code = Code::new(2);
        code.op(b'}').keep().op(b'(');
        code.text("epoch").int(-70000).text("rate").op(b'G');
        code.bytes.extend(0.5f64.to_be_bytes());
        code.text("done").op(0x88).text("none").op(b'N').text("losses").op(b']').op(b'(').int(1).int(2).op(b'e');
        for name in names {
            code.text(name).dict(&set);
        }
        let pickle = code.op(b'u').done();
        open(torch_file::file(&pickle, &storages))
    };
    assert_eq!(numbers(&wrapped(&["state_dict"]).unwrap(), "a")[23], 23.0);
    let (_, message) = complaint(wrapped(&["model", "ema"]));
    assert!(message.contains("`model`, `ema`"), "{message}");
    let (_, message) = complaint(wrapped(&[]));
    assert!(message.contains("no tensors"), "{message}");
}

#[test]
fn shards_are_joined() {
    let file = |name: &str| {
        torch_file::file(&state_dict(2, &[Stored::dense(name, "Float", 0, &[24])]), &[("0".into(), counted(24))])
    };
    let names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    let index = |map: &str| format!(r#"{{"metadata":{{"total_size":192}},"weight_map":{map}}}"#).into_bytes();
    let both = index(&format!(r#"{{"a":"{}","b":"{}"}}"#, names[0], names[1]));
    let dir = folder(&[
        ("pytorch_model.bin.index.json", &both),
        (names[0], &file("a")),
        (names[1], &file("b")),
        ("config.json", b"{}"),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(checkpoint.entry("b").unwrap().file, dir.path().join(names[1]));
    assert_eq!(numbers(&checkpoint, "b")[3], 3.0);

    // the same name twice; a name that is in another shard than promised
    std::fs::write(dir.path().join(names[1]), file("a")).unwrap();
    let (tensor, message) = complaint(Checkpoint::open(dir.path()));
    assert!(tensor.as_deref() == Some("a") && names.iter().all(|n| message.contains(n)), "{message}");
    let swapped = index(&format!(r#"{{"b":"{}","a":"{}"}}"#, names[0], names[1]));
    let dir = folder(&[("pytorch_model.bin.index.json", &swapped), (names[0], &file("a")), (names[1], &file("b"))]);
    let (tensor, message) = complaint(Checkpoint::open(dir.path()));
    assert!(tensor.is_some() && message.contains("promised"), "{message}");
}

/// Hubs' caches hold links to files that are kept elsewhere.
#[cfg(unix)]
#[test]
fn links_out_of_the_folder_are_followed() {
    let file = one(&Stored::dense("a", "Float", 0, &[24]));
    let cache = folder(&[("blob", &file), ("index", br#"{"weight_map":{"a":"one.bin"}}"#)]);
    let dir = folder(&[]);
    for (link, name) in [("one.bin", "blob"), ("pytorch_model.bin.index.json", "index")] {
        std::os::unix::fs::symlink(cache.path().join(name), dir.path().join(link)).unwrap();
    }
    assert_eq!(numbers(&Checkpoint::open(dir.path()).unwrap(), "a")[2], 2.0);
}

#[test]
fn a_folder_says_which_file_is_meant() {
    let named = |name: &str| one(&Stored::dense(name, "Float", 0, &[24]));
    // what a file is is told by its bytes; the names are in the order they are preferred
    let index = |to: &str| format!(r#"{{"weight_map":{{"{to}":"{to}"}}}}"#).into_bytes();
    let order: [(&str, Vec<u8>); 8] = [
        ("model.safetensors", named("model.safetensors")),
        ("diffusion_pytorch_model.safetensors", named("diffusion_pytorch_model.safetensors")),
        ("model.safetensors.index.json", index("x.safetensors")),
        ("diffusion_pytorch_model.safetensors.index.json", index("y.safetensors")),
        ("pytorch_model.bin", named("pytorch_model.bin")),
        ("diffusion_pytorch_model.bin", named("diffusion_pytorch_model.bin")),
        ("pytorch_model.bin.index.json", index("x.bin")),
        ("diffusion_pytorch_model.bin.index.json", index("y.bin")),
    ];
    for first in 0..order.len() {
        let dir = folder(&[]);
        for shard in ["x.safetensors", "y.safetensors", "x.bin", "y.bin"] {
            std::fs::write(dir.path().join(shard), named(shard)).unwrap();
        }
        for (name, bytes) in &order[first..] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let name = checkpoint.names().next().unwrap();
        assert!(order[first].1 == named(name) || order[first].1 == index(name), "{}: {name}", order[first].0);
    }
    // another name, if it is the only one
    for name in ["t5xxl_fp16.safetensors", "Latte.PT", "model.ckpt", "old.pth"] {
        let dir = folder(&[(name, &named("a")), ("config.json", b"{}")]);
        assert!(Checkpoint::open(dir.path()).is_ok(), "{name}");
    }
    let dir = folder(&[("a.safetensors", &named("safe")), ("a.bin", &named("bin")), ("b.bin", &named("bin"))]);
    assert_eq!(Checkpoint::open(dir.path()).unwrap().names().next(), Some("safe"));

    let complains = |files: &[(&str, &[u8])], words: &[&str]| {
        let (_, message) = complaint(Checkpoint::open(folder(files).path()));
        assert!(words.iter().all(|w| message.contains(w)), "{message}");
    };
    complains(&[("a.bin", b""), ("b.pt", b"")], &["a.bin, b.pt", "which is meant", "pytorch_model.bin.index.json"]);
    complains(&[("x.safetensors", b""), ("y.safetensors", b"")], &["x.safetensors, y.safetensors", "index"]);
    complains(&[("config.json", b"{}"), ("weights.gguf", b"")], &["config.json, weights.gguf", "model.safetensors"]);
    complains(&[], &["is empty", "pytorch_model.bin"]);
    let many: Vec<String> = (0..50).map(|i| format!("{i:02}.txt")).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|n| (n.as_str(), &b""[..])).collect();
    complains(&many, &["19.txt and 30 more"]);
}

/// The same numbers as the safetensors of the same model.
#[test]
fn a_converted_file_is_the_same_checkpoint() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/t5/model_b");
    let file = golden.join("all_tensors_f32.safetensors");
    let safe = Checkpoint::open(&file).unwrap();
    for parts in [1, 3] {
        let dir = folder(&[]);
        torch_file::convert(&file, dir.path(), "pytorch_model", parts);
        let torch = Checkpoint::open(dir.path()).unwrap();
        assert!(safe.names().eq(torch.names()) && torch.names().count() > 20);
        for name in safe.names() {
            let (a, b) = (safe.entry(name).unwrap(), torch.entry(name).unwrap());
            assert!(a.shape == b.shape && a.bytes() == b.bytes(), "{name}");
        }
    }
}
