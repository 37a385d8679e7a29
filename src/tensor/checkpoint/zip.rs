//! The directory of a zip archive whose members are stored as they are, not compressed: what `torch.save` writes.
//! Source: PKWARE's APPNOTE 6.3.10, sections 4.3 (records) and 4.5.3 (zip64).
//!
//! Nothing is unpacked and nothing is copied: a member is a range of the file. Every number is checked against the
//! file before it is used, what is said twice has to agree, and no byte belongs to two members.

use std::collections::HashMap;
use std::ops::Range;

/// Most members of an archive: some hundred times what published checkpoints have.
const MEMBERS: u64 = 200_000;
/// Longest name of a member, in bytes.
const NAME: usize = 512;
/// Most bytes of its directory.
const DIRECTORY: u64 = 64 << 20;

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const DESCRIPTOR: &[u8] = b"PK\x07\x08";
const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR64: &[u8] = b"PK\x06\x07";

/// Flag: encrypted, wholly or in part.
const ENCRYPTED: u64 = 1 | 1 << 6 | 1 << 13;
/// Flag: sizes and checksum follow the data.
const STREAMED: u64 = 1 << 3;

/// What a message ends with when a file is damaged.
pub(super) const AGAIN: &str = "download it again?";

/// An archive and where its members are.
pub(super) struct Archive<'a> {
    file: &'a [u8],
    members: HashMap<&'a str, Member>,
}

struct Member {
    bytes: Range<usize>,
    crc: u32,
}

/// One row of the directory.
struct Row<'a> {
    name: &'a str,
    flags: u64,
    crc: u64,
    size: u64,
    header: u64,
}

impl<'a> Archive<'a> {
    /// Reads the directory.
    pub fn open(file: &'a [u8]) -> Result<Self, String> {
        let (directory, count) = directory(file)?;
        let (mut at, mut members, mut taken) = (directory.start, HashMap::new(), Vec::new());
        for _ in 0..count {
            let (row, next) = row(&file[..directory.end], at)?;
            at = next;
            let (header, bytes, end) = row.find(&file[..directory.start])?;
            taken.push(header..end);
            if members.insert(row.name, Member { bytes, crc: row.crc as u32 }).is_some() {
                return Err(format!("holds two members named `{}`; {AGAIN}", row.name));
            }
        }
        if at != directory.end {
            return Err(format!("has {} bytes in its zip directory that no member owns; {AGAIN}", directory.end - at));
        }
        taken.sort_by_key(|r| (r.start, r.end));
        if let Some(pair) = taken.windows(2).find(|pair| pair[0].end > pair[1].start) {
            let (a, b) = (pair[0].start, pair[1].start);
            return Err(format!("has zip members that overlap, at bytes {a} and {b}; {AGAIN}"));
        }
        Ok(Self { file, members })
    }

    /// The names of all members, in no order.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.members.keys().copied()
    }

    /// Where a member is, if there is one of this name.
    pub fn place(&self, name: &str) -> Option<Range<usize>> {
        self.members.get(name).map(|m| m.bytes.clone())
    }

    /// The bytes of a member, after a look at its checksum. (One of 0 was never computed: torch can be told so.)
    pub fn checked(&self, name: &str) -> Result<Option<&'a [u8]>, String> {
        let Some(member) = self.members.get(name) else { return Ok(None) };
        let bytes = &self.file[member.bytes.clone()];
        let found = crc32fast::hash(bytes);
        if member.crc != 0 && found != member.crc {
            return Err(format!("has `{name}` with checksum {found:08x}, expected {:08x}; {AGAIN}", member.crc));
        }
        Ok(Some(bytes))
    }
}

