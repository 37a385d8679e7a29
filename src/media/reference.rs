//! Given frames: pictures and clips that a video is to contain. Files are taken for hostile: what is allocated stays
//! under stated limits.

use std::fs::File;
use std::io::{BufReader, Error as IoError, ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::{AnimationDecoder, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::fit;
use super::frames::{Frames, MAX_SIDE};
use super::mp4_read;
use crate::error::{Error, Result};

/// Larger pictures are refused.
const MAX_PIXELS: u64 = 64 << 20;
/// What a decoder may take beside the picture itself.
const MAX_ALLOC: u64 = 1 << 30;
/// Larger files of pictures are refused.
const MAX_FILE: u64 = 512 << 20;
/// Clips of more frames, or larger ones, are refused.
const MAX_FRAMES: usize = 4096;
const MAX_CLIP: u64 = 1 << 30;

/// A picture or a clip that a video is to contain.
#[derive(Clone, Debug, PartialEq)]
pub enum Reference {
    /// One frame.
    Picture(Frames),
    /// Frames one after the other.
    Clip(Frames),
}

impl Reference {
    /// Reads a picture (PNG, GIF, and with the feature `pictures` JPEG and WebP) or a clip (MP4 with H.264, animated GIF
    /// or PNG, a folder of PNGs in the order of their names). The contents decide what a file is, not its name.
    /// Transparency is dropped and orientation left as it is stored, as Open-Sora's reader does.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file: it cannot be read, is damaged, too large, or something else; [`Error::Limit`] for an
    /// MP4 of more than 1 GiB of frames.
    pub fn read(path: &Path) -> Result<Self> {
        let frames = if path.is_dir() {
            folder(path)?
        } else {
            let failed = |e: IoError| Error::io(path, e);
            let about = path.metadata().map_err(failed)?;
            if !about.is_file() {
                return Err(failed(invalid("is not a file")));
            }
            match kind(path).map_err(failed)? {
                Kind::Mp4 => return Ok(Self::Clip(mp4_read::read_within(path, MAX_CLIP)?)),
                _ if about.len() > MAX_FILE => {
                    let problem = format!("{} bytes are more than the {MAX_FILE} of a picture", about.len());
                    return Err(failed(invalid(problem)));
                }
                Kind::Picture(format) => picture(path, format).map_err(failed)?,
            }
        };
        Ok(if frames.count() == 1 { Self::Picture(frames) } else { Self::Clip(frames) })
    }

    /// Its frames.
    pub fn frames(&self) -> &Frames {
        match self {
            Self::Picture(frames) | Self::Clip(frames) => frames,
        }
    }

    /// The frames as an encoder takes them, scaled to cover (height, width) and cut to it: `[3, T, H, W]` in [−1, 1].
    /// Pictures are scaled bicubically with antialiasing, clips bilinearly without, as Open-Sora does.
    ///
    /// # Panics
    /// If there are no frames, or no pixels in them.
    pub fn fitted(&self, height: usize, width: usize) -> Vec<f32> {
        let frames = self.frames();
        assert!(frames.count() > 0 && height * width > 0, "nothing to scale");
        match self {
            Self::Picture(frames) => fit::picture(frames, [height, width]),
            Self::Clip(frames) => fit::clip(frames, [height, width]),
        }
    }
}

enum Kind {
    Mp4,
    Picture(ImageFormat),
}

fn invalid(problem: impl std::fmt::Display) -> IoError {
    IoError::new(ErrorKind::InvalidData, problem.to_string())
}

/// What a file is, by its first bytes.
fn kind(path: &Path) -> std::io::Result<Kind> {
    let mut magic = Vec::new();
    File::open(path)?.take(12).read_to_end(&mut magic)?;
    let readable = "PNG, JPEG, WebP, GIF, MP4 with H.264, or a folder of PNGs";
    match magic.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => Ok(Kind::Picture(ImageFormat::Png)),
        [b'G', b'I', b'F', b'8', ..] => Ok(Kind::Picture(ImageFormat::Gif)),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Ok(Kind::Mp4),
        [0xff, 0xd8, 0xff, ..] if cfg!(feature = "pictures") => Ok(Kind::Picture(ImageFormat::Jpeg)),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] if cfg!(feature = "pictures") => {
            Ok(Kind::Picture(ImageFormat::WebP))
        }
        [0xff, 0xd8, 0xff, ..] | [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
            Err(invalid("JPEG and WebP are read only where the feature `pictures` was built in"))
        }
        [] => Err(invalid(format!("is empty; given frames are {readable}"))),
        _ => Err(invalid(format!("is no picture or clip that can be read; given frames are {readable}"))),
    }
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    limits.max_alloc = Some(MAX_ALLOC);
    limits
}

