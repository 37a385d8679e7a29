//! Files made to do harm, or damaged: each refused with a message that says why, quickly, without a panic.

use std::time::{Duration, Instant};

use residua::Error;
use residua::tensor::Checkpoint;

use super::checkpoints::{complaint, folder, with_header};
use crate::torch_file::{self, Code, Stored, state_dict};

/// Opens a file; what is wrong must be told within this time on any machine.
const SOON: Duration = Duration::from_secs(5);

#[track_caller]
fn refused(what: &str, bytes: Vec<u8>, words: &[&str]) -> Option<String> {
    let start = Instant::now();
    let (tensor, message) = complaint(match Checkpoint::from_bytes("weights.bin", bytes) {
        Ok(_) => panic!("{what}: was opened"),
        Err(e) => Err::<(), Error>(e),
    });
    assert!(start.elapsed() < SOON, "{what}: took {:?}", start.elapsed());
    assert!(words.iter().all(|w| message.contains(w)) && message.starts_with("weights.bin: "), "{what}: {message}");
    assert!(message.len() < 700, "{what}: {} bytes of message", message.len());
    tensor
}

fn storage() -> [(String, Vec<u8>); 1] {
    [("0".into(), vec![0; 96])]
}

/// A file with this pickle and a storage `0` of 24 f32.
fn pickled(pickle: &[u8]) -> Vec<u8> {
    torch_file::file(pickle, &storage())
}

fn code(write: impl FnOnce(&mut Code)) -> Vec<u8> {
    let mut code = Code::new(2);
    write(&mut code);
    pickled(&code.done())
}

fn good() -> Vec<u8> {
    pickled(&state_dict(2, &[Stored::dense("a", "Float", 0, &[4, 6])]))
}

#[test]
fn nothing_is_called() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("torch.storage", "UntypedStorage"),
        ("torch", "load"),
        ("torch", "FloatStorage\u{1b}[2J"),
        ("torch", "ComplexFloatStorage"),
        ("torch", "Storage"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch._utils._rebuild_tensor_v2.__globals__", "x"),
        ("numpy.core.multiarray", "scalar"),
        ("argparse", "Namespace"),
        ("collections", "OrderedDict.__init__"),
        ("collections", "defaultdict"),
    ] {
        for protocol in [2, 4] {
            let mut code = Code::new(protocol);
            code.global(module, name).text("echo pwned").op(0x85).op(b'R');
            let told = format!("`{module}.{}`", name.escape_debug());
            refused(name, pickled(&code.done()), &[&told, "refused", "nothing of the file was run", "state dict"]);
        }
    }
    // as a value that nobody calls, and as the class of an object
    refused("a value", code(|c| _ = c.op(b'}').text("a").global("os", "system").op(b's')), &["`os.system`"]);
    refused("an object", code(|c| _ = c.global("collections", "OrderedDict").op(b')').op(0x81)), &["opcode 0x81"]);
    refused("an instance", code(|c| c.bytes.extend(b"(ios\nsystem\n")), &["opcode 0x69"]);
    refused("an extension", code(|c| c.bytes.extend([0x82, 1])), &["opcode 0x82"]);
    refused("a buffer", code(|c| _ = c.op(0x97)), &["opcode 0x97"]);
}

