//! Torch files made by hand, as `torch.save` lays them out: a pickle in a zip archive of storages.
#![allow(dead_code)] // by some of the tests that share this file

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

/// A tensor of a file.
#[derive(Clone)]
pub struct Stored {
    pub name: String,
    /// `Float` of `torch.FloatStorage`.
    pub kind: &'static str,
    pub key: String,
    /// Numbers of the storage.
    pub count: i64,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
    /// Wrapped as a parameter, its sizes as `torch.Size`.
    pub parameter: bool,
}

impl Stored {
    /// One that has a storage for itself.
    pub fn dense(name: &str, kind: &'static str, key: usize, shape: &[usize]) -> Self {
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
        let count = shape.iter().product();
        Self { name: name.into(), kind, key: key.to_string(), count, offset: 0, shape, strides, parameter: false }
    }
}

/// A pickle in the making.
pub struct Code {
    pub bytes: Vec<u8>,
    protocol: u8,
    kept: u32,
}

impl Code {
    pub fn new(protocol: u8) -> Self {
        let mut code = Self { bytes: vec![0x80, protocol], protocol, kept: 0 };
        if protocol >= 4 {
            // one frame without an end in sight would do, but writers give its true size: filled in at the end
            code.bytes.extend([0x95, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        code
    }

    pub fn op(&mut self, op: u8) -> &mut Self {
        self.bytes.push(op);
        self
    }

    pub fn keep(&mut self) -> &mut Self {
        match (self.protocol, self.kept) {
            (4.., _) => self.bytes.push(0x94),
            (_, 0..256) => self.bytes.extend([b'q', self.kept as u8]),
            _ => {
                self.bytes.push(b'r');
                self.bytes.extend(self.kept.to_le_bytes());
            }
        }
        self.kept += 1;
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        if self.protocol >= 4 && text.len() < 256 {
            self.bytes.extend([0x8c, text.len() as u8]);
        } else {
            self.bytes.push(b'X');
            self.bytes.extend((text.len() as u32).to_le_bytes());
        }
        self.bytes.extend(text.as_bytes());
        self.keep()
    }

    pub fn int(&mut self, n: i64) -> &mut Self {
        match n {
            0..256 => self.bytes.extend([b'K', n as u8]),
            256..65536 => self.bytes.extend([b'M', n as u8, (n >> 8) as u8]),
            _ if n == i64::from(n as i32) => {
                self.bytes.push(b'J');
                self.bytes.extend((n as i32).to_le_bytes());
            }
            _ => {
                self.bytes.extend([0x8a, 8]);
                self.bytes.extend(n.to_le_bytes());
            }
        }
        self
    }

    pub fn ints(&mut self, numbers: &[i64]) -> &mut Self {
        self.op(b'(');
        for &n in numbers {
            self.int(n);
        }
        self.op(b't').keep()
    }

    pub fn global(&mut self, module: &str, name: &str) -> &mut Self {
        if self.protocol >= 4 {
            self.text(module).text(name).op(0x93);
        } else {
            self.bytes.extend(format!("c{module}\n{name}\n").as_bytes());
        }
        self.keep()
    }

    /// A tensor, as a value.
    pub fn tensor(&mut self, t: &Stored) -> &mut Self {
        if t.parameter {
            self.global("torch._utils", "_rebuild_parameter").op(b'(');
        }
        self.global("torch._utils", "_rebuild_tensor_v2").op(b'(').op(b'(');
        self.text("storage").global("torch", &format!("{}Storage", t.kind));
        self.text(&t.key).text("cpu").int(t.count).op(b't').keep().op(b'Q').int(t.offset);
        if t.parameter {
            self.global("torch", "Size").ints(&t.shape).op(0x85).op(b'R').keep();
        } else {
            self.ints(&t.shape);
        }
        self.ints(&t.strides).op(0x89);
        self.global("collections", "OrderedDict").op(b')').op(b'R').keep().op(b't').keep().op(b'R').keep();
        if t.parameter {
            self.op(0x88).global("collections", "OrderedDict").op(b')').op(b'R').op(b't').op(b'R').keep();
        }
        self
    }

    /// A dictionary of tensors, with versions of modules as its state.
    pub fn dict(&mut self, tensors: &[Stored]) -> &mut Self {
        self.global("collections", "OrderedDict").op(b')').op(b'R').keep().op(b'(');
        for t in tensors {
            self.text(&t.name).tensor(t);
        }
        self.op(b'u').op(b'}').keep().text("_metadata").op(b'}').op(b's').op(b'b')
    }

    pub fn done(&mut self) -> Vec<u8> {
        self.op(b'.');
        if self.protocol >= 4 {
            let size = self.bytes.len() as u64 - 11;
            self.bytes[3..11].copy_from_slice(&size.to_le_bytes());
        }
        std::mem::take(&mut self.bytes)
    }
}

/// The pickle of a state dict.
pub fn state_dict(protocol: u8, tensors: &[Stored]) -> Vec<u8> {
    Code::new(protocol).dict(tensors).done()
}

/// The file around a pickle.
pub fn file(pickle: &[u8], storages: &[(String, Vec<u8>)]) -> Vec<u8> {
    zip(&members(pickle, storages))
}

/// What is in such a file.
pub fn members(pickle: &[u8], storages: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let mut members = vec![("archive/data.pkl".to_string(), pickle.to_vec())];
    members.push(("archive/byteorder".into(), b"little".to_vec()));
    members.extend(storages.iter().map(|(key, bytes)| (format!("archive/data/{key}"), bytes.clone())));
    members.push(("archive/version".into(), b"3\n".to_vec()));
    members
}

/// How the sizes of members are written.
#[derive(Clone, Copy, PartialEq)]
pub enum Sizes {
    /// As torch does: behind the data.
    Behind,
    /// As torch does from 4 GiB on: in 64 bits.
    Wide,
    /// As other writers of archives do: in front.
    InFront,
}

/// A zip archive as torch writes it: stored, aligned, a zip64 end.
pub fn zip(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    zip_as(Sizes::Behind, members)
}

/// A zip archive with its sizes written in some way.
pub fn zip_as(sizes: Sizes, members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut rows) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let (at, crc, size) = (out.len(), crc32fast::hash(bytes).to_le_bytes(), bytes.len() as u64);
        let narrow = (size as u32).to_le_bytes();
        let told = [&crc[..], &narrow, &narrow].concat();
        let flags = if sizes == Sizes::InFront { [0, 8, 0, 0] } else { [8, 8, 0, 0] };
        let start = at + 30 + name.len() + 4;
        let padding = start.next_multiple_of(64) - start;
        out.extend([b"PK\x03\x04\0\0", &flags[..], &[0; 4]].concat());
        out.extend(if sizes == Sizes::InFront { &told[..] } else { &[0; 12] });
        out.extend((name.len() as u16).to_le_bytes());
        out.extend((padding as u16 + 4).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(b"FB");
        out.extend((padding as u16).to_le_bytes());
        out.extend(std::iter::repeat_n(b'Z', padding));
        out.extend(bytes);
        let wide = [size.to_le_bytes(), size.to_le_bytes()].concat();
        match sizes {
            Sizes::Behind => out.extend([b"PK\x07\x08", &told[..]].concat()),
            Sizes::Wide => out.extend([b"PK\x07\x08", &crc[..], &wide].concat()),
            Sizes::InFront => {}
        }

        rows.extend([b"PK\x01\x02\0\0\0\0", &flags[..], &[0; 4]].concat());
        rows.extend(if sizes == Sizes::Wide { [&crc[..], &[0xff; 8]].concat() } else { told });
        rows.extend((name.len() as u16).to_le_bytes());
        rows.extend(if sizes == Sizes::Wide { [28, 0] } else { [0, 0] });
        rows.extend([0; 10]);
        rows.extend(if sizes == Sizes::Wide { [0xff; 4] } else { (at as u32).to_le_bytes() });
        rows.extend(name.as_bytes());
        if sizes == Sizes::Wide {
            rows.extend([&[1, 0, 24, 0], &wide[..], &(at as u64).to_le_bytes()].concat());
        }
    }
    let (start, count) = (out.len() as u64, members.len() as u64);
    out.extend(&rows);
    let end64 = out.len() as u64;
    out.extend(b"PK\x06\x06");
    out.extend(44u64.to_le_bytes());
    out.extend([0x1e, 3, 0x2d, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    [count, count, rows.len() as u64, start].iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(b"PK\x06\x07\0\0\0\0");
    out.extend(end64.to_le_bytes());
    out.extend([1, 0, 0, 0]);
    out.extend(b"PK\x05\x06\0\0\0\0");
    [count as u16, count as u16].iter().for_each(|n| out.extend(n.to_le_bytes()));
    [rows.len() as u32, start as u32].iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend([0, 0]);
    out
}

/// A safetensors file as one torch file for every part of its tensors, with the index if there is more than one.
pub fn convert(safetensors: &Path, folder: &Path, stem: &str, parts: usize) {
    let bytes = std::fs::read(safetensors).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = all.names();
    names.sort();
    let mut map = serde_json::Map::new();
    for (part, names) in names.chunks(names.len().div_ceil(parts)).enumerate() {
        let file_name =
            if parts == 1 { format!("{stem}.bin") } else { format!("{stem}-{:05}-of-{parts:05}.bin", part + 1) };
        let (mut tensors, mut storages) = (Vec::new(), Vec::new());
        for (key, &name) in names.iter().enumerate() {
            let view = all.tensor(name).unwrap();
            let kind = match view.dtype() {
                Dtype::F32 => "Float",
                Dtype::F16 => "Half",
                Dtype::BF16 => "BFloat16",
                other => panic!("{other:?}"),
            };
            tensors.push(Stored::dense(name, kind, key, view.shape()));
            storages.push((key.to_string(), view.data().to_vec()));
            map.insert(name.into(), file_name.clone().into());
        }
        std::fs::write(folder.join(&file_name), file(&state_dict(2, &tensors), &storages)).unwrap();
    }
    if parts > 1 {
        let index = serde_json::json!({"metadata": {"total_size": bytes.len()}, "weight_map": map});
        std::fs::write(folder.join(format!("{stem}.bin.index.json")), index.to_string()).unwrap();
    }
}
