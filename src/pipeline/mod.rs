//! (being written)

pub mod mask_strategy;
pub mod sizes;
