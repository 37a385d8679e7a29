//! Pixels to latents: frames through the spatial part, then chunks of them through the temporal one.

use super::{OpenSoraVae, stretch};
use crate::error::{Error, Result};
use crate::nn::Tap;
use crate::ops;
use crate::tensor::Tensor;

/// Standard normal numbers for both stages of encoding.
#[derive(Clone, Copy)]
pub struct Noise<'a> {
    /// `[B·T, 4, h, w]`.
    pub spatial: &'a Tensor,
    /// `[B, 4, Tz, h, w]`.
    pub temporal: &'a Tensor,
}

/// A video as latents, with the stages on the way.
pub struct Encoded {
    /// The latents, normalised as the diffusion model sees them: `[B, 4, Tz, h, w]`.
    pub z: Tensor,
    /// Mean, then log variance of every frame's spatial latents: `[B·T, 8, h, w]`.
    pub moments_2d: Tensor,
    /// The scaled spatial latents: `[B, 4, T, h, w]`.
    pub x_z: Tensor,
    /// Mean, then log variance of the latents before they are normalised: `[B, 8, Tz, h, w]`.
    pub moments_t: Tensor,
}

impl OpenSoraVae {
    /// x: `[B, 3, T, H, W]` in [−1, 1] → latents. Without noise both stages give the means.
    ///
    /// # Errors
    /// [`Error::Request`] if the video or the noise has the wrong shape or is smaller than one latent; what
    /// [`crate::gpu::Gpu::submit`] returns.
    pub fn encode(&self, x: &Tensor, noise: Option<Noise<'_>>) -> Result<Encoded> {
        self.encode_images(x.dims(), noise, |sample, from, count| frames_last(x, sample, from, count))
    }

    /// [`OpenSoraVae::encode`] of one video in host memory, `[3, frames, H, W]`, of which never more than the frames at
    /// hand lie on the device.
    ///
    /// # Errors
    /// As there.
    pub fn encode_pixels(&self, x: &[f32], size: [usize; 3], noise: Option<Noise<'_>>) -> Result<Encoded> {
        let [frames, height, width] = size;
        let (channels, plane) = (self.config.spatial.in_channels, height * width);
        if x.len() != channels * frames * plane {
            let problem = format!("has {} numbers, expected [{channels}, {frames}, {height}, {width}]", x.len());
            return Err(Error::request("video to encode", problem));
        }
        self.encode_images(&[1, channels, frames, height, width], noise, |_, from, count| {
            let mut images = vec![0.0; count * plane * channels];
            for (i, pixel) in images.chunks_exact_mut(channels).enumerate() {
                let at = from * plane + i;
                pixel.iter_mut().enumerate().for_each(|(c, v)| *v = x[c * frames * plane + at]);
            }
            self.gpu().upload(&images, [count, 1, height, width, channels])
        })
    }

    /// Encodes a video `[B, 3, T, H, W]` that comes as images: `images(sample, from, count)` is `[count, 1, H, W, 3]`.
    fn encode_images(
        &self,
        shape: &[usize],
        noise: Option<Noise<'_>>,
        images: impl Fn(usize, usize, usize) -> Tensor,
    ) -> Result<Encoded> {
        let encoder = self.encoder()?;
        let channels = self.config.spatial.in_channels;
        let (batch, frames, [tz, h, w]) = match *shape {
            [b, c, t, height, width] if c == channels => (b, t, self.latent_size(t, height, width)),
            _ => (0, 0, [0; 3]),
        };
        if batch * tz * h * w == 0 {
            let space = self.config.spatial.factor();
            let problem = format!("is {shape:?}, expected [samples, {channels}, frames, ≥ {space}, ≥ {space}]");
            return Err(Error::request("video to encode", problem));
        }
        let (space_c, time_c) = (self.config.spatial.latent_channels, self.config.temporal.embed_dim);
        if let Some(noise) = noise {
            let (spatial, temporal) = ([batch * frames, space_c, h, w], [batch, time_c, tz, h, w]);
            if noise.spatial.dims() != spatial || noise.temporal.dims() != temporal {
                let have = format!("{} and {}", noise.spatial.shape(), noise.temporal.shape());
                return Err(Error::request("noise", format!("is {have}, expected {spatial:?} and {temporal:?}")));
            }
        }

        let mut parts = Vec::new();
        let together = self.frames_together(h * w);
        for sample in 0..batch {
            for from in (0..frames).step_by(together) {
                let group = images(sample, from, together.min(frames - from));
                parts.push(encoder.spatial.forward(&group, &mut Tap::Off));
                self.gpu().submit()?;
            }
        }
        let moments_2d = ops::join(&parts).reshape([batch * frames, h, w, 2 * space_c]);
        let noise_2d = noise.map(|n| ops::permute(n.spatial, &[0, 2, 3, 1]));
        let sampled = sample_of(&moments_2d, noise_2d.as_ref());
        let x_z =
            ops::affine_channels(&sampled, &self.scales.out_of_spatial, 1).reshape([batch, frames, h, w, space_c]);

        let mut parts = Vec::new();
        for sample in 0..batch {
            for chunk in self.config.chunks(frames) {
                // what fills the last latent is zeros in front, and counts in the statistics of the norms
                let full = chunk.latents * self.config.temporal.factor();
                let own = stretch(&x_z, sample, chunk.frame, chunk.frames);
                let padded =
                    ops::window(&own, &[0, (full - chunk.frames) as isize, 0, 0, 0], &[1, full, h, w, space_c]);
                let moments = encoder.temporal.forward(&padded, &mut Tap::Off);
                parts.push(moments.reshape([chunk.latents, h, w, 2 * time_c]));
                self.gpu().submit()?;
            }
        }
        let moments_t = ops::join(&parts).reshape([batch, tz, h, w, 2 * time_c]);
        let noise_t = noise.map(|n| ops::permute(n.temporal, &[0, 2, 3, 4, 1]));
        let z = ops::affine_channels(&sample_of(&moments_t, noise_t.as_ref()), &self.scales.normalize, 1);
        let channels_first = |x: &Tensor| ops::permute(x, &[0, 4, 1, 2, 3]);
        let encoded = Encoded {
            z: channels_first(&z),
            moments_2d: ops::permute(&moments_2d, &[0, 3, 1, 2]),
            x_z: channels_first(&x_z),
            moments_t: channels_first(&moments_t),
        };
        self.gpu().submit()?;
        Ok(encoded)
    }
}

/// Some frames of one sample of pixels `[B, 3, T, H, W]` as images: `[count, 1, H, W, 3]`.
fn frames_last(x: &Tensor, sample: usize, from: usize, count: usize) -> Tensor {
    let [_, c, _, h, w] = x.sizes();
    let own = ops::window(x, &[-(sample as isize), 0, -(from as isize), 0, 0], &[1, c, count, h, w]);
    ops::permute(&own, &[2, 0, 3, 4, 1])
}

/// A sample of the Gaussian with these moments `[.., 2C]`, or its mean where there is no noise: `[.., C]`.
fn sample_of(moments: &Tensor, noise: Option<&Tensor>) -> Tensor {
    match noise {
        Some(noise) => ops::posterior(moments, noise),
        None => {
            let mut to = moments.dims().to_vec();
            let last = to.len() - 1;
            to[last] /= 2;
            ops::window(moments, &vec![0; to.len()], &to)
        }
    }
}
