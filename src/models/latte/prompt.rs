//! Which tokens of a text encoder's output cross-attention sees.

/// Drops padding from prompts as the pipelines do. `embeddings`: `[prompts, len, k]`, `mask`: `[prompts, len]`, 1 for
/// real tokens. A single prompt is cut to its real tokens, several keep their length and are zero at padding.
/// → `[prompts, kept, k]` and the number of tokens kept; cut the negative prompt to the same number.
///
/// Source: `mask_text_embeddings` in src/diffusers/pipelines/latte/pipeline_latte.py of diffusers at tag v0.30.0.
///
/// # Panics
/// If the lists do not fit.
pub fn real_tokens(embeddings: &[f32], mask: &[f32], prompts: usize) -> (Vec<f32>, usize) {
    let len = mask.len() / prompts;
    let k = embeddings.len() / mask.len();
    assert!(len * prompts == mask.len() && k * mask.len() == embeddings.len(), "{prompts} prompts of {len} tokens");
    if prompts == 1 {
        let kept = mask.iter().filter(|&&m| m != 0.0).count();
        return (embeddings[..kept * k].to_vec(), kept);
    }
    (embeddings.chunks_exact(k).zip(mask).flat_map(|(token, &m)| token.iter().map(move |v| v * m)).collect(), len)
}