#[test]
fn pickles_stay_small() {
    let many = |op: &[u8], count: usize| {
        let op = op.to_vec();
        code(move |c| c.bytes.extend(op.repeat(count)))
    };
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", pickled(b""), &["cut off"]),
        ("text", pickled(b"hello"), &["does not begin"]),
        ("protocol 1", pickled(b"\x80\x01."), &["protocol 1", "2 to 5"]),
        ("protocol 6", pickled(b"\x80\x06."), &["protocol 6", "2 to 5"]),
        ("no end", pickled(b"\x80\x02}"), &["cut off"]),
        ("nothing to end with", pickled(b"\x80\x02."), &["where there is none"]),
        ("too many values", many(b"N", 200_000), &["100000 values"]),
        ("too many steps", code(|c| c.bytes.extend([&b"]"[..], &b"Na".repeat(600_000)].concat())), &["1000000 steps"]),
        ("too many kept", code(|c| c.bytes.extend([&b"N"[..], &[0x94; 600_000]].concat())), &["500000 values"]),
        ("too many frames", many(b"\x95\0\0\0\0\0\0\0\0", 1_100_000), &["1000000 steps"]),
        ("marks in marks", many(b"(", 100_000), &["256"]),
        ("too long", pickled(&vec![b'N'; (32 << 20) + 1]), &["33554433 bytes"]),
        ("a long text", code(|c| c.bytes.extend(b"X\xff\xff\xff\xff")), &["4294967295 bytes"]),
        ("a longer text", code(|c| c.bytes.extend([0x8d, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])), &["bytes"]),
        ("a text past the end", code(|c| c.bytes.extend(b"X\xff\0\0\0abc")), &["cut off"]),
        ("no UTF-8", code(|c| c.bytes.extend(b"X\x02\0\0\0\xff\xfe")), &["UTF-8"]),
        ("a line without an end", code(|c| c.bytes.extend(b"cos")), &["without an end"]),
        ("a wide number", code(|c| c.bytes.extend([0x8a, 255])), &["255 bytes"]),
        ("never kept", code(|c| c.bytes.extend(b"h\x07")), &["value 7"]),
        ("kept before there is one", code(|c| c.bytes.extend(b"q\x00")), &["none"]),
        ("a tuple that was not opened", code(|c| c.bytes.extend(b"t")), &["not opened"]),
        ("values below a mark", code(|c| c.bytes.extend(b"NN(\x86")), &["none"]),
        ("an odd dictionary", code(|c| c.bytes.extend(b"}(NNNu")), &["without a value"]),
        ("an entry of no dictionary", code(|c| c.bytes.extend(b"]NNs")), &["no dictionary"]),
        ("an item of no list", code(|c| c.bytes.extend(b"}Na")), &["no list"]),
        ("state of no dictionary", code(|c| c.bytes.extend(b"]Nb")), &["no dictionary"]),
        ("a call of a number", code(|c| c.bytes.extend(b"K\x01)R")), &["no function"]),
        ("a call without a tuple", code(|c| _ = c.global("torch", "Size").op(b'N').op(b'R')), &["no function"]),
        ("an odd call", code(|c| _ = c.global("torch", "Size").op(b')').op(b'R')), &["0 arguments"]),
        ("a called storage", code(|c| _ = c.global("torch", "FloatStorage").op(b')').op(b'R')), &["arguments"]),
        ("a storage by its name", code(|c| _ = c.text("storage").op(b'Q')), &["no tuple"]),
        ("a strange storage", code(|c| _ = c.op(b'(').text("module").op(b't').op(b'Q')), &["does not write"]),
        ("a list", code(|c| _ = c.op(b']')), &["no dictionary"]),
        ("a tensor alone", code(|c| _ = c.tensor(&Stored::dense("", "Float", 0, &[24]))), &["no dictionary"]),
        ("no tensors", code(|c| _ = c.op(b'}')), &["no tensors"]),
        ("itself", code(|c| c.op(b'}').keep().text("a").bytes.extend(b"h\x00s")), &["no tensors"]),
        (
            "a name that is a number",
            code(|c| _ = c.op(b'}').int(1).tensor(&Stored::dense("", "Float", 0, &[24])).op(b's')),
            &["no text"],
        ),
    ];
    for (what, bytes, words) in cases {
        refused(what, bytes, words);
    }
    // one dictionary of many entries, in another many times: looked at once
    let mut square = Code::new(2);
    square.op(b'}').keep().op(b'(');
    square.bytes.extend(b"NN".repeat(40_000));
    square.op(b'u').op(b'}').op(b'(');
    square.bytes.extend(b"X\x01\0\0\0ah\x00".repeat(40_000));
    let square = square.op(b'u').done();
    refused("a square of entries", pickled(&square), &["no tensors"]);
}

