//! Files of AdaCache's settings, made for one model at one number of steps.

use std::path::Path;

use super::adacache::{MoReg, Settings};
use crate::error::{Error, Result};

/// The version that is written and read.
const VERSION: u32 = 1;
/// Of a file that is read at all.
const MOST_BYTES: u64 = 1 << 20;

/// What settings were made for.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeFor {
    /// Name of the model's folder.
    pub model: String,
    /// [`crate::tensor::fingerprint`] of its transformer.
    pub weights: String,
    /// Denoising steps.
    pub steps: usize,
    /// Width, height and frames of the videos it was made on.
    pub size: [usize; 3],
    /// Guidance scale.
    pub guidance: f64,
}

/// The contents of a `.cache.json`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    v: u32,
    policy: String,
    /// The model and the runs.
    pub made_for: MadeFor,
    /// What AdaCache goes by.
    pub settings: Settings,
    /// Motion regularization, where it is switched on.
    pub moreg: MoReg,
    /// How it was found and what it gave, for people.
    pub measured: serde_json::Value,
}

impl Calibration {
    /// A calibration that can be written.
    pub fn new(made_for: MadeFor, settings: Settings, moreg: MoReg, measured: serde_json::Value) -> Self {
        Self { v: VERSION, policy: "adacache".into(), made_for, settings, moreg, measured }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none; [`Error::Checkpoint`] saying what is wrong in it.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = path.metadata().map_err(|e| Error::io(path, e))?.len();
        if bytes > MOST_BYTES {
            let problem =
                format!("is {bytes} bytes long, a calibration has a few hundred; is it another kind of file?");
            return Err(Error::checkpoint(path, problem));
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let read: Self = serde_json::from_str(&text).map_err(|e| {
            Error::checkpoint(path, format!("is no calibration of a cache: {e}; `residua calibrate` writes such files"))
        })?;
        let wrong = |problem: String| Err(Error::checkpoint(path, problem));
        if read.v != VERSION {
            return wrong(format!("is of version {}, this program reads version {VERSION}; calibrate again", read.v));
        }
        if read.policy != "adacache" {
            return wrong(format!("is for the policy `{}`; only `adacache` is calibrated by a file", read.policy));
        }
        for moreg in read.settings.moreg.iter().chain([&read.moreg]) {
            let numbers = [moreg.centre, moreg.divide, moreg.gradient];
            if moreg.strides.is_empty()
                || moreg.strides.contains(&0)
                || numbers.iter().any(|v| !v.is_finite() || *v < 0.0)
            {
                return wrong("has motion constants that are negative, or no stride; calibrate again".into());
            }
        }
        Ok(read)
    }

    /// Whether this run may use it.
    ///
    /// # Errors
    /// [`Error::Request`] if it was made for other weights or another number of steps.
    pub fn check(&self, run: &MadeFor) -> Result<()> {
        let made = &self.made_for;
        if made.weights != run.weights {
            let problem = format!(
                "was calibrated on `{}` with other weights than those of `{}`; calibrate for these, or take preset=released-fast",
                made.model, run.model
            );
            return Err(Error::request("cache file", problem));
        }
        if made.steps != run.steps {
            let problem = format!(
                "was calibrated for {} steps, this run has {}; ask for --steps {0}, or calibrate for {1}",
                made.steps, run.steps
            );
            return Err(Error::request("cache file", problem));
        }
        if (made.size, made.guidance) != (run.size, run.guidance) {
            let [width, height, frames] = made.size;
            log::warn!(
                "the cache was calibrated at {width}x{height}, {frames} frames and guidance {}; elsewhere it may reuse too much or too little",
                made.guidance
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Codebook;
    use super::*;

    fn made_for() -> MadeFor {
        MadeFor { model: "toy".into(), weights: "abc".into(), steps: 30, size: [64, 64, 17], guidance: 4.0 }
    }

    fn read(text: &str) -> Result<Calibration> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Calibration::read(file.path())
    }

    #[test]
    fn what_is_written_is_read() {
        let moreg = MoReg::released(30);
        let settings = Settings { moreg: Some(moreg.clone()), ..Settings::released(Codebook::slow()) };
        let made = Calibration::new(made_for(), settings, moreg, serde_json::json!({"psnr": 30.0}));
        let text = serde_json::to_string_pretty(&made).unwrap();
        assert_eq!(read(&text).unwrap(), made);
        for (from, to, says) in [
            ("\"v\": 1", "\"v\": 2", "version 2"),
            ("\"adacache\"", "\"pab\"", "policy `pab`"),
            ("0.08", "0.5", "must ascend"),
            ("\"mid\"", "\"middle\"", "no calibration"),
            ("\"tail\"", "\"tale\"", "tale"),
            ("0.385", "-0.385", "negative"),
        ] {
            let message = read(&text.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(message.contains(says), "{from}: {message}");
        }
        assert!(read("{").is_err() && read("").is_err());
    }

    #[test]
    fn runs_it_was_not_made_for() {
        let made = Calibration::new(
            made_for(),
            Settings::released(Codebook::fast()),
            MoReg::released(30),
            serde_json::Value::Null,
        );
        made.check(&made_for()).unwrap();
        made.check(&MadeFor { size: [32, 32, 1], ..made_for() }).unwrap();
        let message = made.check(&MadeFor { steps: 20, ..made_for() }).unwrap_err().to_string();
        assert!(message.contains("for 30 steps, this run has 20"), "{message}");
        let message = made.check(&MadeFor { weights: "abd".into(), ..made_for() }).unwrap_err().to_string();
        assert!(message.contains("other weights"), "{message}");
    }
}
