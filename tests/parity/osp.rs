//! Open-Sora-Plan v1.1: the network and the tests of [`super::latte`], configs of its own.

pub use super::latte::open_sora_plan as run;
