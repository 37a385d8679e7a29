//! From a request to frames: a checked plan, then text, sampler and decoder.

mod budget;
mod captions;
mod denoising;
mod given;
pub mod mask_strategy;
mod memory;
mod open_sora;
pub mod parts;
mod plan;
mod record;
mod rehearsal;
mod request;
pub mod sizes;
mod state;
mod text;
mod texture;
mod video;

pub use budget::{Budget, Footprint, Stage};
pub use captions::caption_folder;
pub use denoising::Denoising;
pub use given::{Given, Long, Posterior};
pub use open_sora::{Event, OpenSora, Sampled, Video};
pub use parts::Parts;
pub use plan::Plan;
pub use request::{Defaults, Request};
pub use state::State;
pub use text::Caption;
pub use texture::frame_textures;
pub use video::GivenLatents;
