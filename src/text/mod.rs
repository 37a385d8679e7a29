//! Prompts on their way to a text encoder: grammar, cleaning, tokens. No GPU, no network.

pub mod clean;
mod html;
pub mod prompt;
mod repair;
pub mod tokenizer;

pub use clean::clean_caption;
pub use tokenizer::Tokenizer;
