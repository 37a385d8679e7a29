//! MP4 in: the first H.264 track of a file as frames. Files are taken for hostile: every size is checked before it is
//! believed, and what is allocated stays in proportion to the file or under a stated limit.

use std::fs::File;
use std::io::{Error as IoError, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use shiguredo_mp4::Decode;
use shiguredo_mp4::aux::SampleTableAccessor;
use shiguredo_mp4::bitstream::h264::{H264NalUnitType as Nal, LengthSize, parse_length_prefixed_nal_units};
use shiguredo_mp4::boxes::{Avc1Box, HdlrBox, MoovBox, SampleEntry, StblBox};

use super::boxes;
use super::color::from_420;
use super::frames::{Frames, MAX_SIDE};
use super::h264::Pictures;
use super::recipe::RECIPE_KEY;
use crate::error::{Error, Result};

/// A larger index is refused: 64 MiB describe millions of frames.
const MAX_MOOV: u64 = 64 << 20;
/// Boxes looked at on the top level before the index must have come.
const MAX_TOP_LEVEL: usize = 4096;
/// Decoded frames larger than this together are refused.
const MAX_DECODED: u64 = 4 << 30;

/// Decodes the first video track of an MP4 file; it must be H.264 (`avc1`), 8 bits, 4:2:0, progressive.
///
/// Frames come in display order, at the mean rate of the track. The matrix is that of the file's `colr` box, BT.601 if
/// it has none, as other readers assume. Edit lists, rotation and pixel aspect are ignored; fragmented files
/// (`moof`) are not read.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read or is not such a file; [`Error::Limit`] if its frames would take more than
/// 4 GiB.
pub fn read_mp4(path: &Path) -> Result<Frames> {
    read_within(path, MAX_DECODED)
}

/// [`read_mp4`] of a file whose frames take `most` bytes at the most.
pub(super) fn read_within(path: &Path, most: u64) -> Result<Frames> {
    let failed = |e: IoError| Error::io(path, e);
    let mut file = File::open(path).map_err(failed)?;
    let (stbl, timescale) = video_track(moov(&mut file).map_err(failed)?).map_err(failed)?;
    let Some(SampleEntry::Avc1(entry)) = stbl.stsd_box.entries.first().cloned() else {
        return Err(failed(invalid("its video is not H.264 (`avc1`)")));
    };
    if stbl.stsd_box.entries.len() > 1 {
        return Err(failed(invalid("its video changes format on the way")));
    }
    let table = SampleTableAccessor::new(stbl).map_err(|e| failed(invalid(e)))?;
    let bytes = table.sample_count() as u64 * entry.visual.width as u64 * entry.visual.height as u64 * 3;
    if bytes > most {
        let gib = |n: u64| format!("{:.1} GiB", n as f64 / (1u64 << 30) as f64);
        return Err(Error::Limit { what: format!("decoding {}", path.display()), need: gib(bytes), have: gib(most) });
    }
    frames(&mut file, &table, &entry, timescale).map_err(failed)
}

/// The value kept under the recipe's key.
pub(super) fn text(file: &mut File) -> std::io::Result<Option<String>> {
    let moov = moov(file)?;
    Ok(boxes::find(&moov.unknown_boxes, *b"udta").and_then(|udta| boxes::read_udta(udta, RECIPE_KEY)))
}

fn invalid(problem: impl std::fmt::Display) -> IoError {
    IoError::new(ErrorKind::InvalidData, problem.to_string())
}

/// Finds and reads the index, box by box: the crate's own demuxer recurses once for each box in front of it.
fn moov(file: &mut File) -> std::io::Result<MoovBox> {
    let length = file.metadata()?.len();
    let mut at = 0;
    for _ in 0..MAX_TOP_LEVEL {
        let mut header = [0; 16];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header[..8])?;
        let mut size = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as u64;
        let kind = &header[4..8].to_vec();
        if at == 0 && kind != b"ftyp" {
            return Err(invalid("not an MP4 file (it does not begin with `ftyp`)"));
        }
        if size == 1 {
            file.read_exact(&mut header[8..])?;
            size = u64::from_be_bytes(header[8..].try_into().expect("eight bytes"));
        } else if size == 0 {
            size = length - at; // up to the end
        }
        let end = at.checked_add(size).filter(|end| size >= 8 && *end <= length);
        let Some(end) = end else {
            return Err(invalid(format!("box `{}` at byte {at} does not fit into the file", kind.escape_ascii())));
        };
        if kind == b"moov" {
            if size > MAX_MOOV {
                return Err(invalid(format!("its index of {size} bytes is larger than {MAX_MOOV}")));
            }
            let mut bytes = vec![0; size as usize];
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut bytes)?;
            return MoovBox::decode(&bytes).map(|(moov, _)| moov).map_err(invalid);
        }
        at = end;
    }
    Err(invalid("no `moov` box"))
}

