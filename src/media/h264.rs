//! H.264, by way of `rusty_h264`: frames to coded pictures and back. Nothing else here names that crate.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusty_h264::{Decoder, Encoder, EncoderConfig, Preset, YuvFrame};
use shiguredo_mp4::bitstream::h264::{H264NalUnitType as Nal, parse_annexb_nal_units};

use super::color::{Matrix, Planes, to_420};
use super::frames::{Frames, rate};
use crate::error::{Error, Result};

/// Reference pictures the encoder keeps.
const REFERENCES: u32 = 3;

/// A coded video: parameter sets and pictures, each NAL unit without start code.
pub(super) struct Coded {
    pub sps: Vec<u8>,
    pub pps: Vec<u8>,
    /// One per frame, in display order (there are no B pictures).
    pub pictures: Vec<Picture>,
}

/// One coded picture.
pub(super) struct Picture {
    /// NAL units, each after its length in four bytes, most significant first.
    pub data: Vec<u8>,
    /// Whether decoding can start here.
    pub key: bool,
}

/// Encodes all frames at a constant quality: `crf` is the quantiser (0 to 51, lower is better) that the encoder then
/// shifts per block by what the eye and later frames make of it.
pub(super) fn encode(frames: &Frames, crf: u8) -> Result<Coded> {
    let failed = |problem: String| Error::Encode { what: "mp4".into(), problem };
    let (width, height) = (frames.width.next_multiple_of(2), frames.height.next_multiple_of(2));
    let mut config = EncoderConfig::new(width, height);
    config.qp = crf.min(51);
    config.preset = Preset::Balanced;
    config.weightp = false; // on smooth motion its weights double the bytes and cost single frames 13 dB
    config.num_ref_frames = REFERENCES;
    config.framerate = frames.fps as f32;
    config.level_idc = level(width, height, frames.fps);
    let mut encoder = Encoder::new(config).map_err(|e| failed(e.to_string()))?;
    let mut stream = Vec::new();
    for rgb in frames.iter() {
        let p = to_420(rgb, frames.width, frames.height, Matrix::BT709);
        let picture = YuvFrame { width, height, y: p.y, u: p.cb, v: p.cr };
        stream.extend(encoder.try_encode(&picture).map_err(|e| failed(e.to_string()))?);
    }
    // the encoder looks ahead: the last pictures are still inside
    stream.extend(encoder.try_flush().map_err(|e| failed(e.to_string()))?);

    let mut coded = Coded { sps: Vec::new(), pps: Vec::new(), pictures: Vec::new() };
    for unit in parse_annexb_nal_units(&stream).map_err(|e| failed(e.to_string()))? {
        match unit.nal_unit_type {
            Nal::Sps => coded.sps = unit.data.to_vec(),
            Nal::Pps => coded.pps = unit.data.to_vec(),
            Nal::IdrSlice | Nal::NonIdrSlice => {
                // first_mb_in_slice is 0, one bit set: a new picture
                if unit.data.get(1).is_some_and(|b| b & 0x80 != 0) {
                    coded.pictures.push(Picture { data: Vec::new(), key: unit.nal_unit_type == Nal::IdrSlice });
                }
                let picture = coded.pictures.last_mut().ok_or_else(|| failed("a slice before its picture".into()))?;
                picture.data.extend((unit.data.len() as u32).to_be_bytes());
                picture.data.extend(unit.data);
            }
            _ => {}
        }
    }
    if coded.pictures.len() != frames.count() {
        return Err(failed(format!("{} frames became {} pictures", frames.count(), coded.pictures.len())));
    }
    coded.sps = with_vui(&coded.sps, rate(frames.fps)).ok_or_else(|| failed("a sequence header out of form".into()))?;
    Ok(coded)
}

/// The level whose macroblock rate admits the video; the encoder raises it where frame size or references need more.
///
/// Source: ITU-T H.264 table A-1.
fn level(width: usize, height: usize, fps: f64) -> u8 {
    const LEVELS: [(u8, f64); 8] = [
        (30, 40_500.0),
        (31, 108_000.0),
        (32, 216_000.0),
        (40, 245_760.0),
        (42, 522_240.0),
        (50, 589_824.0),
        (51, 983_040.0),
        (52, 2_073_600.0),
    ];
    let rate = (width.div_ceil(16) * height.div_ceil(16)) as f64 * fps;
    LEVELS.iter().find(|(_, most)| rate <= *most).map_or(52, |(level, _)| *level)
}