#[test]
fn tensors_stay_in_their_storage() {
    let a = Stored::dense("a", "Float", 0, &[4, 6]);
    let with = |shape: &[i64], strides: &[i64], offset: i64| Stored {
        shape: shape.to_vec(),
        strides: strides.to_vec(),
        offset,
        ..a.clone()
    };
    let cases: Vec<(&str, Stored, &[&str])> = vec![
        ("one row too many", with(&[5, 6], &[6, 1], 0), &["[5, 6]", "24 numbers"]),
        ("an offset too far", with(&[4, 6], &[6, 1], 1), &["from 1", "24"]),
        ("an offset past the end", with(&[0], &[1], 25), &["from 25"]),
        ("strides too wide", with(&[4, 6], &[7, 1], 0), &["[7, 1]"]),
        ("a negative size", with(&[-4, 6], &[6, 1], 0), &["[-4, 6]", "negative"]),
        ("two negative sizes", with(&[-4, -6], &[6, 1], 0), &["negative"]),
        ("a negative stride", with(&[4, 6], &[-6, 1], 18), &["[-6, 1]", "negative"]),
        ("a negative offset", with(&[4, 6], &[6, 1], -1), &["from -1", "negative"]),
        ("a billion numbers", with(&[1_000_000_000], &[1], 0), &["[1000000000]", "24 numbers"]),
        ("a billion of one number", with(&[1_000_000_000], &[0], 0), &["repeats 24 numbers as 1000000000"]),
        ("too many to count", with(&[1 << 32, 1 << 32], &[0, 0], 0), &["4294967296"]),
        ("too many before none", with(&[1 << 62, 4, 0], &[0, 0, 0], 0), &["leaves"]),
        ("steps too wide to add", with(&[3, 2], &[i64::MAX, i64::MAX], 0), &["leaves"]),
        ("the largest offset", with(&[1], &[1], i64::MAX), &["leaves"]),
        ("fewer strides", with(&[4, 6], &[1], 0), &["2 sizes and 1 strides"]),
        ("many sizes", with(&[1; 17], &[1; 17], 0), &["17 sizes", "16"]),
        ("a storage that is not there", Stored { key: "1".into(), ..a.clone() }, &["`data/1`", "does not hold"]),
        ("a storage elsewhere", Stored { key: "../data.pkl".into(), ..a.clone() }, &["does not hold"]),
        ("a larger storage", Stored { count: 25, ..a.clone() }, &["25 numbers", "96 bytes"]),
        ("a smaller storage", Stored { count: 23, ..a.clone() }, &["23 numbers", "96 bytes"]),
        ("a negative storage", Stored { count: -24, ..a.clone() }, &["-24 numbers"]),
        ("a storage past counting", Stored { count: 1 << 62, ..a.clone() }, &["96 bytes"]),
        ("another type", Stored { kind: "Double", ..a.clone() }, &["F64", "96 bytes"]),
    ];
    for (what, tensor, words) in cases {
        for protocol in [2, 5] {
            let parameter = Stored { parameter: true, ..tensor.clone() };
            for tensor in [tensor.clone(), parameter] {
                let named = refused(what, pickled(&state_dict(protocol, &[tensor])), words);
                assert!(named.is_none_or(|n| n == "a"), "{what}");
            }
        }
    }
    for name in ["a\u{1b}[2J".to_string(), "a".repeat(1025)] {
        refused("a strange name", pickled(&state_dict(2, &[Stored { name, ..a.clone() }])), &["1024 plain characters"]);
    }
    let twice = pickled(&state_dict(2, &[a.clone(), a.clone()]));
    assert_eq!(refused("the same name twice", twice, &["twice"]).as_deref(), Some("a"));
    let conjugate = code(|c| {
        let tensor = c.op(b'}').text("a").tensor(&a).bytes.len();
        // one more argument before the tuple of them is closed: `t`, keep, `R`, keep
        c.bytes.truncate(tensor - 6);
        c.op(b'}').text("conj").op(0x88).op(b's').op(b't').op(b'R').op(b's');
    });
    refused("a conjugate", conjugate, &["conjugated"]);
}