/// A picture, or all frames of an animation.
fn picture(path: &Path, format: ImageFormat) -> std::io::Result<Frames> {
    let failed = |e: ImageError| match e {
        ImageError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => invalid("ends in the middle"),
        ImageError::IoError(e) => e,
        other => invalid(other),
    };
    let mut file = File::open(path)?;
    // the header alone, before anything is allocated for it
    let mut reader = ImageReader::with_format(BufReader::new(&file), format);
    let mut any_size = Limits::default();
    any_size.max_alloc = Some(MAX_ALLOC);
    reader.limits(any_size);
    let (width, height) = reader.into_dimensions().map_err(failed)?;
    size(width, height)?;
    file.rewind()?;
    let input = BufReader::new(&file);
    match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(input).map_err(failed)?;
            decoder.set_limits(limits()).map_err(failed)?;
            animation(decoder.into_frames(), failed)
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(input, limits()).map_err(failed)?;
            if decoder.is_apng().map_err(failed)? {
                return animation(decoder.apng().map_err(failed)?.into_frames(), failed);
            }
            let image = image::DynamicImage::from_decoder(decoder).map_err(failed)?;
            Ok(still(image))
        }
        _ => {
            let mut reader = ImageReader::with_format(input, format);
            reader.limits(limits());
            Ok(still(reader.decode().map_err(failed)?))
        }
    }
}

fn size(width: u32, height: u32) -> std::io::Result<()> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(invalid(format!("a picture of {width} x {height} pixels")));
    }
    if width.max(height) as usize > MAX_SIDE || pixels > MAX_PIXELS {
        let most = MAX_PIXELS >> 20;
        return Err(invalid(format!(
            "a picture of {width} x {height} pixels is too large; at most {MAX_SIDE} on a side and {most} million in all are read"
        )));
    }
    Ok(())
}

fn still(image: image::DynamicImage) -> Frames {
    let (width, height) = (image.width() as usize, image.height() as usize);
    Frames { width, height, fps: 1.0, rgb: image.into_rgb8().into_raw() }
}

fn animation(frames: image::Frames<'_>, failed: impl Fn(ImageError) -> IoError) -> std::io::Result<Frames> {
    let mut all: Option<Frames> = None;
    let (mut count, mut milliseconds) = (0, 0.0);
    for frame in frames {
        let frame = frame.map_err(&failed)?;
        let (num, den) = frame.delay().numer_denom_ms();
        milliseconds += f64::from(num) / f64::from(den.max(1));
        let image = frame.into_buffer();
        let (width, height) = (image.width() as usize, image.height() as usize);
        let all = all.get_or_insert_with(|| Frames { width, height, fps: 1.0, rgb: Vec::new() });
        count += 1;
        within(count, all.rgb.len() + 3 * width * height)?;
        all.rgb.extend(image.pixels().flat_map(|p| [p[0], p[1], p[2]]));
    }
    let mut all = all.ok_or_else(|| invalid("holds no frame"))?;
    if milliseconds > 0.0 {
        all.fps = 1000.0 * count as f64 / milliseconds;
    }
    Ok(all)
}

fn within(frames: usize, bytes: usize) -> std::io::Result<()> {
    if frames > MAX_FRAMES || bytes as u64 > MAX_CLIP {
        return Err(invalid(format!(
            "is too long a clip; at most {MAX_FRAMES} frames and {} MiB are read",
            MAX_CLIP >> 20
        )));
    }
    Ok(())
}

/// The PNGs of a folder, in the order of their names.
fn folder(path: &Path) -> Result<Frames> {
    let failed = |e: IoError| Error::io(path, e);
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) {
            files.push(file);
            within(files.len(), 0).map_err(failed)?;
        }
    }
    files.sort();
    let mut all: Option<Frames> = None;
    for file in files {
        let failed = |e: IoError| Error::io(&file, e);
        let Kind::Picture(ImageFormat::Png) = kind(&file).map_err(failed)? else {
            return Err(failed(invalid("is no PNG")));
        };
        let frame = picture(&file, ImageFormat::Png).map_err(failed)?;
        if frame.count() != 1 {
            return Err(failed(invalid("is an animation, not one frame of a clip")));
        }
        match &mut all {
            None => all = Some(frame),
            Some(all) if (all.width, all.height) == (frame.width, frame.height) => {
                within(1, all.rgb.len() + frame.rgb.len()).map_err(failed)?;
                all.rgb.extend(frame.rgb);
            }
            Some(all) => {
                let (w, h) = (all.width, all.height);
                let problem = format!("is {} x {}, the first frame is {w} x {h}", frame.width, frame.height);
                return Err(failed(invalid(problem)));
            }
        }
    }
    all.ok_or_else(|| failed(invalid("is a folder without PNGs; given frames are a file or such a folder")))
}