/// The sample table of the first video track, and its ticks per second.
fn video_track(moov: MoovBox) -> std::io::Result<(StblBox, u32)> {
    let media = moov.trak_boxes.into_iter().map(|track| track.mdia_box);
    let video = media.into_iter().find(|m| m.hdlr_box.handler_type == HdlrBox::HANDLER_TYPE_VIDE);
    let video = video.ok_or_else(|| invalid("no video track"))?;
    Ok((video.minf_box.stbl_box, video.mdhd_box.timescale.get()))
}

fn frames(
    file: &mut File,
    table: &SampleTableAccessor<StblBox>,
    entry: &Avc1Box,
    timescale: u32,
) -> std::io::Result<Frames> {
    let (coded_w, coded_h) = (entry.visual.width as usize, entry.visual.height as usize);
    if coded_w == 0 || coded_h == 0 || coded_w > MAX_SIDE || coded_h > MAX_SIDE {
        return Err(invalid(format!("a picture of {coded_w} x {coded_h} pixels")));
    }
    let whole = [(0, 0), (coded_w, coded_h)];
    let clap = boxes::find(&entry.unknown_boxes, *b"clap").and_then(|b| boxes::read_clap(b, (coded_w, coded_h)));
    let [corner, (width, height)] = clap.unwrap_or(whole);
    let matrix = boxes::read_colr(boxes::find(&entry.unknown_boxes, *b"colr"));
    let prefix = LengthSize::from_length_size_minus_one(entry.avcc_box.length_size_minus_one.get()).map_err(invalid)?;
    let sets = entry.avcc_box.sps_list.iter().chain(&entry.avcc_box.pps_list);
    let mut decoder = Pictures::new(sets).map_err(invalid)?;

    let length = file.metadata()?.len();
    let mut decoded: Vec<(i64, Vec<u8>)> = Vec::new();
    let mut ticks = 0;
    for sample in table.samples() {
        let number = sample.index();
        let (offset, size) = (sample.data_offset(), sample.data_size() as u64);
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(invalid(format!("frame {number} lies outside of the file")));
        }
        let mut data = vec![0; size as usize];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut data)?;
        let mut unit = Vec::with_capacity(data.len() + 16);
        for nal in parse_length_prefixed_nal_units(&data, prefix).map_err(invalid)? {
            // parameter sets of an `avc1` track are in the index; others could change the size under us
            if !matches!(nal.nal_unit_type, Nal::Sps | Nal::Pps) {
                unit.extend([0, 0, 0, 1]);
                unit.extend(nal.data);
            }
        }
        let picture = decoder.decode(&unit).map_err(|e| invalid(format!("frame {number}: {e}")))?;
        let picture = picture.ok_or_else(|| invalid(format!("frame {number} holds no picture")))?;
        if (picture.width, picture.height) != (coded_w, coded_h) {
            let (w, h) = (picture.width, picture.height);
            return Err(invalid(format!("frame {number} is {w} x {h}, the index says {coded_w} x {coded_h}")));
        }
        ticks += sample.duration() as u64;
        let shown = sample.timestamp() as i64 + sample.composition_time_offset().unwrap_or(0);
        decoded.push((shown, from_420(&picture, corner, (width, height), matrix)));
    }
    if decoded.is_empty() {
        return Err(invalid("no frames"));
    }
    let fps = decoded.len() as f64 * timescale as f64 / ticks.max(1) as f64;
    decoded.sort_by_key(|(shown, _)| *shown);
    let mut rgb = Vec::with_capacity(decoded.len() * width * height * 3);
    for (_, frame) in decoded {
        rgb.extend(frame); // and freed, one by one
    }
    Ok(Frames { width, height, fps, rgb })
}
