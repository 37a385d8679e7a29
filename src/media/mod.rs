//! Pixels at rest: frames of bytes, the files they are kept in, and how far two videos are apart.
//!
//! No GPU and no command line here. A decoder's output becomes [`Frames`] by [`Frames::from_pixels`]; [`write()`] puts
//! them into one of the [`Format`]s, whole or not at all; [`read_mp4`] and [`read_recipe`] read back what was written;
//! [`Reference`] is a picture or clip that a video is to contain; [`quality`] compares.
//!
//! ```no_run
//! use residua::media::{self, Format, Frames, WriteOptions};
//! # fn main() -> residua::Result<()> {
//! # let pixels = vec![0.0; 3 * 8 * 64 * 64];
//! let path = std::path::Path::new("clip.mp4");
//! let format = Format::from_path(path)?;
//! media::check_writable(path, format, false)?; // before the long computation
//! let frames = Frames::from_pixels(&pixels, [3, 8, 64, 64], 24.0)?;
//! let written = media::write(path, &frames, format, &WriteOptions::default())?;
//! println!("{} ({} bytes)", written.path.display(), written.bytes);
//! # Ok(())
//! # }
//! ```

mod boxes;
mod color;
mod fit;
mod flip;
mod format;
mod frames;
mod gif;
mod h264;
mod mp4;
mod mp4_read;
mod png;
pub mod quality;
mod raw;
mod recipe;
mod reference;
mod write;

pub use format::Format;
pub use frames::Frames;
pub use mp4_read::read_mp4;
pub use raw::write_to;
pub use recipe::{RECIPE_KEY, read_recipe};
pub use reference::Reference;
pub use write::{WriteOptions, Written, check_writable, write};
