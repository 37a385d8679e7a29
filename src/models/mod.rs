//! The networks: config, load, forward. No files beyond a checkpoint, no steps, no policy.

pub mod latte;
pub mod open_sora_plan;
pub mod stdit3;
pub mod t5;
pub mod vae;
