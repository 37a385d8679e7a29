//! Layers: a struct of weights and one `forward`.

mod attention;
mod conv;
mod linear;
mod mlp;
mod tap;

pub use attention::{CrossAttention, SelfAttention, TextKeys};
pub use conv::{Conv, GroupNorm};
pub use linear::Linear;
pub use mlp::Mlp;
pub use tap::Tap;
