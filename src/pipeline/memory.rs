//! Whether a run fits the adapter.

use super::open_sora::Conditioned;
use super::{Caption, OpenSora, Plan};
use crate::cache::ResidualCache;
use crate::diffusion::sampler::Denoiser;
use crate::error::{Error, Result};
use crate::models::stdit3::{self, STDiT3};
use crate::models::vae::OpenSoraVae;
use crate::tensor::Weights;

impl OpenSora {
    /// Whether every stage can be recorded on this adapter. What no buffer can hold is refused at once. Where a tensor
    /// is too large to be bound as a whole, it is found out by recording one block of each kind, and the first frames,
    /// on a device that runs nothing.
    pub(super) fn fits(&self, plan: &Plan) -> Result<()> {
        let bytes = |numbers: usize| 4 * numbers as u64;
        let [stream, denoising, decoding] = plan.largest_activations(&self.transformer, &self.vae).map(bytes);
        let refused = |stage: &str, error: Error| match error {
            Error::Limit { need, have, .. } => {
                let size = format!("{} frames of {}x{}", plan.frames, plan.width, plan.height);
                let fewer = if stage == "denoising" { " or fewer frames" } else { "" };
                Error::Limit {
                    what: format!("{stage} {size} on `{}`", self.gpu.info().name),
                    need: format!("a tensor of {need}"),
                    have: format!("{have}; ask for a smaller size{fewer}"),
                }
            }
            other => other,
        };
        for (stage, least) in [("denoising", stream), ("decoding", decoding)] {
            if least > self.gpu.largest_buffer() {
                return Err(refused(stage, self.gpu.over_limit(least)));
            }
        }
        let most = self.gpu.largest_tensor();
        if denoising.max(decoding) <= most {
            return Ok(());
        }
        let gpu = self.gpu.rehearsal();
        let weights = Weights::random(&gpu);
        if denoising > most {
            let config = stdit3::Config { depth: 1, ..self.transformer.clone() };
            let net = STDiT3::from_weights(&weights, config)?;
            let caption = Caption { tokens: vec![0], rows: net.null_caption(1), known: false };
            let [c, t, h, w] = plan.latent;
            let run = Conditioned::new(&net, &caption, plan);
            let z = weights.get("z", [2, c * t * h * w])?.reshape([2, c, t, h, w]);
            // without a cache nothing is read on the way, so this never waits
            pollster::block_on(run.velocity(&z, &[0.0; 2], None, &mut ResidualCache::off()))?;
            gpu.submit().map_err(|e| refused("denoising", e))?;
        }
        if decoding > most {
            let [c, t, h, w] = plan.latent;
            let z = weights.get("z", [1, c * t * h * w])?.reshape([1, c, t, h, w]);
            let vae = OpenSoraVae::from_weights(weights, self.vae.clone())?;
            vae.decode_frames(&z, plan.frames)?.next().transpose().map_err(|e| refused("decoding", e))?;
            if let Some([frames, height, width]) = plan.encoded_together() {
                let x = vec![0.0; 3 * frames * height * width];
                vae.encode_pixels(&x, [frames, height, width], None).map_err(|e| refused("encoding given", e))?;
            }
        }
        Ok(())
    }
}