/// A number of `width` bytes, little end first.
fn number(file: &[u8], at: usize, width: usize) -> Result<u64, String> {
    let field = at.checked_add(width).and_then(|end| file.get(at..end));
    let field = field.ok_or_else(|| format!("is cut off within its zip directory; {AGAIN}"))?;
    Ok(field.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
}

fn starts(file: &[u8], at: usize, signature: &[u8]) -> bool {
    file.get(at..).is_some_and(|rest| rest.starts_with(signature))
}

/// `from..from + size`, if it ends by `most`.
fn range(from: u64, size: u64, most: usize) -> Option<Range<usize>> {
    let end = from.checked_add(size).filter(|&end| end <= most as u64)?;
    Some(from as usize..end as usize)
}

/// Where the directory is, and how many members it lists.
fn directory(file: &[u8]) -> Result<(Range<usize>, u64), String> {
    // the last record, behind which nothing is but its own comment
    let whole = |&at: &usize| {
        starts(file, at, END) && number(file, at + 20, 2).is_ok_and(|comment| at + 22 + comment as usize == file.len())
    };
    let last = file.len().saturating_sub(22);
    let end = (last.saturating_sub(0xffff)..=last).rev().find(whole);
    let end = end.ok_or_else(|| format!("has no zip directory at its end: it is cut off; {AGAIN}"))?;
    // disk, disk of the directory, members on it, members, bytes, start
    let mut fields =
        [(4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4)].map(|(at, width)| number(file, end + at, width));
    let mut behind = end;
    if let Some(locator) = end.checked_sub(20).filter(|&at| starts(file, at, LOCATOR64)) {
        let at = usize::try_from(number(file, locator + 8, 8)?).unwrap_or(usize::MAX);
        if !starts(file, at, END64) || number(file, at + 4, 8)?.checked_add(at as u64 + 12) != Some(locator as u64) {
            return Err(format!("has a zip64 directory that is not where its locator says; {AGAIN}"));
        }
        let wide =
            [(16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)].map(|(by, width)| number(file, at + by, width));
        let most = [0xffff, 0xffff, 0xffff, 0xffff, 0xffff_ffff, 0xffff_ffff];
        for ((narrow, wide), most) in fields.iter().zip(&wide).zip(most) {
            let (narrow, wide) = (narrow.clone()?, wide.clone()?);
            if narrow != wide.min(most) && narrow != most {
                return Err(format!("has two zip directories that disagree ({narrow} and {wide}); {AGAIN}"));
            }
        }
        (fields, behind) = (wide, at);
    }
    let [disk, directory_disk, here, count, size, start] = fields;
    let (count, size) = (count?, size?);
    if disk? != 0 || directory_disk? != 0 || here? != count {
        return Err("is one volume of a split zip archive; join its parts first".into());
    }
    if count > MEMBERS || size > DIRECTORY {
        return Err(format!(
            "lists {count} zip members in {size} bytes, more than the {MEMBERS} and {DIRECTORY} a checkpoint may have"
        ));
    }
    match range(start?, size, behind) {
        Some(place) if place.end == behind && count * 46 <= size => Ok((place, count)),
        _ => Err(format!("has a zip directory that does not end where its last record begins; {AGAIN}")),
    }
}

/// The row at a place of the directory, and where the next one is.
fn row(file: &[u8], at: usize) -> Result<(Row<'_>, usize), String> {
    if !starts(file, at, CENTRAL) {
        return Err(format!("has a zip directory with fewer members than it says; {AGAIN}"));
    }
    let field = |by: usize, width: usize| number(file, at + by, width);
    let (flags, method, crc) = (field(8, 2)?, field(10, 2)?, field(16, 4)?);
    let (mut packed, mut size, mut header) = (field(20, 4)?, field(24, 4)?, field(42, 4)?);
    let [name_size, extra, comment] = [field(28, 2)?, field(30, 2)?, field(32, 2)?].map(|n| n as usize);
    let (extra_at, next) = (at + 46 + name_size, at + 46 + name_size + extra + comment);
    if next > file.len() {
        return Err(format!("has a zip directory that is cut off within a name; {AGAIN}"));
    }
    // (a name ends up in messages)
    let name = std::str::from_utf8(&file[at + 46..extra_at]).ok().filter(|n| !n.contains(char::is_control));
    let name = name.ok_or_else(|| format!("has a zip member whose name is no plain UTF-8; {AGAIN}"))?;
    if name_size > NAME {
        return Err(format!("has a zip member whose name is {name_size} bytes long, expected {NAME} at most; {AGAIN}"));
    }
    if flags & ENCRYPTED != 0 {
        return Err(format!("has the encrypted zip member `{name}`; decrypt it first"));
    }
    // what does not fit 32 bits is in an extra field, in this order
    let mut wide = extra_field(&file[..extra_at + extra], extra_at)?;
    for value in [&mut size, &mut packed, &mut header] {
        if *value == 0xffff_ffff {
            let short = || format!("lacks the 64-bit sizes of its zip member `{name}`; {AGAIN}");
            *value = number(&file[..wide.end], wide.start, 8).map_err(|_| short())?;
            wide.start += 8;
        }
    }
    if method != 0 || packed != size {
        return Err(format!(
            "has the compressed zip member `{name}` (method {method}), and weights are read in place: pack it again \
             without compression (`zip -0`)"
        ));
    }
    Ok((Row { name, flags, crc, size, header }, next))
}

/// The zip64 field among the extra fields that reach from `at` to the end of `file`; empty if there is none.
fn extra_field(file: &[u8], mut at: usize) -> Result<Range<usize>, String> {
    while at + 4 <= file.len() {
        let (id, size) = (number(file, at, 2)?, number(file, at + 2, 2)? as usize);
        if id == 1 && at + 4 + size <= file.len() {
            return Ok(at + 4..at + 4 + size);
        }
        at += 4 + size;
    }
    Ok(0..0)
}

impl Row<'_> {
    /// Where the header, the data and the end of the member are, in what comes before the directory.
    fn find(&self, file: &[u8]) -> Result<(usize, Range<usize>, usize), String> {
        let Self { name, size, crc, .. } = *self;
        let cut = || format!("ends before its zip member `{name}` does ({size} bytes); {AGAIN}");
        let at = range(self.header, 30, file.len()).ok_or_else(cut)?.start;
        if !starts(file, at, LOCAL) {
            return Err(format!("has no zip member at byte {at}, where `{name}` should be; {AGAIN}"));
        }
        let field = |by: usize, width: usize| number(file, at + by, width);
        let name_size = field(26, 2)?;
        let names = range(at as u64 + 30, name_size, file.len()).ok_or_else(cut)?;
        let data = names.end as u64 + field(28, 2)?;
        let data = range(data, size, file.len()).ok_or_else(cut)?;
        let disagree = |what: &str| {
            Err(format!(
                "says two things about the {what} of its zip member `{name}`, in the directory and in front of it; {AGAIN}"
            ))
        };
        if &file[names.clone()] != name.as_bytes() {
            return disagree("name");
        }
        if field(6, 2)? != self.flags || field(8, 2)? != 0 {
            return disagree("packing");
        }
        if self.flags & STREAMED == 0 {
            let (packed, plain) = (field(18, 4)?, field(22, 4)?);
            let equal = |n: u64| n == size || n == 0xffff_ffff;
            if field(14, 4)? != crc || !equal(packed) || !equal(plain) {
                return disagree("size or checksum");
            }
            return Ok((at, data.clone(), data.end));
        }
        // the same again behind the data, with or without a signature, sizes in 32 or 64 bits
        let from = data.end + if starts(file, data.end, DESCRIPTOR) { 4 } else { 0 };
        let sizes = |width: usize| {
            number(file, from + 4, width).is_ok_and(|n| n == size)
                && number(file, from + 4 + width, width).is_ok_and(|n| n == size)
        };
        let width = if sizes(8) { 8 } else { 4 };
        if number(file, from, 4)? != crc || !sizes(width) {
            return disagree("size or checksum");
        }
        Ok((at, data, from + 4 + 2 * width))
    }
}