/// Where a member's row of the directory or its own header begins.
fn record(file: &[u8], signature: &[u8; 4], name: &str) -> usize {
    let fixed = if signature == b"PK\x01\x02" { 46 } else { 30 };
    let here = |&at: &usize| file[at..].starts_with(signature) && file[at + fixed..].starts_with(name.as_bytes());
    (0..file.len()).find(here).expect(name)
}

#[test]
fn archives_agree_with_themselves() {
    const ROW: &[u8; 4] = b"PK\x01\x02";
    const HEADER: &[u8; 4] = b"PK\x03\x04";
    let good = good();
    let end = good.len() - 22;
    let (locator, end64) = (end - 20, end - 76);
    let patch = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let row = |name: &str, by: usize, bytes: &[u8]| patch(record(&good, ROW, name) + by, bytes);
    let header = |name: &str, by: usize, bytes: &[u8]| patch(record(&good, HEADER, name) + by, bytes);
    let (pickle, data) = ("archive/data.pkl", "archive/data/0");
    let start = |name: &str| record(&good, HEADER, name);
    let pickle_at = good.windows(4).position(|w| w == b"\x80\x02cc").unwrap();
    let huge = u64::MAX.to_le_bytes();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("compressed", row(data, 10, &[8]), &["compressed", "method 8", "archive/data/0"]),
        ("compressed within", header(data, 8, &[8]), &["packing", "archive/data/0"]),
        ("smaller when packed", row(data, 20, &[9]), &["compressed", "archive/data/0"]),
        ("encrypted", row(data, 8, &[9]), &["encrypted", "archive/data/0"]),
        ("another checksum", row(pickle, 16, &[1, 2, 3, 4]), &["checksum", "archive/data.pkl"]),
        ("changed bytes", patch(pickle_at + 20, &[0xff]), &["checksum", "archive/data.pkl"]),
        ("another name in front", header(data, 30 + 13, b"9"), &["name", "archive/data/0"]),
        ("another name in the directory", row(data, 46 + 13, b"9"), &["name", "archive/data/9"]),
        ("two of one name", patch(record(&good, ROW, "archive/version") + 28, &[14]), &["zip"]),
        (
            "larger than the file",
            row(data, 20, &[0xfe, 0xff, 0xff, 0x7f, 0xfe, 0xff, 0xff, 0x7f]),
            &["ends before", "archive/data/0"],
        ),
        ("another size", row(data, 20, &[97, 0, 0, 0, 97]), &["size or checksum", "archive/data/0"]),
        ("a size of 64 bits that is not there", row(data, 24, &[0xff; 4]), &["64-bit", "archive/data/0"]),
        ("a header past the end", row(data, 42, &[0xff, 0xff, 0xff, 0x7f]), &["ends before", "archive/data/0"]),
        ("a header that is none", row(data, 42, &[1]), &["no zip member", "archive/data/0"]),
        ("the same bytes twice", row("archive/version", 42, &(start(data) as u32).to_le_bytes()), &["name"]),
        ("a name past the end", row("archive/version", 28, &[0xff, 0xff]), &["cut off"]),
        ("no text", row(data, 46, &[0xff]), &["UTF-8"]),
        ("a name that speaks to terminals", row(data, 46, &[0x1b]), &["plain"]),
        ("fewer rows", patch(end64 + 24, &[5, 0, 0, 0, 0, 0, 0, 0, 5]), &["disagree"]),
        ("more members than fit", patch(end64 + 24, &[0xff; 16]), &["disagree"]),
        ("a directory elsewhere", patch(end64 + 48, &[1]), &["disagree"]),
        ("a longer directory", patch(end + 12, &[0xff, 0xff]), &["disagree"]),
        ("a locator past the end", patch(locator + 8, &huge), &["zip64", "locator"]),
        ("a locator to elsewhere", patch(locator + 8, &[0; 8]), &["zip64", "locator"]),
        ("a record too long", patch(end64 + 4, &huge), &["zip64"]),
        ("another disk", patch(end + 4, &[1]), &["disagree"]),
        ("a comment that is not there", patch(end + 20, &[7]), &["no zip directory"]),
        ("more behind its end", [&good[..], b"x"].concat(), &["no zip directory"]),
        ("something in front", [b"PK\x03\x04", &good[..]].concat(), &["zip"]),
    ];
    for (what, bytes, words) in cases {
        refused(what, bytes, words);
    }
    for cut in (1..good.len()).filter(|at| *at > 3) {
        refused("cut off", good[..cut].to_vec(), &["zip directory", "download it again?"]);
    }
    let named = |name: &str| torch_file::zip(&[(name.to_string(), b"x".to_vec())]);
    refused("another archive", named("word/document.xml"), &["not of torch"]);
    refused("deep within", named("a/b/data.pkl"), &["not of torch"]);
    refused(
        "two pickles",
        torch_file::zip(&["a/data.pkl", "b/data.pkl"].map(|n| (n.into(), vec![]))),
        &["not of torch"],
    );
    refused(
        "two members of one name",
        torch_file::zip(&["a/data.pkl", "a/data.pkl"].map(|n| (n.into(), vec![]))),
        &["two members"],
    );
    let order = [("a/data.pkl".to_string(), vec![]), ("a/byteorder".into(), b"big".to_vec())];
    refused("the other byte order", torch_file::zip(&order), &["`big`", "`little`"]);
    refused("a long name", torch_file::zip(&[("a".repeat(513), vec![])]), &["513 bytes", "512"]);
    refused("a large directory", directory_of(300_000), &["300000 zip members", "200000"]);
}

