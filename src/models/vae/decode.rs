//! Latents to pixels: chunks through the temporal part, then their frames through the spatial one.

use std::collections::VecDeque;

use super::config::Chunk;
use super::{Decoder, OpenSoraVae, stretch};
use crate::error::{Error, Result};
use crate::nn::Tap;
use crate::ops;
use crate::tensor::Tensor;

/// Takes frames as they are made: shape `[3, count, H, W]` and numbers.
pub type Take<'a> = dyn FnMut([usize; 4], &[f32]) -> Result<()> + 'a;

/// Some finished frames of one sample.
pub struct Frames {
    /// Which sample of the batch.
    pub sample: usize,
    /// The first of these frames in the video.
    pub first: usize,
    /// `[3, frames, H, W]`, nominally in [−1, 1], not clamped.
    pub pixels: Tensor,
}

impl OpenSoraVae {
    /// z: `[B, 4, Tz, h, w]` as the sampler returns it → `[B, 3, num_frames, 8h, 8w]`, nominally in [−1, 1].
    ///
    /// # Errors
    /// [`Error::Request`] if the latents are not those of `num_frames` frames; what [`crate::gpu::Gpu::submit`] returns.
    pub fn decode(&self, z: &Tensor, num_frames: usize) -> Result<Tensor> {
        let mut video: Option<Tensor> = None;
        for frames in self.decode_frames(z, num_frames)? {
            let Frames { sample, first, pixels } = frames?;
            let [c, count, h, w] = pixels.sizes();
            let shape = [z.dims()[0], c, num_frames, h, w];
            let video = video.get_or_insert_with(|| self.gpu().empty(shape, pixels.dtype()));
            let (planes, all) = (pixels.reshape([c * count, h * w]), video.reshape([shape[0] * c * num_frames, h * w]));
            for channel in 0..c {
                let at = (sample * c + channel) * num_frames + first;
                ops::copy_rows(&planes, channel * count..(channel + 1) * count, &all, at);
            }
            self.gpu().submit()?;
        }
        video.ok_or_else(|| Error::request("latents", "are those of no frame"))
    }

    /// [`OpenSoraVae::decode`] a few frames at a time, sample by sample and in order, so that a long video never lies in
    /// memory at once. Work is recorded and submitted as the iterator is asked for more; to cancel, stop asking. Where
    /// memory runs out, it goes on with fewer frames at a time; a single one that does not fit is an error. Work of one's
    /// own is to be submitted before more is asked for, or it may be lost with a group that does not fit.
    ///
    /// # Errors
    /// As [`OpenSoraVae::decode`]; trouble on the device comes with the next frames.
    pub fn decode_frames(&self, z: &Tensor, num_frames: usize) -> Result<Decoding<'_>> {
        let decoder = self.decoder()?;
        let z = self.denormalized(z, num_frames)?;
        // a group that fails takes with it what is recorded and not yet handed over
        self.gpu().submit()?;
        let [batch, _, h, w, _] = z.sizes();
        let together = self.frames_together(h * w);
        let mut groups = VecDeque::new();
        for sample in 0..batch {
            for chunk in self.config.chunks(num_frames) {
                groups.extend(Group { sample, chunk, from: 0, count: chunk.frames }.cut(together));
            }
        }
        Ok(Decoding { vae: self, decoder, z, groups, latents: None })
    }

    /// [`OpenSoraVae::decode`] of one video into host memory: `[3, num_frames, 8h, 8w]`, row-major. `seen` hears how
    /// many frames are done and how many there are, before the first and after every group; where it returns false,
    /// decoding stops.
    ///
    /// # Errors
    /// As [`OpenSoraVae::decode`]; [`Error::Cancelled`] if `seen` said so.
    pub async fn decode_pixels(
        &self,
        z: &Tensor,
        num_frames: usize,
        seen: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Vec<f32>> {
        let (mut all, mut first) = (Vec::new(), 0);
        let mut put = |[channels, count, h, w]: [usize; 4], pixels: &[f32]| {
            all.resize(channels * num_frames * h * w, 0.0);
            for (c, plane) in pixels.chunks_exact(count * h * w).enumerate() {
                let at = (c * num_frames + first) * h * w;
                all[at..at + plane.len()].copy_from_slice(plane);
            }
            first += count;
            Ok(())
        };
        self.decode_groups(z, num_frames, seen, &mut put).await?;
        Ok(all)
    }

    /// [`OpenSoraVae::decode_pixels`], handing the frames on as they are made: `take` gets the shape `[3, count, H, W]` of a
    /// group and its numbers, group after group in order.
    ///
    /// # Errors
    /// As there, and those of `take`.
    pub async fn decode_groups(
        &self,
        z: &Tensor,
        num_frames: usize,
        seen: &mut dyn FnMut(usize, usize) -> bool,
        take: &mut Take<'_>,
    ) -> Result<()> {
        if z.dims().first() != Some(&1) {
            return Err(Error::request("latents", format!("are {}, expected one sample", z.shape())));
        }
        let mut go_on = |done| if seen(done, num_frames) { Ok(()) } else { Err(Error::Cancelled) };
        let groups = self.decode_frames(z, num_frames)?;
        go_on(0)?;
        for frames in groups {
            let Frames { first, pixels, .. } = frames?;
            let shape = pixels.sizes();
            take(shape, &pixels.read().await?)?;
            go_on(first + shape[1])?;
        }
        Ok(())
    }

    /// The first stage alone: z as for [`OpenSoraVae::decode`] → scaled spatial latents `[B, 4, num_frames, h, w]`.
    ///
    /// # Errors
    /// As [`OpenSoraVae::decode`].
    pub fn decode_time(&self, z: &Tensor, num_frames: usize) -> Result<Tensor> {
        let decoder = self.decoder()?;
        let z = self.denormalized(z, num_frames)?;
        let [batch, _, h, w, _] = z.sizes();
        let mut parts = Vec::new();
        for sample in 0..batch {
            for chunk in self.config.chunks(num_frames) {
                parts.push(self.chunk_frames(decoder, &z, sample, chunk));
            }
        }
        let all = ops::join(&parts);
        let c = all.as_rows()[1];
        self.gpu().submit()?;
        Ok(ops::permute(&all.reshape([batch, num_frames, h, w, c]), &[0, 4, 1, 2, 3]))
    }

    /// z `[B, 4, Tz, h, w]` as the sampler returns it → `[B, Tz, h, w, 4]` as the decoder wants it.
    fn denormalized(&self, z: &Tensor, num_frames: usize) -> Result<Tensor> {
        let channels = self.config.temporal.embed_dim;
        let latents = self.latent_size(num_frames, 0, 0)[0];
        let fits = matches!(*z.dims(), [b, c, t, h, w] if c == channels && t == latents && b * t * h * w > 0);
        if !fits {
            return Err(Error::request(
                "latents",
                format!(
                    "are {}, expected [samples, {channels}, {latents}, rows, columns] for {num_frames} frames",
                    z.shape()
                ),
            ));
        }
        Ok(ops::affine_channels(&ops::permute(z, &[0, 2, 3, 4, 1]), &self.scales.denormalize, 1))
    }

    /// The spatial latents of one chunk, `[frames, 1, h, w, 4]`: frames that only fill the last latent, which lie in
    /// front, are dropped.
    fn chunk_frames(&self, decoder: &Decoder, z: &Tensor, sample: usize, chunk: Chunk) -> Tensor {
        let z = stretch(z, sample, chunk.latent, chunk.latents);
        let all = decoder.temporal.forward(&z, &mut Tap::Off);
        let [_, made, h, w, c] = all.sizes();
        part(&all.reshape([made, 1, h, w, c]), made - chunk.frames, chunk.frames)
    }
}

