//! Given frames and the ends of clips as latents, and the noise of clips.
//!
//! Chunks of 17 frames are coded for themselves, so a video of several clips needs only the last chunks of each decoded
//! and encoded again for the next one, and the latents of all, joined, decode to the same frames as clip by clip.
//!
//! The noise of a clip, start latent first and then one draw a step whether a frame needs it or not, comes from the
//! generator as the seed leaves it, the same for every clip. Encoding given frames draws from another at its beginning,
//! encoding the end of a clip from where that clip's draws stop: frames of the spatial part in fours, then chunks.
//!
//! Source: scripts/inference.py, `append_generated` in opensora/utils/inference_utils.py, `RFLOW.sample` and
//! `VideoAutoencoderPipeline.encode` at tag v1.2.0.
//!
//! differs: frames given with ratio 1 are noise, as it is for smaller ratios in the limit; upstream would start from the
//! frames themselves, unnoised.
//! differs: upstream draws the temporal part's noise on the CPU, from a generator that has made its weights before.

use super::{OpenSora, Plan, Posterior};
use crate::diffusion::noise::Generator;
use crate::error::Result;
use crate::models::vae::{Noise, OpenSoraVae};
use crate::tensor::Tensor;

/// Frames whose spatial noise is drawn at once.
const TOGETHER: usize = 4;

/// The given frames of a plan as latents.
#[derive(Clone, Debug, Default)]
pub struct GivenLatents(pub(super) Vec<Latents>);

/// Latents on the host.
#[derive(Clone, Debug)]
pub(super) struct Latents {
    pub frames: usize,
    /// `[channels, frames, h, w]`
    pub numbers: Vec<f32>,
}

impl Latents {
    /// Frames `from..from + count` of every channel; `cell` is h · w.
    pub fn part(&self, from: usize, count: usize, cell: usize) -> Self {
        let planes = self.numbers.chunks_exact(self.frames * cell);
        let numbers = planes.flat_map(|plane| &plane[from * cell..][..count * cell]).copied().collect();
        Self { frames: count, numbers }
    }

    /// Puts frames of `other` over its own.
    pub fn put(&mut self, at: usize, other: &Self, from: usize, count: usize, cell: usize) {
        let planes = self.numbers.chunks_exact_mut(self.frames * cell);
        for (own, given) in planes.zip(other.numbers.chunks_exact(other.frames * cell)) {
            own[at * cell..][..count * cell].copy_from_slice(&given[from * cell..][..count * cell]);
        }
    }

    /// One after the other.
    pub fn join(parts: &[Self], cell: usize) -> Self {
        let frames = parts.iter().map(|p| p.frames).sum();
        let channels = parts.first().map_or(0, |p| p.numbers.len() / (p.frames * cell).max(1));
        let plane = |c: usize| parts.iter().flat_map(move |p| &p.numbers[c * p.frames * cell..][..p.frames * cell]);
        Self { frames, numbers: (0..channels).flat_map(plane).copied().collect() }
    }
}

/// The noise of one clip: its start latent, then a draw of the same size for every step.
#[derive(Clone)]
pub(super) struct ClipNoise {
    generator: Generator,
    count: usize,
    /// Steps drawn or left out so far.
    steps: usize,
}

impl ClipNoise {
    pub fn new(plan: &Plan, count: usize) -> Self {
        Self { generator: Generator::new(plan.rng, plan.seed), count, steps: 0 }
    }

    /// Of the start latent; to be asked for once, and first. One that nobody needs has to be drawn as well.
    pub fn start(&mut self) -> Vec<f32> {
        self.generator.randn(self.count)
    }

    /// Of a step (from 0) not before the last one asked for.
    pub fn of_step(&mut self, step: usize) -> Vec<f32> {
        self.leave_out(step);
        self.steps += 1;
        self.generator.randn(self.count)
    }

    /// The generator behind the last of so many steps.
    pub fn rest(mut self, steps: usize) -> Generator {
        self.leave_out(steps);
        self.generator
    }

    fn leave_out(&mut self, up_to: usize) {
        (self.steps..up_to).for_each(|_| self.generator.skip(self.count));
        self.steps = self.steps.max(up_to);
    }
}

/// Normal numbers for both stages of encoding a clip.
struct CodingNoise {
    /// A frame each.
    spatial: Vec<Vec<f32>>,
    /// A chunk each.
    temporal: Vec<Vec<f32>>,
}

impl CodingNoise {
    fn draw(vae: &OpenSoraVae, frames: usize, cell: usize, from: &mut Generator) -> Self {
        let config = vae.config();
        let frame = config.spatial.latent_channels * cell;
        let mut spatial = Vec::with_capacity(frames);
        for first in (0..frames).step_by(TOGETHER) {
            let drawn = from.randn(TOGETHER.min(frames - first) * frame);
            spatial.extend(drawn.chunks_exact(frame).map(<[f32]>::to_vec));
        }
        let chunk = |first: usize| vae.latent_size(chunk_frames(vae, frames).min(frames - first), 0, 0)[0];
        let temporal = (0..frames).step_by(chunk_frames(vae, frames));
        let temporal = temporal.map(|first| from.randn(config.temporal.embed_dim * chunk(first) * cell)).collect();
        Self { spatial, temporal }
    }

    /// That of the last frames alone, which are whole chunks.
    fn last(mut self, frames: usize, chunks: usize) -> Self {
        self.spatial.drain(..self.spatial.len() - frames);
        self.temporal.drain(..self.temporal.len() - chunks);
        self
    }
}

/// The noise, if the plan wants samples.
fn sampled<'a>(plan: &Plan, noise: &'a CodingNoise) -> Option<&'a CodingNoise> {
    (plan.given.posterior == Posterior::Sample).then_some(noise)
}

