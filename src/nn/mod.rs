//! Layers: a struct of weights and one `forward`.

mod conv;
mod linear;


pub use linear::Linear;
