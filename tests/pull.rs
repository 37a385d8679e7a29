//! `residua pull` against a hub on this machine: a server of a few lines that can be made to misbehave.

#[path = "program/mod.rs"]
mod program;
#[path = "tiny_model/mod.rs"]
mod tiny_model;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use program::{Ran, residua, scratch};
use serde_json::{Value, json};
use sha1::Digest;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One request as the server saw it.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

/// What a hub is asked to do wrong.
#[derive(Clone, Copy, Default, PartialEq)]
enum Quirk {
    #[default]
    None,
    /// Every transfer of a large file ends after 100 000 bytes.
    BreaksOff,
    /// Every transfer of a large file ends after 100 000 bytes, and none begins in between.
    NoRanges,
    /// The content is not what its hash says.
    Damaged,
    /// Only those with a token get anything.
    Closed,
    /// It names this file too.
    Names(&'static str),
    /// The first transfer of a large file ends early, and all that follow bring nothing.
    Dies,
    /// The content of small files is not what their hash says.
    DamagedSmall,
    /// Every large file is said to have this many bytes.
    Sized(&'static str),
    /// A repository is known by its new name, and only to those with a token.
    Renamed,
    /// Descriptions and sizes are told, and no content.
    Gone,
}

struct Hub {
    repos: BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>,
    asked: Mutex<Vec<Asked>>,
    quirk: Mutex<Quirk>,
    /// Where large files really are.
    store: Mutex<String>,
}

impl Hub {
    /// A hub, and a server of large files that it sends to.
    fn open(repos: BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>) -> (Arc<Self>, String) {
        let hub = Arc::new(Self { repos, asked: Mutex::default(), quirk: Mutex::default(), store: Mutex::default() });
        let serve = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let hub = hub.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let hub = hub.clone();
                    std::thread::spawn(move || hub.answer(stream));
                }
            });
            address
        };
        let (address, store) = (serve(), serve());
        *hub.store.lock().unwrap() = store;
        (hub, address)
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn set(&self, quirk: Quirk) {
        *self.quirk.lock().unwrap() = quirk;
    }

    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let first = lines.next()?.ok()?;
        let mut words = first.split(' ').map(String::from);
        let (method, path) = (words.next()?, words.next()?);
        let mut headers = BTreeMap::new();
        for line in lines.map_while(Result::ok).take_while(|l| !l.is_empty()) {
            let (name, value) = line.split_once(':')?;
            headers.insert(name.to_lowercase(), value.trim().to_string());
        }
        let asked = Asked { method, path, headers };
        self.asked.lock().unwrap().push(asked.clone());
        let (status, mut headers, body) = self.content(&asked);
        headers.push(("Connection".into(), "close".into()));
        let length = body.len().to_string();
        if !headers.iter().any(|(name, _)| name == "Content-Length") {
            headers.push(("Content-Length".into(), length));
        }
        let head: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        stream.write_all(format!("HTTP/1.1 {status} X\r\n{head}\r\n").as_bytes()).ok()?;
        if asked.method != "HEAD" {
            let quirk = *self.quirk.lock().unwrap();
            let ends = match quirk {
                Quirk::BreaksOff | Quirk::NoRanges | Quirk::Dies => body.len().min(100_000),
                _ => body.len(),
            };
            let ends = if quirk == Quirk::Dies && asked.headers.contains_key("range") { 0 } else { ends };
            stream.write_all(&body[..ends]).ok()?;
        }
        Some(())
    }

    fn content(&self, asked: &Asked) -> (u16, Vec<(String, String)>, Vec<u8>) {
        let quirk = *self.quirk.lock().unwrap();
        let nothing = |status| (status, Vec::new(), Vec::new());
        if quirk == Quirk::Closed && asked.headers.get("authorization").is_none_or(|t| t != "Bearer secret") {
            return nothing(401);
        }
        if let (Quirk::Renamed, Some(rest)) = (quirk, asked.path.strip_prefix("/somebody/old/")) {
            return (307, vec![("Location".into(), format!("/somebody/tiny/{rest}"))], Vec::new());
        }
        if let (Quirk::Renamed, Some(rest)) = (quirk, asked.path.strip_prefix("/api/models/somebody/old/")) {
            let to = format!("http://{}/api/models/somebody/tiny/{rest}", asked.headers["host"]);
            return (307, vec![("Location".into(), to)], Vec::new());
        }
        let to_hub = !asked.path.starts_with("/blob/");
        if quirk == Quirk::Renamed && to_hub && !asked.headers.contains_key("authorization") {
            return nothing(401);
        }
        let parts: Vec<&str> = asked.path.split('/').skip(1).collect();
        match parts[..] {
            ["api", "models", org, name, "revision", _] => {
                let Some(files) = self.repos.get(format!("{org}/{name}").as_str()) else { return nothing(404) };
                let mut names: Vec<&str> = files.keys().map(String::as_str).collect();
                if let Quirk::Names(bad) = quirk {
                    names.push(bad);
                }
                let siblings: Vec<Value> = names.iter().map(|n| json!({"rfilename": n})).collect();
                let about = json!({"sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}});
                (200, Vec::new(), about.to_string().into_bytes())
            }
            [org, name, "resolve", COMMIT, ..] => {
                let Some(files) = self.repos.get(format!("{org}/{name}").as_str()) else { return nothing(404) };
                let Some(bytes) = files.get(&parts[4..].join("/")) else { return nothing(404) };
                if bytes.len() < 50_000 {
                    if quirk == Quirk::Gone && asked.method != "HEAD" {
                        return nothing(404);
                    }
                    let etag = ("ETag".to_string(), format!("\"{}\"", git_hash(bytes)));
                    let mut bytes = bytes.clone();
                    if quirk == Quirk::DamagedSmall {
                        bytes[0] ^= 1;
                    }
                    return (200, vec![etag], bytes);
                }
                let to = format!("{}/blob{}?signed=yes", self.store.lock().unwrap(), asked.path);
                let linked = [("Location", to), ("X-Linked-Etag", format!("\"{}\"", sha256(bytes)))];
                let size = match quirk {
                    Quirk::Sized(size) => size.to_string(),
                    _ => bytes.len().to_string(),
                };
                let size = ("X-Linked-Size".to_string(), size);
                let headers = linked.into_iter().map(|(n, v)| (n.to_string(), v)).chain([size]);
                (302, headers.collect(), b"elsewhere".to_vec())
            }
            ["blob", org, name, "resolve", COMMIT, ..] => {
                let file = parts[5..].join("/");
                let file = file.split('?').next().unwrap();
                let mut bytes = self.repos[format!("{org}/{name}").as_str()][file].clone();
                if quirk == Quirk::Damaged {
                    bytes[10] ^= 1;
                }
                let from =
                    asked.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
                match from.filter(|_| quirk != Quirk::NoRanges) {
                    Some(from) => {
                        let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                        (206, vec![("Content-Range".into(), range)], bytes.split_off(from))
                    }
                    None => (200, Vec::new(), bytes),
                }
            }
            _ => nothing(404),
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    residua::tensor::sha256(file.path()).unwrap()
}

/// As git names content.
fn git_hash(bytes: &[u8]) -> String {
    let whole = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    sha1::Sha1::digest(whole).iter().map(|b| format!("{b:02x}")).collect()
}

/// The files below a folder by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for path in std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().replace('\\', "/");
                all.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    all
}

/// A hub that has the tiny model, with things beside it that nobody needs.
fn hub() -> (Arc<Hub>, String) {
    let mut model = files(tiny_model::folder());
    for name in [
        "README.md",
        "onnx/model.onnx",
        "transformer/flax_model.msgpack",
        "transformer/pytorch_model.bin",
        ".gitattributes",
    ] {
        model.insert(name.into(), vec![7; 200_000]);
    }
    Hub::open([("somebody/tiny", model)].into())
}

fn pull(dir: &Path, address: &str, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = residua(dir);
    command.env("HF_ENDPOINT", address).envs(env.iter().copied());
    command.arg("pull").args(args).output().unwrap().into()
}

#[track_caller]
fn refused(ran: &Ran, words: &[&str]) {
    assert!(ran.exit == 3 || ran.exit == 2, "{} {}", ran.exit, ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no `{word}` in: {}", ran.err);
    }
}

/// Names of what is in the cache, but for links.
fn blobs(dir: &Path) -> Vec<String> {
    let folder = dir.join("hub/models--somebody--tiny/blobs");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn pulled_and_run() {
    let dir = scratch();
    let (hub, address) = hub();
    let ran = pull(dir.path(), &address, &["somebody/tiny"], &[]);
    refused(
        &ran,
        &["somebody/tiny  mit  at 0123456789ab", "transformer/model.safetensors", "MiB to download", "--yes"],
    );
    assert!(!dir.path().join("hub").exists(), "nothing is written unasked");

    hub.asked();
    let ran = pull(dir.path(), &address, &["somebody/tiny", "--yes", "--json"], &[("HF_TOKEN", "secret")]).ok();
    let events: Vec<Value> = ran.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let last = events.last().unwrap();
    assert!(last["event"] == "done" && last["bytes"].as_u64().is_some_and(|b| b > 500_000), "{last}");
    let names: Vec<&str> =
        events[0]["repositories"][0]["files"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"vae/vae_2d/config.json") && names.contains(&"tokenizer/spiece.model"), "{names:?}");
    assert!(
        !names.iter().any(|n| n.contains("onnx") || n.contains("flax") || n.ends_with(".bin") || n.contains("README"))
    );
    // the token is for the hub, not for the server of files that it sends to
    let (stored, asked): (Vec<Asked>, Vec<Asked>) = hub.asked().into_iter().partition(|a| a.path.starts_with("/blob/"));
    assert!(asked.iter().all(|a| a.headers["authorization"] == "Bearer secret") && asked.len() > 10);
    assert!(!stored.is_empty() && stored.iter().all(|a| !a.headers.contains_key("authorization")));

    let model = tiny_model::folder().to_str().unwrap();
    for (model, name) in [(model, "a.rgb"), ("somebody/tiny", "b.rgb")] {
        program::run(dir.path(), &["generate", "-m", model, "-p", "a", "-s", "1", "--steps", "2", "-o", name]).ok();
    }
    assert!(std::fs::read(dir.path().join("a.rgb")).unwrap() == std::fs::read(dir.path().join("b.rgb")).unwrap());
    let listed = program::run(dir.path(), &["list"]).ok();
    let line = listed.text().lines().find(|l| l.starts_with("somebody/tiny")).expect("listed");
    assert!(line.contains("MiB") && !line.contains("lacks"), "{line}");
    assert!(listed.text().contains("lacks transformer, vae, text_encoder, tokenizer"), "{}", listed.text());

    // again: everything is there
    hub.asked();
    let ran = pull(dir.path(), &address, &["somebody/tiny"], &[]).ok();
    assert!(ran.err.contains("(there)"), "{}", ran.err);
    assert!(hub.asked().iter().all(|a| a.method == "HEAD" || a.path.starts_with("/api/")));
}

/// A model whose parts are in three repositories, and one that is described by names of others.
#[test]
fn several_repositories() {
    let dir = scratch();
    let all = files(tiny_model::folder());
    let part = |names: [&str; 2]| -> BTreeMap<String, Vec<u8>> {
        let own =
            |name: &String| names.iter().find_map(|part| name.strip_prefix(&format!("{part}/")).map(String::from));
        all.iter().filter_map(|(name, bytes)| Some((own(name)?, bytes.clone()))).collect()
    };
    let described = "kind = \"open-sora-1.2\"\n[parts]\ntransformer = \"net\"\nvae = \"hub:hpcai-tech/OpenSora-VAE-v1.2\"\n\
                     text_encoder = \"hub:DeepFloyd/t5-v1_1-xxl\"\n";
    let net = part(["transformer", "-"]).into_iter().map(|(name, bytes)| (format!("net/{name}"), bytes));
    let (hub, address) = Hub::open(
        [
            ("hpcai-tech/OpenSora-STDiT-v3", part(["transformer", "-"])),
            ("hpcai-tech/OpenSora-VAE-v1.2", part(["vae", "-"])),
            ("DeepFloyd/t5-v1_1-xxl", part(["text_encoder", "tokenizer"])),
            ("somebody/described", net.chain([("residua-model.toml".to_string(), described.into())]).collect()),
        ]
        .into(),
    );
    let generate = |model: &str, name: &str| {
        let flags = ["-p", "a", "-s", "1", "-W", "32", "-H", "32", "-f", "17", "--steps", "2", "-o", name];
        program::run(dir.path(), &[&["generate", "-m", model], &flags[..]].concat()).ok();
        std::fs::read(dir.path().join(name)).unwrap()
    };
    pull(dir.path(), &address, &["somebody/described", "--yes"], &[]).ok();
    let a = generate("somebody/described", "a.rgb");
    let ran = pull(dir.path(), &address, &["open-sora-1.2", "--yes"], &[]).ok();
    assert!(ran.err.contains("(there)") && ran.err.contains("hpcai-tech/OpenSora-STDiT-v3  mit"), "{}", ran.err);
    assert!(generate("open-sora-1.2", "b.rgb") == a);
    // what lies in a folder of its own is not asked for
    hub.asked();
    let shelf = dir.path().join("shelf/OpenSora-VAE-v1.2");
    std::fs::create_dir_all(&shelf).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::write(shelf.join(name), &all[&format!("vae/{name}")]).unwrap();
    }
    let shelf = dir.path().join("shelf");
    pull(dir.path(), &address, &["open-sora-1.2"], &[("RESIDUA_MODELS", shelf.to_str().unwrap())]).ok();
    assert!(hub.asked().iter().all(|a| !a.path.contains("VAE")));
}

#[test]
fn transfers_that_break_off() {
    for quirk in [Quirk::BreaksOff, Quirk::NoRanges, Quirk::Dies] {
        let dir = scratch();
        let (hub, address) = hub();
        hub.set(quirk);
        let ran = pull(dir.path(), &address, &["somebody/tiny", "--yes"], &[]);
        if quirk == Quirk::BreaksOff {
            ran.ok();
            let from = |a: &Asked| a.headers.get("range").cloned();
            let ranges: Vec<String> = hub.asked().iter().filter_map(from).collect();
            assert!(ranges.contains(&"bytes=100000-".into()) && ranges.contains(&"bytes=200000-".into()), "{ranges:?}");
        } else {
            refused(&ran, &["goes on from there"]);
            let left = blobs(dir.path());
            assert_eq!(left.iter().filter(|n| n.ends_with(".incomplete")).count(), 1, "{left:?}");
            assert!(!dir.path().join("hub/models--somebody--tiny/refs").exists());
            // later
            hub.set(Quirk::None);
            hub.asked();
            pull(dir.path(), &address, &["somebody/tiny", "--yes"], &[]).ok();
            let resumed = hub.asked().iter().any(|a| a.headers.get("range").is_some_and(|r| r == "bytes=100000-"));
            assert!(resumed, "goes on where it ended");
        }
        assert!(!blobs(dir.path()).iter().any(|n| n.ends_with(".incomplete")));
        program::run(dir.path(), &["info", "somebody/tiny"]).ok();
    }
}

#[test]
fn what_is_refused() {
    let dir = scratch();
    let (hub, address) = hub();
    let pull = |name: &str, env: &[(&str, &str)]| pull(dir.path(), &address, &[name, "--yes"], env);
    refused(&pull("somebody/tiny", &[("HF_HUB_OFFLINE", "1")]), &["HF_HUB_OFFLINE is set"]);
    assert!(hub.asked().is_empty(), "nobody was asked");
    refused(&pull("somebody/other", &[]), &["somebody/other", "is not there"]);
    refused(&pull("nonsense", &[]), &["nonsense", "org/name"]);
    refused(&pull("../../etc/passwd", &[]), &["no name on a hub"]);
    refused(&pull("open-sora-1.2", &[]), &["hpcai-tech/OpenSora-STDiT-v3", "is not there"]);
    refused(&pull("somebody/tiny", &[("HF_ENDPOINT", "ftp://nowhere")]), &["HF_ENDPOINT", "https://"]);
    let plain = [("HF_ENDPOINT", "http://example.org"), ("HF_TOKEN", "secret")];
    refused(&pull("somebody/tiny", &plain), &["unencrypted"]);
    for bad in ["../outside.json", "/etc/outside.json", "a\\..\\b.json", "a/../../b.json", "a\u{1b}[2J.json"] {
        hub.set(Quirk::Names(bad));
        let ran = pull("somebody/tiny", &[]);
        refused(&ran, &["outside its folder", "nothing was written"]);
        assert!(!ran.err.contains('\u{1b}'), "{:?}", ran.err);
    }
    hub.set(Quirk::Closed);
    refused(&pull("somebody/tiny", &[]), &["set HF_TOKEN"]);
    let ran = pull("somebody/tiny", &[("HF_TOKEN", "wrong")]);
    refused(&ran, &["refused with the token in HF_TOKEN"]);
    assert!(!ran.err.contains("wrong"), "tokens are nobody's business: {}", ran.err);
    assert!(!dir.path().join("hub").exists(), "nothing was written");
    hub.set(Quirk::Damaged);
    refused(&pull("somebody/tiny", &[]), &["has SHA-256", "promised", "thrown away"]);
    assert!(!blobs(dir.path()).iter().any(|n| n.len() > 40), "{:?}", blobs(dir.path()));
    let ran = program::run(dir.path(), &["generate", "-m", "somebody/tiny", "-p", "a"]);
    refused(&ran, &["does not know `main`", "residua pull somebody/tiny"]);
}

/// A repository that has another name now: the hub sends to it, and only the answer there tells the hashes.
#[test]
fn renamed() {
    let dir = scratch();
    let (hub, address) = hub();
    hub.set(Quirk::Renamed);
    let ran = pull(dir.path(), &address, &["somebody/old", "--yes"], &[("HF_TOKEN", "secret")]).ok();
    assert!(ran.err.contains("somebody/old  mit"), "{}", ran.err);
    let asked = hub.asked();
    let (stored, asked): (Vec<&Asked>, Vec<&Asked>) = asked.iter().partition(|a| a.path.starts_with("/blob/"));
    assert!(asked.iter().all(|a| a.headers["authorization"] == "Bearer secret"));
    assert!(!stored.is_empty() && stored.iter().all(|a| !a.headers.contains_key("authorization")));
    program::run(dir.path(), &["info", "somebody/old"]).ok();
    let blobs = std::fs::read_dir(dir.path().join("hub/models--somebody--old/blobs")).unwrap();
    let hashes: Vec<String> = blobs.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(hashes.iter().any(|n| n.len() == 64), "large files by the hash that the hub told: {hashes:?}");
}

/// Sizes that add up to nothing, content that is not what it should be, content that is not there.
#[test]
fn lies() {
    let dir = scratch();
    let (hub, address) = hub();
    for size in ["9223372036854775808", "4398046511105"] {
        hub.set(Quirk::Sized(size));
        let ran = pull(dir.path(), &address, &["somebody/tiny"], &[]);
        refused(&ran, &[size, "expected 4398046511104 at most"]);
    }
    hub.set(Quirk::Sized("0"));
    refused(&pull(dir.path(), &address, &["somebody/tiny"], &[]), &["--yes"]);
    assert!(!dir.path().join("hub").exists(), "nothing was written");
    hub.set(Quirk::DamagedSmall);
    refused(&pull(dir.path(), &address, &["somebody/tiny", "--yes"], &[]), &["has git's hash", "thrown away"]);
    hub.set(Quirk::Gone);
    hub.asked();
    let ran = pull(dir.path(), &address, &["somebody/tiny", "--yes"], &[]);
    refused(&ran, &["is not there"]);
    assert!(!ran.err.contains("goes on from there"), "{}", ran.err);
    assert_eq!(hub.asked().iter().filter(|a| a.method == "GET" && !a.path.starts_with("/api/")).count(), 1);
}
