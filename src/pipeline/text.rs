//! Prompts to captions, by an encoder that is loaded for them and freed again.

use super::{OpenSora, Plan};
use crate::error::Result;
use crate::models::t5::T5Encoder;

/// A prompt as the text encoder understood it.
#[derive(Clone)]
pub struct Caption {
    /// Tokens, with the end token.
    pub tokens: Vec<u32>,
    /// `[tokens, caption_channels]`
    pub rows: Vec<f32>,
}

impl OpenSora {
    /// Tokenises and encodes the prompt, of several clips that of the first. The encoder's weights are freed again.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the encoder does not fit; whatever goes wrong on the device.
    pub async fn encode(&self, plan: &Plan) -> Result<Caption> {
        Ok(self.encode_texts(&[&plan.text]).await?.remove(0))
    }

    /// Tokenises and encodes texts, such as [`Plan::texts`] of one or more plans, equal ones once. The encoder's weights
    /// are freed again.
    ///
    /// # Errors
    /// As [`OpenSora::encode`].
    pub async fn encode_texts(&self, texts: &[&str]) -> Result<Vec<Caption>> {
        let most = self.transformer.model_max_length;
        let encoder = T5Encoder::load(&self.gpu, &self.parts.text_encoder)?;
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
            let rows = encoder.forward(&tokens)?.read().await?;
            captions.push(Caption { tokens, rows });
        }
        drop(encoder);
        self.gpu.trim();
        Ok(captions)
    }
}
