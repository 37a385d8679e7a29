//! Models that are found by name.

use super::Part;

/// A published model: parts that lie in several repositories.
pub struct Known {
    /// What it is asked for by.
    pub name: &'static str,
    /// Where each part is published: the first is what is pulled, the others do as well.
    pub parts: &'static [(Part, &'static [&'static str])],
}

/// The models known by name. Defaults are those of Open-Sora v1.2's own inference config.
pub const KNOWN: [Known; 1] = [Known {
    name: "open-sora-1.2",
    parts: &[
        (Part::Transformer, &["hpcai-tech/OpenSora-STDiT-v3"]),
        (Part::Vae, &["hpcai-tech/OpenSora-VAE-v1.2"]),
        (Part::TextEncoder, &["DeepFloyd/t5-v1_1-xxl", "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers/text_encoder"]),
        (Part::Tokenizer, &["DeepFloyd/t5-v1_1-xxl", "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers/tokenizer"]),
    ],
}];

/// The model of a name.
pub fn by_name(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|k| k.name == name)
}
