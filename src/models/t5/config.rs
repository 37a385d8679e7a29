//! Sizes of a T5 v1.1 encoder.

use std::path::Path;

use crate::error::{Error, Result};

/// The fields of `config.json` that decide the encoder.
/// Source: `T5Config` of transformers 4.39.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub struct Config {
    /// Channels of a token.
    pub d_model: usize,
    /// Channels of a head; `num_heads · d_kv` need not be `d_model`.
    pub d_kv: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of the feed-forward.
    pub d_ff: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Distances between tokens share so many biases.
    #[serde(default = "buckets")]
    pub relative_attention_num_buckets: usize,
    /// From this distance on all share the last one.
    #[serde(default = "max_distance")]
    pub relative_attention_max_distance: usize,
    /// Added to every mean square.
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f32,
    /// The feed-forward; `gated-gelu` is what T5 v1.1 has.
    #[serde(default = "relu")]
    pub feed_forward_proj: String,
    /// The architecture.
    #[serde(default = "t5")]
    pub model_type: String,
}

fn buckets() -> usize {
    32
}
fn max_distance() -> usize {
    128
}
fn epsilon() -> f32 {
    1e-6
}
fn relu() -> String {
    "relu".into()
}
fn t5() -> String {
    "t5".into()
}

impl Config {
    /// T5 v1.1 XXL, the text encoder of Open-Sora, Latte and Open-Sora-Plan.
    pub fn xxl() -> Self {
        Self {
            d_model: 4096,
            d_kv: 64,
            num_heads: 64,
            d_ff: 10240,
            num_layers: 24,
            vocab_size: 32128,
            relative_attention_num_buckets: buckets(),
            relative_attention_max_distance: max_distance(),
            layer_norm_epsilon: epsilon(),
            feed_forward_proj: "gated-gelu".into(),
            model_type: t5(),
        }
    }

    /// Reads and checks `config.json` of a model folder.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Checkpoint`] naming the field that is wrong.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let config: Self =
            serde_json::from_str(&text).map_err(|e| Error::checkpoint(&path, format!("is no T5 config: {e}")))?;
        config.check().map_err(|problem| Error::checkpoint(&path, problem))?;
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let within = |name: &str, value: usize, least: usize, most: usize| match value {
            v if (least..=most).contains(&v) => Ok(()),
            v => Err(format!("{name} is {v}, expected {least} to {most}")),
        };
        if self.model_type != "t5" {
            return Err(format!("model_type is `{}`; supported is `t5` (v1.1)", self.model_type));
        }
        if self.feed_forward_proj != "gated-gelu" {
            let kind = &self.feed_forward_proj;
            return Err(format!("feed_forward_proj is `{kind}`; supported is `gated-gelu`, as T5 v1.1 has it"));
        }
        within("d_model", self.d_model, 1, 1 << 16)?;
        within("d_kv", self.d_kv, 1, 1 << 10)?;
        within("num_heads", self.num_heads, 1, 1 << 10)?;
        within("d_ff", self.d_ff, 1, 1 << 18)?;
        within("num_layers", self.num_layers, 1, 1 << 10)?;
        within("vocab_size", self.vocab_size, 1, 1 << 24)?;
        within("relative_attention_num_buckets", self.relative_attention_num_buckets, 4, 1 << 12)?;
        let quarter = self.relative_attention_num_buckets / 4;
        within("relative_attention_max_distance", self.relative_attention_max_distance, quarter + 1, 1 << 20)?;
        if !(self.layer_norm_epsilon > 0.0 && self.layer_norm_epsilon < 1.0) {
            return Err(format!("layer_norm_epsilon is {}, expected a small positive number", self.layer_norm_epsilon));
        }
        Ok(())
    }

    /// Which bias a key `distance` tokens to the right of a query gets (negative: to the left): one half of the buckets
    /// for each direction, of which the first half holds one distance each and the rest grow with its logarithm.
    pub fn bucket(&self, distance: isize) -> usize {
        let half = self.relative_attention_num_buckets / 2;
        let base = if distance > 0 { half } else { 0 };
        let (n, exact) = (distance.unsigned_abs(), half / 2);
        if n < exact {
            return base + n;
        }
        let reached = if (half, self.relative_attention_max_distance) == (16, 128) {
            // the usual setting as integers, so that no rounding of a logarithm can move a border
            [12, 16, 23, 32, 46, 64, 91].iter().filter(|&&border| n >= border).count()
        } else {
            let share =
                (n as f32 / exact as f32).ln() / (self.relative_attention_max_distance as f32 / exact as f32).ln();
            (share * (half - exact) as f32) as usize
        };
        base + (exact + reached).min(half - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxl_passes_and_others_are_named() {
        assert_eq!(Config::xxl().check(), Ok(()));
        let refused = |c: Config| c.check().unwrap_err();
        assert!(refused(Config { feed_forward_proj: "relu".into(), ..Config::xxl() }).contains("`relu`"));
        assert!(refused(Config { model_type: "umt5".into(), ..Config::xxl() }).contains("`umt5`"));
        assert!(refused(Config { num_heads: 0, ..Config::xxl() }).contains("num_heads is 0"));
        assert!(refused(Config { d_ff: 1 << 40, ..Config::xxl() }).contains("d_ff"));
        let near = Config { relative_attention_max_distance: 8, ..Config::xxl() };
        assert!(refused(near).contains("relative_attention_max_distance is 8"));
        assert!(refused(Config { layer_norm_epsilon: f32::NAN, ..Config::xxl() }).contains("layer_norm_epsilon"));
    }

    #[test]
    fn a_bucket_stays_in_its_half() {
        for buckets in [4, 5, 7, 16, 32, 64] {
            let c = Config { relative_attention_num_buckets: buckets, ..Config::xxl() };
            for distance in -400..400 {
                assert!(c.bucket(distance) < buckets, "{buckets} buckets, {distance}");
            }
        }
    }
}