/// A video being decoded, a few frames at a time.
pub struct Decoding<'a> {
    vae: &'a OpenSoraVae,
    decoder: &'a Decoder,
    z: Tensor,
    groups: VecDeque<Group>,
    /// Spatial latents of the chunk at hand, `[frames, 1, h, w, 4]`.
    latents: Option<Tensor>,
}

/// Frames that go through the spatial part together.
#[derive(Clone, Copy)]
struct Group {
    sample: usize,
    chunk: Chunk,
    from: usize,
    count: usize,
}

impl Decoding<'_> {
    /// Records the next frames: `[frames, 1, H, W, 3]`.
    fn next_group(&mut self) -> Option<(Group, Tensor)> {
        let group = self.groups.pop_front()?;
        if group.from == 0 || self.latents.is_none() {
            let latents = self.vae.chunk_frames(self.decoder, &self.z, group.sample, group.chunk);
            self.latents = Some(ops::affine_channels(&latents, &self.vae.scales.into_spatial, 1));
        }
        let own = part(self.latents.as_ref()?, group.from, group.count);
        Some((group, self.decoder.spatial.forward(&own, &mut Tap::Off)))
    }
}

impl Iterator for Decoding<'_> {
    type Item = Result<Frames>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (group, pixels) = self.next_group()?;
            let [n, _, h, w, c] = pixels.sizes();
            let pixels = ops::permute(&pixels.reshape([n, h, w, c]), &[3, 0, 1, 2]);
            match self.vae.gpu().submit() {
                Ok(()) => {
                    let Group { sample, chunk, from, .. } = group;
                    return Some(Ok(Frames { sample, first: chunk.frame + from, pixels }));
                }
                Err(Error::OutOfMemory { need, have }) if group.count > 1 => {
                    drop(pixels);
                    log::warn!("{need} were missing to decode {n} frames together ({have}); going on with fewer");
                    self.retry(group);
                }
                Err(e) => {
                    self.groups.clear();
                    return Some(Err(e));
                }
            }
        }
    }
}

impl Decoding<'_> {
    /// Puts frames that could not be decoded together back, as two groups, and cuts those behind them likewise. Nothing of
    /// the failed submission has run: the latents of its chunk are made again.
    fn retry(&mut self, failed: Group) {
        self.latents = None;
        self.vae.gpu().trim();
        let most = failed.count.div_ceil(2);
        let waiting = std::iter::once(failed).chain(std::mem::take(&mut self.groups));
        self.groups = waiting.flat_map(|group| group.cut(most)).collect();
    }
}

impl Group {
    /// Groups of no more than `most` frames.
    fn cut(self, most: usize) -> impl Iterator<Item = Group> {
        let end = self.from + self.count;
        (self.from..end).step_by(most).map(move |from| Group { from, count: most.min(end - from), ..self })
    }
}

/// Some images of x `[images, 1, h, w, C]`.
fn part(x: &Tensor, from: usize, count: usize) -> Tensor {
    let [_, t, h, w, c] = x.sizes();
    ops::window(x, &[-(from as isize), 0, 0, 0, 0], &[count, t, h, w, c])
}
