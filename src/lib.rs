//! Residua: text to video with diffusion transformers on any GPU.
#![cfg_attr(docsrs, feature(doc_cfg))]

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
