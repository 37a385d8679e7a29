//! MP4 out: H.264 pictures, the index in front of them, colours named, the recipe inside.

use std::io::Write;
use std::num::NonZeroU32;
use std::path::Path;
use std::slice::from_ref;

use shiguredo_mp4::bitstream::h264::{H264SampleEntryConfig, LengthSize, build_avc1_box};
use shiguredo_mp4::boxes::{Brand, FtypBox, MoovBox, SampleEntry, StcoBox};
use shiguredo_mp4::mux::{Mp4FileMuxer, Sample};
use shiguredo_mp4::{Either, Encode, FixedPointNumber, TrackKind};

use super::boxes;
use super::frames::{Frames, rate};
use super::h264::{self, Coded};
use super::recipe::RECIPE_KEY;
use crate::error::{Error, Result};

/// Ticks per second are at least this many, as other writers do: players that count in milliseconds round less.
const MIN_TIMESCALE: u32 = 10_000;

/// Writes `ftyp`, `moov`, `mdat`: with the index in front, a browser plays before it has the whole file.
pub(super) fn write(
    path: &Path,
    out: &mut impl Write,
    frames: &Frames,
    crf: u8,
    recipe: Option<&serde_json::Value>,
) -> Result<()> {
    let coded = h264::encode(frames, crf)?;
    let failed = |problem: String| Error::Encode { what: path.display().to_string(), problem };
    let mut moov = index(frames, &coded).map_err(failed)?;
    if let Some(recipe) = recipe {
        moov.unknown_boxes.push(boxes::udta(RECIPE_KEY, &recipe.to_string()));
    }
    let brands = [Brand::ISOM, Brand::ISO2, Brand::AVC1, Brand::new(*b"mp42")];
    let ftyp = FtypBox { major_brand: Brand::ISOM, minor_version: 512, compatible_brands: brands.to_vec() };
    let ftyp = ftyp.encode_to_vec().map_err(|e| failed(e.to_string()))?;

    // The offset of the pictures is part of the index that stands before them; its size does not depend on it.
    let measured = moov.encode_to_vec().map_err(|e| failed(e.to_string()))?;
    let pictures: u64 = coded.pictures.iter().map(|p| p.data.len() as u64).sum();
    let end = (ftyp.len() + measured.len() + 8) as u64 + pictures;
    if end > u32::MAX.into() {
        return Err(Error::Limit { what: "an MP4 file".into(), need: format!("{end} bytes"), have: "4 GiB".into() });
    }
    let offset = (end - pictures) as u32;
    moov.trak_boxes[0].mdia_box.minf_box.stbl_box.stco_or_co64_box = Either::A(StcoBox { chunk_offsets: vec![offset] });
    let moov = moov.encode_to_vec().map_err(|e| failed(e.to_string()))?;
    debug_assert_eq!(moov.len(), measured.len());

    let mdat = [&(pictures as u32 + 8).to_be_bytes()[..], b"mdat"].concat();
    [&ftyp, &moov, &mdat]
        .into_iter()
        .chain(coded.pictures.iter().map(|p| &p.data))
        .try_for_each(|part| out.write_all(part))
        .map_err(|e| Error::io(path, e))
}

/// The `moov` of one video track; the offset in it is not the final one.
fn index(frames: &Frames, coded: &Coded) -> std::result::Result<MoovBox, String> {
    let text = |e: shiguredo_mp4::Error| e.to_string();
    let config = H264SampleEntryConfig { length_size: LengthSize::FourBytes };
    let mut entry = build_avc1_box(from_ref(&coded.sps), from_ref(&coded.pps), &config).map_err(text)?;
    entry.unknown_boxes.push(boxes::colr());
    let size = (frames.width, frames.height);
    let padded = size.0 % 2 + size.1 % 2 > 0;
    if padded {
        entry.unknown_boxes.push(boxes::clap(size));
    }

    let (num, den) = rate(frames.fps);
    let ticks = MIN_TIMESCALE.div_ceil(num).next_power_of_two();
    let timescale = NonZeroU32::new(num * ticks).ok_or("a rate of zero")?;
    let mut muxer = Mp4FileMuxer::new().map_err(|e| e.to_string())?;
    let mut data_offset = muxer.initial_boxes_bytes().len() as u64;
    for (i, picture) in coded.pictures.iter().enumerate() {
        let sample = Sample {
            track_kind: TrackKind::Video,
            sample_entry: (i == 0).then(|| SampleEntry::Avc1(entry.clone())),
            keyframe: picture.key,
            timescale,
            duration: den * ticks,
            composition_time_offset: None,
            data_offset,
            data_size: picture.data.len(),
        };
        muxer.append_sample(&sample).map_err(|e| e.to_string())?;
        data_offset += picture.data.len() as u64;
    }
    let mut moov = muxer.finalize().map_err(|e| e.to_string())?.moov_box().clone();
    let track = moov.trak_boxes.first_mut().ok_or("no track")?;
    track.tkhd_box.width = FixedPointNumber::new(size.0 as i16, 0);
    track.tkhd_box.height = FixedPointNumber::new(size.1 as i16, 0);
    Ok(moov)
}
