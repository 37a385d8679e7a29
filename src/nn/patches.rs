//! Latents as tokens, and back.

use crate::ops;
use crate::tensor::Tensor;

/// How a latent is cut: axes are time, height, width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patches {
    /// Numbers of a channel in one patch along each axis.
    pub size: [usize; 3],
    /// Patches along each axis.
    pub tokens: [usize; 3],
}

impl Patches {
    /// The latent that whole patches cover.
    fn covered(&self) -> [usize; 3] {
        std::array::from_fn(|a| self.size[a] * self.tokens[a])
    }

    /// `[B, C, T, H, W]` → `[B, tokens, C·patch]`, numbers of a token ordered (channel, t, h, w). What patches cover
    /// beyond the latent reads zero; what they do not cover is left out.
    pub fn split(&self, x: &Tensor) -> Tensor {
        let [batch, channels, ..] = x.sizes::<5>();
        let ([t, h, w], [pt, ph, pw]) = (self.tokens, self.size);
        let [ct, ch, cw] = self.covered();
        let covered = [batch, channels, ct, ch, cw];
        let x = if x.dims() == covered { x.clone() } else { ops::window(x, &[0; 5], &covered) };
        let split = x.reshape([batch, channels, t, pt, h, ph, w, pw]);
        ops::permute(&split, &[0, 2, 4, 6, 1, 3, 5, 7]).reshape([batch, t * h * w, channels * pt * ph * pw])
    }

    /// `[B, tokens, patch·channels]` → `[B, channels, T, H, W]` of a latent that patches cover; numbers of a token
    /// ordered (t, h, w, channel).
    pub fn join(&self, x: &Tensor, [lt, lh, lw]: [usize; 3], channels: usize) -> Tensor {
        let batch = x.dims()[0];
        let ([t, h, w], [pt, ph, pw]) = (self.tokens, self.size);
        let whole = ops::permute(&x.reshape([batch, t, h, w, pt, ph, pw, channels]), &[0, 7, 1, 4, 2, 5, 3, 6]);
        let [ct, ch, cw] = self.covered();
        let whole = whole.reshape([batch, channels, ct, ch, cw]);
        if [ct, ch, cw] == [lt, lh, lw] { whole } else { ops::window(&whole, &[0; 5], &[batch, channels, lt, lh, lw]) }
    }
}
