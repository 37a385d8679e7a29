//! Noise: which numbers a seed means.
//!
//! A seed names a video only together with a generator. [`Rng`] chooses one, [`Generator`] is one at work: the start
//! latent, the noise of frames that become active late and the samples of an encoder all come from it.

mod philox;
mod torch_cpu;

use std::fmt;
use std::str::FromStr;

pub use philox::{Grid, TorchCudaRng, philox4x32_10};
pub use torch_cpu::{TorchCpuRng, torch_cpu_randn};

use crate::error::{Error, Result};

/// Which generator draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rng {
    /// torch's on a CPU, bit for bit: [`TorchCpuRng`].
    #[default]
    TorchCpu,
    /// torch's on CUDA, launched on this grid: [`TorchCudaRng`].
    Philox(Grid),
}

impl fmt::Display for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rng::TorchCpu => f.write_str("torch-cpu"),
            Rng::Philox(Grid::Unbounded) => f.write_str("philox"),
            Rng::Philox(Grid::Gpu { processors, threads }) => write!(f, "torch-cuda:{processors}x{threads}"),
        }
    }
}

impl FromStr for Rng {
    type Err = Error;

    /// `torch-cpu` (or `cpu`), `philox` (or `cuda`), `torch-cuda:SMSxTHREADS`.
    fn from_str(text: &str) -> Result<Self> {
        let known = "torch-cpu, philox and torch-cuda:SMSxTHREADS, such as torch-cuda:132x2048 for an H100";
        match text {
            "torch-cpu" | "cpu" => return Ok(Rng::TorchCpu),
            "philox" | "cuda" => return Ok(Rng::Philox(Grid::Unbounded)),
            _ => {}
        }
        let unknown = || Error::request("rng", format!("`{text}` is not known; there are {known}"));
        let (processors, threads) =
            text.strip_prefix("torch-cuda:").and_then(|sizes| sizes.split_once('x')).ok_or_else(unknown)?;
        let number = |word: &str| word.parse::<u32>().map_err(|_| unknown());
        Ok(Rng::Philox(Grid::gpu(number(processors)?, number(threads)?)?))
    }
}

/// A seeded generator at work. Successive draws continue its stream as successive `torch.randn` do.
#[derive(Clone, Debug)]
pub enum Generator {
    /// See [`Rng::TorchCpu`].
    TorchCpu(Box<TorchCpuRng>),
    /// See [`Rng::Philox`].
    Philox(TorchCudaRng),
}

impl Generator {
    /// The generator as `torch.manual_seed(seed)` leaves it.
    pub fn new(rng: Rng, seed: u64) -> Self {
        match rng {
            Rng::TorchCpu => Self::TorchCpu(Box::new(TorchCpuRng::new(seed))),
            Rng::Philox(grid) => Self::Philox(TorchCudaRng::new(seed, grid)),
        }
    }

    /// The next `torch.randn(n)`: normal numbers, in row-major order where they are those of a tensor.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        match self {
            Self::TorchCpu(rng) => rng.randn(n),
            Self::Philox(rng) => rng.randn(n),
        }
    }

    /// Leaves the next `torch.randn(n)` out.
    pub fn skip(&mut self, n: usize) {
        match self {
            Self::TorchCpu(rng) => drop(rng.randn(n)),
            Self::Philox(rng) => rng.skip(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["torch-cpu", "philox", "torch-cuda:132x2048"] {
            assert_eq!(name.parse::<Rng>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse::<Rng>().unwrap(), "philox".parse().unwrap());
        assert_eq!("cpu".parse::<Rng>().unwrap(), Rng::default());
        for bad in ["", "mt", "torch-cuda", "torch-cuda:", "torch-cuda:108", "torch-cuda:0x2048", "torch-cuda:1x255"] {
            assert!(matches!(bad.parse::<Rng>(), Err(Error::Request { .. })), "{bad}");
        }
        for bad in ["torch-cuda:-1x2048", "torch-cuda:99999999999x1", "torch-cuda:108x2048x2", "torch-cuda:108x9000"] {
            assert!(bad.parse::<Rng>().is_err(), "{bad}");
        }
    }

    #[test]
    fn leaving_out_is_drawing_unseen() {
        for name in ["torch-cpu", "philox", "torch-cuda:1x512"] {
            let mut drawn = Generator::new(name.parse().unwrap(), 9);
            let mut left = drawn.clone();
            for n in [3, 5000, 17] {
                drawn.randn(n);
                left.skip(n);
            }
            assert_eq!(drawn.randn(100), left.randn(100), "{name}");
        }
    }
}
