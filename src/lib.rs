//! Text to video with diffusion transformers on any GPU: hand-written WGSL kernels on `wgpu`, no ML framework,
//! with adaptive caching (AdaCache, arXiv 2411.02397).
//!
//! ```no_run
//! use residua::gpu::{Gpu, Prefs};
//! use residua::pipeline::{OpenSora, Request};
//!
//! # fn main() -> residua::Result<()> {
//! pollster::block_on(async {
//!     let gpu = Gpu::open(&Prefs::default()).await?;
//!     let model = OpenSora::open(&gpu, "weights/toybox".as_ref())?;
//!     let request = Request::new("a red circle moving right on a blue background")
//!         .seed(42)
//!         .cache("adacache:preset=fast".parse()?);
//!     let video = model.generate(&request, &mut |event| {
//!         println!("{event:?}");
//!         true // go on
//!     })
//!     .await?;
//!     println!("{} frames", video.frames.count());
//!     Ok(())
//! })
//! # }
//! ```
//!
//! [`pipeline::Request`] also takes frames the video is to contain ([`pipeline::Given`]), clips that go on from one another
//! ([`pipeline::Long`]) and the generator of its noise. For several videos with models loaded once, take the stages one
//! by one: [`encode_texts`](pipeline::OpenSora::encode_texts), [`encode_given_by`](pipeline::OpenSora::encode_given_by),
//! [`sample_video`](pipeline::OpenSora::sample_video), [`decode_by`](pipeline::OpenSora::decode_by).
//!
//! [`denoise`](pipeline::OpenSora::denoise) makes a step at a time; between any two a run can be kept as bytes
//! ([`pipeline::State`]) and taken up again, elsewhere too.
//!
//! # In a host that has a device already
//! [`gpu::Gpu::adopt`] works on the host's device and queue: one of each, no thread, no global, no callback replaced,
//! nothing waited for. Ask for [`gpu::Gpu::wanted_features`] (those the adapter has) and the limits you like; more
//! storage-buffer binding size allows larger videos, and [`gpu::Gpu::matrix_features`] the fastest products.
//! [`pipeline::frame_textures`] hands frames over as textures.
//!
//! # Floors
//! Each module looks only at those below it; a test checks that.
//!
//! | module | its one job |
//! |---|---|
//! | [`pipeline`] | a request to a checked plan, then text, sampler, decoder, frames |
//! | [`models`], [`diffusion`] | the networks; schedules and the sampling loop. They do not know each other |
//! | [`cache`] | the seam at which residuals are reused, and the policies behind it |
//! | [`nn`] | layers: a struct of weights and one `forward` |
//! | [`ops`] | one function per kernel family: check shapes, choose a variant, record a dispatch |
//! | [`tensor`] | shape, type, the handle to device memory; checkpoints |
//! | [`gpu`] | device, limits, buffers, shader linking, pipelines, recording |
//! | [`error`], [`text`], [`media`] | plain data; no GPU |
//!
//! Work is recorded in order and submitted at step boundaries. Memory is dense and row-major; a buffer whose last
//! tensor drops is reused at once, because one queue runs in order. Arithmetic is f32, weights may be f16.

pub mod cache;
pub mod diffusion;
pub mod error;
pub mod gpu;
pub mod media;
pub mod models;
pub mod nn;
pub mod ops;
pub mod pipeline;
pub mod tensor;
pub mod text;

pub use error::{Error, Result};
pub use wgpu;
