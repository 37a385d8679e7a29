//! How much memory a run may take on the adapter, and what it will take.

use std::fmt;
use std::str::FromStr;

use crate::gpu::Gpu;
use crate::models::stdit3::Residence;

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;
/// Of the adapter's memory, what drivers and other programs are left.
const LEFT: u64 = 10;

/// How much memory a run may take on the adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Budget {
    /// What the adapter has, less a tenth, where its driver tells; as much as it takes where it does not.
    #[default]
    Auto,
    /// As little as possible: weights are streamed, and buffers given back as soon as they are free.
    Low,
    /// So many GiB.
    Gib(f64),
    /// What the adapter has, less so many GiB.
    AllBut(f64),
}

impl FromStr for Budget {
    type Err = String;

    /// `auto`, `low`, or GiB such as `7.5`, `8GiB`; negative, that many less than the adapter has.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "low" => return Ok(Self::Low),
            _ => {}
        }
        let number = text.strip_suffix("GiB").unwrap_or(text).trim_end();
        match number.parse::<f64>() {
            Ok(gib) if gib.is_finite() && gib > 0.0 && gib < 1e6 => Ok(Self::Gib(gib)),
            Ok(gib) if gib.is_finite() && gib < 0.0 && gib > -1e6 => Ok(Self::AllBut(-gib)),
            _ => Err(format!("`{text}` is neither auto, low nor a number of GiB")),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Low => f.write_str("low"),
            Self::Gib(gib) => write!(f, "{gib}"),
            Self::AllBut(gib) => write!(f, "-{gib}"),
        }
    }
}

impl Budget {
    /// The most bytes a run may take; `None`: nobody says. For [`Budget::Low`], what there is.
    pub(super) fn bytes(self, gpu: &Gpu) -> Option<u64> {
        let all = gpu.memory_size();
        match self {
            Self::Auto | Self::Low => all.map(|all| all - all / LEFT),
            Self::Gib(gib) => Some((gib * GIB) as u64),
            Self::AllBut(gib) => all.map(|all| all.saturating_sub((gib * GIB) as u64)),
        }
    }
}

/// What one stage of a run takes.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Stage {
    /// `text`, `given`, `denoise`, `join` (the end of a clip for the next one), or `decode`.
    pub name: &'static str,
    /// Bytes of all buffers at the most, those that wait to be used again among them.
    pub peak_bytes: u64,
    /// Bytes of tensors at the most: no budget below it is enough.
    pub tensor_bytes: u64,
    /// Multiplications and additions in products; of denoising, without a cache.
    pub flops: f64,
}

/// What a run takes on the adapter, rehearsed before anything is loaded. The driver's own memory (code of kernels,
/// staging of transfers) comes on top.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Footprint {
    /// In the order they run.
    pub stages: Vec<Stage>,
    /// Where the weights of the denoiser's blocks are between steps.
    pub residence: Residence,
    /// What [`Gpu::set_budget`] is to be told: `None` if the run fits without.
    pub budget: Option<u64>,
    /// Bytes of all weights that a run needs again if another video follows.
    pub weights: u64,
    /// What there is, if somebody says.
    pub available: Option<u64>,
}

impl Footprint {
    /// Bytes of the largest stage.
    pub fn peak_bytes(&self) -> u64 {
        self.stages.iter().map(|s| s.peak_bytes).max().unwrap_or(0)
    }

    /// Bytes below which no budget is enough.
    pub fn least_bytes(&self) -> u64 {
        self.stages.iter().map(|s| s.tensor_bytes).max().unwrap_or(0)
    }

    /// Whether networks may stay on the device from one video to the next.
    pub fn may_keep(&self) -> bool {
        let room = self.available.is_none_or(|have| self.peak_bytes() + self.weights <= have);
        self.residence == Residence::Resident && self.budget.is_none() && room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (text, budget) in [
            ("auto", Budget::Auto),
            ("low", Budget::Low),
            ("8", Budget::Gib(8.0)),
            ("7.5GiB", Budget::Gib(7.5)),
            ("6 GiB", Budget::Gib(6.0)),
            ("-2", Budget::AllBut(2.0)),
        ] {
            assert_eq!(text.parse::<Budget>().unwrap(), budget);
            assert_eq!(budget.to_string().parse::<Budget>().unwrap(), budget);
        }
        for text in ["", "0", "much", "nan", "inf", "1e9", "8GB"] {
            let error = text.parse::<Budget>().unwrap_err();
            assert!(error.contains("auto, low"), "{text}: {error}");
        }
    }
}
