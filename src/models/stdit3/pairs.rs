//! The pairs of blocks: all on the device, or each for as long as it works.

use std::sync::Mutex;

use super::Config;
use super::block::Block;
use crate::cache::Axis;
use crate::error::Result;
use crate::gpu::lock;
use crate::nn::{TextKeys, TextProjection};
use crate::tensor::{Tensor, Weights};

/// Where the weights of the blocks are between steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residence {
    /// On the device.
    #[default]
    Resident,
    /// In the checkpoint's file: a pair is on the device while it works and the next one is read, so that of XL/2's
    /// 2.3 GiB in halves no more than 0.2 are there at a time. What a cache leaves out is not read, but for the pair behind
    /// one that works.
    Streamed,
}

/// A spatial block and the temporal one behind it.
type Pair = [Block; 2];

pub(super) enum Pairs {
    Resident(Vec<Pair>),
    Streamed(Box<Stream>),
}

pub(super) struct Stream {
    weights: Weights,
    config: Config,
    /// Read ahead, and its depth.
    next: Mutex<Option<(usize, Pair)>>,
}

fn places(w: &Weights, depth: usize) -> [(Weights, Axis); 2] {
    [("spatial_blocks", Axis::Spatial), ("temporal_blocks", Axis::Temporal)]
        .map(|(name, axis)| (w.at(name).at(depth), axis))
}

fn load(w: &Weights, config: &Config, depth: usize) -> Result<Pair> {
    let [spatial, temporal] = places(w, depth).map(|(w, axis)| Block::load(&w, config, depth, axis));
    Ok([spatial?, temporal?])
}

impl Pairs {
    /// Whatever the residence, a tensor that is missing or mis-shaped is found now.
    pub fn load(w: &Weights, config: &Config, residence: Residence) -> Result<Self> {
        let all = |w: &Weights| (0..config.depth).map(|depth| load(w, config, depth)).collect::<Result<Vec<_>>>();
        if residence == Residence::Resident {
            return Ok(Self::Resident(all(w)?));
        }
        all(&w.dry())?;
        let stream = Stream { weights: w.clone(), config: config.clone(), next: Mutex::default() };
        Ok(Self::Streamed(Box::new(stream)))
    }

    /// Keys and values of the caption for every block in the order of execution.
    pub fn text_keys(&self, text: &Tensor) -> Result<Vec<TextKeys>> {
        let Stream { weights, config, .. } = match self {
            Self::Resident(pairs) => return Ok(pairs.iter().flatten().map(|block| block.text_keys(text)).collect()),
            Self::Streamed(stream) => &**stream,
        };
        let places = (0..config.depth).flat_map(|depth| places(weights, depth));
        let keys = |(w, _): (Weights, Axis)| {
            let width = config.hidden_size;
            let keys = TextProjection::load(&w.at("cross_attn"), width, config.num_heads)?.keys(text);
            w.gpu().end_step()?;
            Ok(keys)
        };
        places.map(keys).collect()
    }

    /// What `work` makes of x `[B, T·S, C]` with the pair at `depth`. Streamed weights are waited for on a device of our
    /// own, or the next ones would pile up; trouble with them is remembered by the device, and x comes back as it is.
    pub fn with(&self, depth: usize, x: &Tensor, work: impl FnOnce(&Pair) -> Tensor) -> Tensor {
        let Stream { weights, config, next } = match self {
            Self::Resident(pairs) => return work(&pairs[depth]),
            Self::Streamed(stream) => &**stream,
        };
        let gpu = weights.gpu();
        let ahead = lock(next).take().filter(|(of, _)| *of == depth).map(|(_, pair)| Ok(pair));
        let done = ahead.unwrap_or_else(|| load(weights, config, depth)).and_then(|pair| {
            let y = work(&pair);
            gpu.submit()?;
            if depth + 1 < config.depth {
                *lock(next) = Some((depth + 1, load(weights, config, depth + 1)?));
            }
            gpu.end_step()?;
            Ok(y)
        });
        done.unwrap_or_else(|e| {
            gpu.fail(e);
            x.clone()
        })
    }
}
