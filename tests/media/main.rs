//! Frames to files and back: every format, the recipe in each, refusals, damaged input, and how two videos compare.
//! Checks with ffmpeg say so and pass when it is not installed.

mod clips;
mod damaged;
mod formats;
mod given;
mod mp4;
mod places;
mod quality_measures;