/// A directory that says it has many rows.
fn directory_of(count: u64) -> Vec<u8> {
    let mut file = good();
    let end = file.len() - 22;
    file[end - 76 + 24..][..8].copy_from_slice(&count.to_le_bytes());
    file[end - 76 + 32..][..8].copy_from_slice(&count.to_le_bytes());
    file[end + 8..][..4].copy_from_slice(&[0xff; 4]);
    file
}

/// Two members that share their bytes: one header within the data of the other.
#[test]
fn members_do_not_overlap() {
    let inner = torch_file::zip(&[("archive/x".into(), b"within".to_vec())]);
    let header = inner.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let good = torch_file::file(&state_dict(2, &[]), &[("0".into(), inner[..header].to_vec())]);
    // the row of `version` becomes one of `x`, which lies within `data/0`
    let mut file = good.clone();
    let at = record(&good, b"PK\x01\x02", "archive/version");
    let mut within = good.windows(4).enumerate().filter(|(_, w)| *w == b"PK\x03\x04").map(|(i, _)| i);
    let within = within.find(|&i| good[i + 30..].starts_with(b"archive/x")).unwrap();
    let mut row = inner[header..header + 46 + 9].to_vec();
    row[42..46].copy_from_slice(&(within as u32).to_le_bytes());
    // what is left of the longer row becomes its comment
    row[32] = 6;
    row.extend(b"      ");
    file[at..at + row.len()].copy_from_slice(&row);
    refused("overlapping", file, &["overlap"]);
}

#[test]
fn old_and_other_files() {
    let old = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
    refused("before zip", old.to_vec(), &["before 1.6", "zip format"]);
    refused("a bare pickle", b"\x80\x04\x95\x05\0\0\0\0\0\0\0}\x94.".to_vec(), &["bare pickle"]);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9989150328\n";
    refused("a pointer", pointer.into(), &["Git LFS", "git lfs pull"]);
    refused("a page", b"<!DOCTYPE html><html><body>404</body></html>".to_vec(), &["page of the web"]);
}

