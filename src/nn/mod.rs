//! Layers: a struct of weights and one `forward`.

mod attention;
mod conv;
mod embed;
mod linear;
mod mlp;
mod patches;
mod tap;

pub use attention::{CrossAttention, Seen, SelfAttention, TextKeys, TextProjection};
pub use conv::{Conv, GroupNorm};
pub use embed::{SINUSOID, ScalarEmbedder, sinusoid};
pub use linear::Linear;
pub use mlp::Mlp;
pub use patches::Patches;
pub use tap::Tap;