/// Frames that are coded together, of a video of so many.
fn chunk_frames(vae: &OpenSoraVae, frames: usize) -> usize {
    vae.config().micro_frame_size.unwrap_or(frames).max(1)
}

/// x `[3, frames, H, W]` to latents, chunk by chunk; without noise the means.
async fn code(
    vae: &OpenSoraVae,
    x: Vec<f32>,
    [frames, height, width]: [usize; 3],
    noise: Option<&CodingNoise>,
) -> Result<Latents> {
    let gpu = vae.gpu();
    let [_, h, w] = vae.latent_size(frames, height, width);
    let (spatial, temporal) = (vae.config().spatial.latent_channels, vae.config().temporal.embed_dim);
    let pixels = Latents { frames, numbers: x };
    let each = chunk_frames(vae, frames);
    let mut parts = Vec::new();
    for (chunk, first) in (0..frames).step_by(each).enumerate() {
        let count = each.min(frames - first);
        let own = pixels.part(first, count, height * width);
        let latents = vae.latent_size(count, 0, 0)[0];
        let noise = noise.map(|noise| {
            let frames = gpu.upload(&noise.spatial[first..first + count].concat(), [count, spatial, h, w]);
            (frames, gpu.upload(&noise.temporal[chunk], [1, temporal, latents, h, w]))
        });
        let noise = noise.as_ref().map(|(spatial, temporal)| Noise { spatial, temporal });
        let z = vae.encode_pixels(&own.numbers, [count, height, width], noise)?.z;
        parts.push(Latents { frames: latents, numbers: z.read().await? });
    }
    Ok(Latents::join(&parts, h * w))
}

impl OpenSora {
    /// The given frames of a plan, scaled to its size and encoded. The encoder's weights are freed again.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] if the encoder does not fit; whatever goes wrong on the device.
    pub async fn encode_given(&self, plan: &Plan) -> Result<GivenLatents> {
        if plan.given.references.is_empty() {
            return Ok(GivenLatents::default());
        }
        let vae = self.open_vae()?;
        let given = self.encode_given_by(&vae, plan).await;
        drop(vae);
        self.gpu().trim();
        given
    }

    /// [`OpenSora::encode_given`] by an autoencoder that stays.
    ///
    /// # Errors
    /// As there.
    pub async fn encode_given_by(&self, vae: &OpenSoraVae, plan: &Plan) -> Result<GivenLatents> {
        let mut noise = Generator::new(plan.rng, plan.seed);
        let [_, _, h, w] = plan.latent;
        let mut all = Vec::new();
        for reference in &plan.given.references {
            let frames = reference.frames().count();
            let x = reference.fitted(plan.height, plan.width);
            let noise = CodingNoise::draw(vae, frames, h * w, &mut noise);
            all.push(code(vae, x, [frames, plan.height, plan.width], sampled(plan, &noise)).await?);
        }
        Ok(GivenLatents(all))
    }

    /// The end of a clip as the next one takes it over: decoded and, as it comes out, encoded again.
    pub(super) async fn taken_over(
        &self,
        vae: &OpenSoraVae,
        plan: &Plan,
        clip: &Latents,
        noise: &mut Generator,
    ) -> Result<Latents> {
        let ([c, t, h, w], [height, width]) = (plan.latent, plan.pixels());
        let (latents, frames) = (plan.long.condition_frames, plan.long.shared());
        let end: Tensor = self.gpu().upload(&clip.part(t - latents, latents, h * w).numbers, [1, c, latents, h, w]);
        let pixels = vae.decode_pixels(&end, frames, &mut |_, _| true).await?;
        let chunks = frames / chunk_frames(vae, frames);
        let noise = CodingNoise::draw(vae, plan.frames, h * w, noise).last(frames, chunks);
        code(vae, pixels, [frames, height, width], sampled(plan, &noise)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_its_own_draw() {
        for name in ["torch-cpu", "philox"] {
            let rng = name.parse().unwrap();
            let mut stream = Generator::new(rng, 3);
            let draws: Vec<Vec<f32>> = (0..7).map(|_| stream.randn(40)).collect();
            let noise = || ClipNoise { generator: Generator::new(rng, 3), count: 40, steps: 0 };
            let mut some = noise();
            assert_eq!([some.start(), some.of_step(0), some.of_step(3)], [0, 1, 4].map(|i| draws[i].clone()), "{name}");
            assert_eq!(some.rest(5).randn(40), draws[6], "five steps, then what encodes the end of the clip");
            let mut none = noise();
            none.start();
            assert_eq!(none.rest(5).randn(40), draws[6]);
        }
    }

    #[test]
    fn parts_of_latents() {
        // two channels of three frames of two cells: channel, frame, cell as digits
        let all = |tag: f32| Latents {
            frames: 3,
            numbers: (0..12).map(|i| tag + (100 * (i / 6) + 10 * (i / 2 % 3) + i % 2) as f32).collect(),
        };
        let x = all(0.0);
        assert_eq!(x.part(1, 2, 2).numbers, [10.0, 11.0, 20.0, 21.0, 110.0, 111.0, 120.0, 121.0]);
        let joined = Latents::join(&[x.part(0, 1, 2), x.part(1, 2, 2)], 2);
        assert_eq!((joined.frames, &joined.numbers), (3, &x.numbers));
        let mut y = all(0.0);
        y.put(0, &all(1000.0), 2, 1, 2);
        assert_eq!(y.part(0, 1, 2).numbers, [1020.0, 1021.0, 1120.0, 1121.0]);
        assert_eq!(y.part(1, 2, 2).numbers, x.part(1, 2, 2).numbers);
    }
}