/// The sequence parameter set with usability information added: the encoder writes none, and a player that is told
/// nothing takes small pictures for BT.601 and holds frames back for a reordering that never comes.
///
/// `None` if the set does not end in the unset flag this replaces. Source: ITU-T H.264 7.3.2.1.1 and E.1.1.
fn with_vui(sps: &[u8], (num, den): (u32, u32)) -> Option<Vec<u8>> {
    let (header, escaped) = sps.split_first()?;
    let mut payload: Vec<u8> = Vec::new();
    for &b in escaped {
        if !(b == 3 && payload.ends_with(&[0, 0])) {
            payload.push(b);
        }
    }
    // The encoder claims Main's constraints (set1) for every profile; with the 8x8 transform that is not so.
    if *payload.first()? == 100 {
        *payload.get_mut(1)? = 0;
    }
    let mut bits = Bits(payload.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1 == 1)).collect());
    let stop = bits.0.iter().rposition(|b| *b)?;
    bits.0.truncate(stop);
    if bits.0.pop()? {
        return None; // vui_parameters_present_flag is set already
    }
    bits.put(1, 1); // vui_parameters_present_flag
    bits.put(1, 1).put(1, 8); // aspect_ratio_idc: square pixels
    bits.put(0, 1); // overscan_info_present_flag
    bits.put(1, 1).put(5, 3).put(0, 1); // video_signal_type: unspecified medium, limited range
    bits.put(1, 1).put(1, 8).put(1, 8).put(1, 8); // primaries, transfer, matrix: BT.709
    bits.put(1, 1).golomb(0).golomb(0); // chroma sample location: left
    bits.put(1, 1).put(den, 32).put(2 * num, 32).put(1, 1); // field duration, fixed
    bits.put(0, 3); // no HRD parameters, no picture structure
    bits.put(1, 1).put(1, 1); // bitstream_restriction_flag, motion_vectors_over_pic_boundaries_flag
    bits.golomb(0).golomb(0).golomb(15).golomb(15); // sizes without limit, motion vectors up to 2^15 quarter pixels
    bits.golomb(0).golomb(REFERENCES); // max_num_reorder_frames, max_dec_frame_buffering
    bits.put(1, 1); // rbsp_stop_one_bit

    let mut out = vec![*header];
    for chunk in bits.0.chunks(8) {
        let b = chunk.iter().enumerate().fold(0, |b, (i, bit)| b | (*bit as u8) << (7 - i));
        if b <= 3 && out.len() > 2 && out.ends_with(&[0, 0]) {
            out.push(3);
        }
        out.push(b);
    }
    Some(out)
}

/// Bits of a header in writing order; headers are a dozen bytes, so one `bool` each will do.
struct Bits(Vec<bool>);

impl Bits {
    fn put(&mut self, value: u32, count: u32) -> &mut Self {
        self.0.extend((0..count).rev().map(|i| value >> i & 1 == 1));
        self
    }

    /// ue(v).
    fn golomb(&mut self, value: u32) -> &mut Self {
        let length = (value + 1).ilog2();
        self.put(0, length).put(value + 1, length + 1)
    }
}

/// Decodes one picture after the other.
pub(super) struct Pictures(Decoder);

impl Pictures {
    /// A decoder that knows these parameter sets (NAL units without start code).
    pub fn new<'a>(sets: impl Iterator<Item = &'a Vec<u8>>) -> std::result::Result<Self, String> {
        let mut decoder = Self(Decoder::new());
        let stream: Vec<u8> = sets.flat_map(|set| [0, 0, 0, 1].into_iter().chain(set.iter().copied())).collect();
        decoder.feed(&stream)?;
        Ok(decoder)
    }

    /// The picture of one access unit (NAL units with start codes), if it holds one.
    pub fn decode(&mut self, unit: &[u8]) -> std::result::Result<Option<Planes>, String> {
        let Some(f) = self.feed(unit)? else { return Ok(None) };
        if !f.is_valid() || f.width < 2 || f.height < 2 {
            return Err(format!("a picture of {} x {} pixels", f.width, f.height));
        }
        Ok(Some(Planes { width: f.width, height: f.height, y: f.y, cb: f.u, cr: f.v }))
    }

    /// The decoder promises errors instead of panics on damaged streams, but it is young: one slip there must not take
    /// down the program that asked. After a panic the caller drops the decoder.
    fn feed(&mut self, stream: &[u8]) -> std::result::Result<Option<YuvFrame>, String> {
        match catch_unwind(AssertUnwindSafe(|| self.0.decode(stream))) {
            Ok(decoded) => decoded.map_err(|e| e.to_string()),
            Err(_) => Err("the decoder gave up on a damaged stream".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vui_takes_the_place_of_the_flag() {
        // profile 100, no constraints, level 30; then "vui flag unset, stop bit" at the end of the last byte
        let told = with_vui(&[0x67, 100, 0x40, 30, 0b1010_1001], (24, 1)).unwrap();
        assert_eq!(told[..4], [0x67, 100, 0, 30]);
        assert_eq!(
            told[4..6],
            [0b1010_1011, 1],
            "what came before is kept, then the flag and square pixels: {told:x?}"
        );
        assert!(with_vui(&[0x67, 100, 0x40, 30, 0b1010_1011], (24, 1)).is_none(), "a set that has one is refused");
        assert!(
            !told[1..].windows(3).any(|w| w[0] == 0 && w[1] == 0 && w[2] < 3),
            "start codes are escaped: {told:x?}"
        );
    }

    #[test]
    fn golomb_codes() {
        let code = |v| Bits(Vec::new()).golomb(v).0.iter().map(|b| if *b { '1' } else { '0' }).collect::<String>();
        assert_eq!([code(0), code(1), code(3), code(15)], ["1", "010", "00100", "000010000"]);
    }
}
