//! From a request to frames: a checked plan, then text, sampler and decoder.

mod given;
pub mod mask_strategy;
mod open_sora;
mod plan;
mod record;
mod request;
pub mod sizes;
mod texture;
mod video;

pub use given::{Given, Long, Posterior};
pub use open_sora::{Caption, Event, OpenSora, Sampled, Video};
pub use plan::Plan;
pub use request::{Defaults, Request};
pub use texture::frame_textures;
pub use video::GivenLatents;
