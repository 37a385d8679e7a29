//! Prompts to captions, by an encoder that is loaded for them and freed again; those that are known need none.

use super::captions::Shelf;
use super::{OpenSora, Plan};
use crate::error::Result;
use crate::models::t5::T5Encoder;

/// A prompt as the text encoder understood it.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    /// Tokens, with the end token.
    pub tokens: Vec<u32>,
    /// `[tokens, caption_channels]`
    pub rows: Vec<f32>,
    /// It was kept from an earlier run, see [`OpenSora::captions_in`].
    pub known: bool,
}

impl OpenSora {
    /// Tokenises and encodes the prompt, of several clips that of the first. The encoder's weights are freed again.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if the encoder does not fit; whatever goes wrong on the device.
    pub async fn encode(&self, plan: &Plan) -> Result<Caption> {
        Ok(self.encode_texts(&[&plan.text]).await?.remove(0))
    }

    /// Tokenises and encodes texts, such as [`Plan::texts`] of one or more plans, equal ones once. The encoder is loaded
    /// if a caption is not known, and its weights are freed again.
    ///
    /// # Errors
    /// As [`OpenSora::encode`].
    pub async fn encode_texts(&self, texts: &[&str]) -> Result<Vec<Caption>> {
        let most = self.transformer.model_max_length;
        let folder = &self.parts.text_encoder;
        let shelf = self.captions.as_ref().and_then(|captions| Shelf::open(captions, &self.gpu, folder));
        let mut encoder = None;
        let mut captions: Vec<Caption> = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            if let Some(same) = texts[..i].iter().position(|earlier| earlier == text) {
                captions.push(captions[same].clone());
                continue;
            }
            let tokens = self.tokenizer.encode(text, most);
            if tokens.len() == most {
                log::warn!("the prompt fills all {most} tokens the model reads; what follows is ignored");
            }
            if let Some(rows) = shelf.as_ref().and_then(|s| s.get(&tokens, self.transformer.caption_channels)) {
                captions.push(Caption { tokens, rows, known: true });
                continue;
            }
            let encoder = match &mut encoder {
                Some(encoder) => encoder,
                none => none.insert(T5Encoder::load(&self.gpu, folder)?),
            };
            let rows = encoder.forward(&tokens)?.read().await?;
            let caption = Caption { tokens, rows, known: false };
            if let Some(shelf) = &shelf {
                shelf.put(&caption);
            }
            captions.push(caption);
        }
        if encoder.take().is_some() {
            self.gpu.trim();
        }
        Ok(captions)
    }
}
