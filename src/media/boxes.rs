//! The few MP4 boxes the muxer does not know: colour, crop, and the key-value store the recipe lives in.

use shiguredo_mp4::boxes::UnknownBox;
use shiguredo_mp4::{BoxSize, BoxType};

use super::color::Matrix;

/// A box with this payload.
pub(super) fn make(kind: [u8; 4], payload: Vec<u8>) -> UnknownBox {
    let box_type = BoxType::Normal(kind);
    UnknownBox { box_type, box_size: BoxSize::with_payload_size(box_type, payload.len() as u64), payload }
}

/// The payload of the first box of this kind.
pub(super) fn find(boxes: &[UnknownBox], kind: [u8; 4]) -> Option<&[u8]> {
    boxes.iter().find(|b| b.box_type == BoxType::Normal(kind)).map(|b| b.payload.as_slice())
}

/// A box as bytes, for nesting; the payloads here are far below 4 GiB.
fn bytes(kind: [u8; 4], payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32 + 8).to_be_bytes()[..], &kind, payload].concat()
}

/// The children of a payload, as (kind, payload); stops at the first that does not fit.
fn children(mut payload: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let size = u32_at(payload, 0)? as usize;
        let kind = payload.get(4..8)?.try_into().ok()?;
        let inner = payload.get(8..size)?;
        payload = &payload[size..];
        Some((kind, inner))
    })
}

fn child(payload: &[u8], kind: [u8; 4]) -> Option<&[u8]> {
    children(payload).find(|(k, _)| *k == kind).map(|(_, inner)| inner)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// `colr`: BT.709 primaries, transfer and matrix, limited range.
pub(super) fn colr() -> UnknownBox {
    make(*b"colr", [b"nclx".as_slice(), &[0, 1, 0, 1, 0, 1, 0]].concat())
}

/// The matrix a `colr` names; without one, BT.601 in limited range, as other readers assume.
pub(super) fn read_colr(payload: Option<&[u8]>) -> Matrix {
    match payload {
        Some([b'n', b'c', b'l', b'x', _, _, _, _, hi, lo, range, ..]) => {
            let matrix = if (*hi, *lo) == (0, 1) { Matrix::BT709 } else { Matrix::BT601 };
            matrix.with_range(range & 0x80 != 0)
        }
        _ => Matrix::BT601,
    }
}

/// `clap`: of a coded picture padded to even sides, the [width, height] at its upper left is meant.
pub(super) fn clap((width, height): (usize, usize)) -> UnknownBox {
    // offsets are those of the centre: half a pixel up or left for each pixel of padding
    let offset = |side: usize| -((side % 2) as i32);
    let fields = [width as i32, 1, height as i32, 1, offset(width), 2, offset(height), 2];
    make(*b"clap", fields.iter().flat_map(|v| v.to_be_bytes()).collect())
}

/// Upper left corner and size of the window a `clap` names; `None` unless it lies on whole pixels inside the picture.
pub(super) fn read_clap(payload: &[u8], (width, height): (usize, usize)) -> Option<[(usize, usize); 2]> {
    let field = |i: usize| u32_at(payload, 4 * i).map(|v| v as i32 as i64);
    let window = |first: usize, offset: usize, coded: usize| {
        let (n, d, on, od) = (field(first)?, field(first + 1)?, field(offset)?, field(offset + 1)?);
        let coded = coded as i64;
        if d <= 0 || od <= 0 || n % d != 0 || 2 * on % od != 0 {
            return None;
        }
        let (size, twice) = (n / d, coded - n / d + 2 * on / od); // twice the distance from the edge
        let inside = size > 0 && twice >= 0 && twice % 2 == 0 && twice / 2 + size <= coded;
        inside.then_some((twice as usize / 2, size as usize))
    };
    let ((x, w), (y, h)) = (window(0, 4, width)?, window(2, 6, height)?);
    Some([(x, y), (w, h)])
}

/// `udta/meta` with one UTF-8 value under a reverse-domain key.
///
/// Source: QuickTime File Format, "Metadata" (`mdta` handler, `keys`, `ilst`), in the place MP4 has for it.
pub(super) fn udta(key: &str, value: &str) -> UnknownBox {
    let handler = [&[0; 8], b"mdta".as_slice(), &[0; 13]].concat();
    let keys = [&[0, 0, 0, 0, 0, 0, 0, 1], bytes(*b"mdta", key.as_bytes()).as_slice()].concat();
    let data = [&[0, 0, 0, 1, 0, 0, 0, 0], value.as_bytes()].concat(); // UTF-8, any locale
    let item = bytes([0, 0, 0, 1], &bytes(*b"data", &data)); // named by the number of its key
    let meta =
        [&[0; 4], bytes(*b"hdlr", &handler).as_slice(), &bytes(*b"keys", &keys), &bytes(*b"ilst", &item)].concat();
    make(*b"udta", bytes(*b"meta", &meta))
}

/// The value `udta` keeps under this key.
pub(super) fn read_udta(udta: &[u8], key: &str) -> Option<String> {
    let meta = child(udta, *b"meta")?.get(4..)?;
    let keys = child(meta, *b"keys")?.get(8..)?;
    let number = children(keys).position(|(_, name)| name == key.as_bytes())? as u32 + 1;
    let data = child(child(child(meta, *b"ilst")?, number.to_be_bytes())?, *b"data")?;
    String::from_utf8(data.get(8..)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_names_the_unpadded_window() {
        for (size, coded) in [((51, 39), (52, 40)), ((50, 39), (50, 40)), ((64, 48), (64, 48))] {
            assert_eq!(read_clap(&clap(size).payload, coded), Some([(0, 0), size]));
        }
        assert_eq!(read_clap(&clap((60, 40)).payload, (52, 40)), None, "larger than the picture");
        assert_eq!(read_clap(&[0; 32], (52, 40)), None);
        assert_eq!(read_clap(&[255; 7], (52, 40)), None);
    }

    #[test]
    fn udta_keeps_a_value() {
        let kept = udta("com.example.note", "naïve 蝸牛");
        assert_eq!(read_udta(&kept.payload, "com.example.note").as_deref(), Some("naïve 蝸牛"));
        assert_eq!(read_udta(&kept.payload, "com.example.other"), None);
        for cut in 0..kept.payload.len() {
            assert_eq!(read_udta(&kept.payload[..cut], "com.example.note"), None);
        }
    }
}