#[test]
fn headers_stay_small() {
    // as large as it says, but of no bytes on the disk
    let dir = folder(&[]);
    let path = dir.path().join("model.safetensors");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1_000_000_100).unwrap();
    std::io::Write::write_all(&mut &file, &[&1_000_000_000u64.to_le_bytes()[..], b"{"].concat()).unwrap();
    let (_, message) = complaint(Checkpoint::open(dir.path()));
    assert!(message.contains("1000000000 bytes"), "{message}");
    let deep = "[".repeat(100_000);
    refused("deep JSON", with_header(&deep, 0), &["no complete safetensors"]);
    let one = |from: u64, to: u64| format!(r#""a":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#);
    let twice = format!("{{{},{}}}", one(0, 8), one(8, 16));
    refused("the same name twice", with_header(&twice, 16), &["no complete safetensors"]);

    let index = dir.path().join("model.safetensors.index.json");
    std::fs::remove_file(&path).unwrap();
    std::fs::File::create(&index).unwrap().set_len(1 << 40).unwrap();
    let (_, message) = complaint(Checkpoint::open(dir.path()));
    assert!(message.contains("1099511627776 bytes"), "{message}");
    let names: Vec<String> = (0..5000).map(|i| format!(r#""{i}":"{i}.bin""#)).collect();
    std::fs::write(&index, format!(r#"{{"weight_map":{{{}}}}}"#, names.join(","))).unwrap();
    let (_, message) = complaint(Checkpoint::open(dir.path()));
    assert!(message.contains("5000 shards") && message.contains("4096"), "{message}");
    std::fs::write(&index, r#"{"weight_map":{}}"#).unwrap();
    let (_, message) = complaint(Checkpoint::open(dir.path()));
    assert!(message.contains("no shards"), "{message}");
}

/// What is in a file is told in part, and never as it stands.
#[test]
fn messages_stay_short() {
    let long = "\\u001b[2J".to_string() + &"x".repeat(100_000);
    refused("a header that is a text", with_header(&format!(r#"{{"a":"{long}"}}"#), 0), &["safetensors"]);
    for index in [
        format!(r#"{{"weight_map":"{long}"}}"#),
        format!(r#"{{"weight_map":{{"{long}":"a.bin"}}}}"#),
        format!(r#"{{"weight_map":{{"a":"../{long}"}}}}"#),
    ] {
        let shard = pickled(&state_dict(2, &[Stored::dense("a", "Float", 0, &[24])]));
        let dir = folder(&[("pytorch_model.bin.index.json", index.as_bytes()), ("a.bin", &shard)]);
        let (tensor, message) = complaint(Checkpoint::open(dir.path()));
        assert!(message.len() < 900 && !message.contains('\u{1b}'), "{message}");
        assert!(tensor.is_none_or(|name| name.len() < 900));
    }
}

/// A pipe in the place of a shard would be waited for.
#[cfg(unix)]
#[test]
fn shards_are_files() {
    let dir = folder(&[("model.safetensors.index.json", br#"{"weight_map":{"a":"pipe"}}"#)]);
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status();
    if made.is_ok_and(|status| status.success()) {
        let (_, message) = complaint(Checkpoint::open(dir.path()));
        assert!(message.contains("pipe") && message.contains("no file"), "{message}");
    }
}

/// Any byte changed, one at a time: an error or another checkpoint, never a panic.
#[test]
fn changed_bytes_do_no_harm() {
    let tensors = [Stored::dense("a", "Float", 0, &[4, 6]), Stored::dense("b", "Float", 0, &[24])];
    for protocol in [2, 4] {
        let good = pickled(&state_dict(protocol, &tensors));
        for at in 0..good.len() {
            for bit in [0, 3, 7] {
                let mut file = good.clone();
                file[at] ^= 1 << bit;
                let Ok(checkpoint) = Checkpoint::from_bytes("weights.bin", file) else { continue };
                for name in checkpoint.names() {
                    let entry = checkpoint.entry(name).unwrap();
                    let _ = entry.widen(0..entry.shape.iter().product());
                }
            }
        }
    }
}
