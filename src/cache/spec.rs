//! The words of `--cache`: `name[:key=value,…]`, the same in configuration files.

use super::{AdaCache, CachePolicy, Codebook, MoReg, Residual};
use crate::error::{Error, Result};

/// A cache policy as asked for, checked but not yet tied to a run.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum CacheSpec {
    /// Compute every step.
    #[default]
    Off,
    /// [`AdaCache`].
    AdaCache {
        /// `None`: the released one for the number of steps.
        codebook: Option<Codebook>,
        /// Which residual is measured.
        residual: Residual,
        /// Blocks it is measured in; `None`: the middle one.
        layers: Option<Vec<usize>>,
        /// Whether motion regularization is on.
        moreg: bool,
        /// Frame strides of the motion score.
        strides: Option<Vec<usize>>,
        /// Steps at which motion counts.
        window: Option<(usize, usize)>,
    },
}

const POLICIES: [&str; 2] = ["off", "adacache"];
const OPTIONS: [&str; 7] = ["preset", "codebook", "layers", "residual", "moreg", "strides", "window"];

/// From this many steps on the released codebook for 100 steps is the default.
const MANY_STEPS: usize = 60;

impl std::str::FromStr for CacheSpec {
    type Err = Error;

    /// # Errors
    /// [`Error::Request`] naming the unknown word and the nearest known one, or the value that is wrong.
    fn from_str(text: &str) -> Result<Self> {
        let (name, options) = text.trim().split_once(':').unwrap_or((text.trim(), ""));
        match name {
            "off" | "none" if options.is_empty() => return Ok(CacheSpec::Off),
            "adacache" => {}
            _ => return Err(unknown("policy", name, &POLICIES)),
        }
        let mut codebook = None;
        let mut residual = Residual::TemporalAttn;
        let mut layers = None;
        let mut moreg = false;
        let mut strides = None;
        let mut window = None;
        for option in options.split(',').filter(|o| !o.trim().is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let (key, value) = (key.trim(), value.trim());
            let wrong = |expected: &str| Error::request(format!("cache {key}"), format!("`{value}` is not {expected}"));
            match key {
                "preset" => {
                    codebook = Some(match value {
                        "fast" => Codebook::fast(),
                        "slow" => Codebook::slow(),
                        "steps100" => Codebook::steps100(),
                        _ => return Err(unknown("preset", value, &["fast", "slow", "steps100"])),
                    });
                }
                "codebook" => codebook = Some(parse_codebook(value)?),
                "layers" => layers = Some(numbers(value).ok_or_else(|| wrong("block numbers such as 13 or 0/13"))?),
                "strides" => strides = Some(numbers(value).ok_or_else(|| wrong("frame strides such as 1 or 1/2"))?),
                "residual" => {
                    residual = [Residual::TemporalAttn, Residual::SpatialAttn, Residual::CrossMlp]
                        .into_iter()
                        .find(|r| r.name() == value)
                        .ok_or_else(|| unknown("residual", value, &["t-attn", "s-attn", "ca-mlp"]))?;
                }
                "moreg" => {
                    moreg = match value {
                        "on" | "true" | "1" => true,
                        "off" | "false" | "0" => false,
                        _ => return Err(wrong("on or off")),
                    };
                }
                "window" => {
                    let ends = value.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                    window = Some(ends.filter(|(a, b)| a <= b).ok_or_else(|| wrong("a range of steps such as 4-26"))?);
                }
                _ => return Err(unknown("option", key, &OPTIONS)),
            }
        }
        Ok(CacheSpec::AdaCache { codebook, residual, layers, moreg, strides, window })
    }
}

impl CacheSpec {
    /// The policy for a run of `steps`; `None` when off.
    pub fn build(&self, steps: usize) -> Option<Box<dyn CachePolicy>> {
        let CacheSpec::AdaCache { codebook, residual, layers, moreg, strides, window } = self else { return None };
        let codebook = codebook
            .clone()
            .unwrap_or_else(|| if steps >= MANY_STEPS { Codebook::steps100() } else { Codebook::fast() });
        let moreg = moreg.then(|| {
            let released = MoReg::released(steps);
            MoReg {
                strides: strides.clone().unwrap_or(released.strides.clone()),
                window: window.unwrap_or(released.window),
                ..released
            }
        });
        Some(Box::new(AdaCache::new(codebook, *residual, layers.clone(), moreg)))
    }
}

fn parse_codebook(text: &str) -> Result<Codebook> {
    let pair = |p: &str| {
        let (threshold, rate) = p.split_once(':')?;
        Some((threshold.trim().parse().ok()?, rate.trim().parse().ok()?))
    };
    let pairs = text
        .split('/')
        .map(|p| {
            pair(p).ok_or_else(|| {
                Error::request("cache codebook", format!("`{p}` is no threshold:rate pair such as 0.08:6"))
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Codebook::new(pairs)
}

fn numbers(text: &str) -> Option<Vec<usize>> {
    text.split('/').map(|n| n.trim().parse().ok()).collect()
}

fn unknown(what: &str, word: &str, known: &[&str]) -> Error {
    let nearest = known.iter().min_by_key(|k| distance(word, k)).filter(|k| distance(word, k) <= k.len() / 2);
    let hint = nearest.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
    Error::request(format!("cache {what}"), format!("unknown `{word}`{hint} (known: {})", known.join(", ")))
}

/// Edits from one word to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar() {
        assert_eq!("off".parse::<CacheSpec>().unwrap(), CacheSpec::Off);
        let spec =
            "adacache:codebook=0.1:3/0.2:2/1.0:1,layers=0/13,residual=ca-mlp,moreg=on,window=3-9".parse().unwrap();
        let CacheSpec::AdaCache { codebook, residual, layers, moreg, window, .. } = spec else { panic!("{spec:?}") };
        assert_eq!(codebook.unwrap().pairs(), [(0.1, 3), (0.2, 2), (1.0, 1)]);
        assert_eq!((residual, layers, moreg, window), (Residual::CrossMlp, Some(vec![0, 13]), true, Some((3, 9))));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("adacash", "did you mean `adacache`"),
            ("adacache:presets=fast", "did you mean `preset`"),
            ("adacache:preset=quick", "known: fast, slow, steps100"),
            ("adacache:codebook=", "no threshold:rate pair"),
            ("adacache:codebook=0.2:2/0.1:1", "must ascend"),
            ("adacache:codebook=0.2:-2", "no threshold:rate pair"),
            ("adacache:layers=x", "block numbers"),
            ("adacache:window=9-3", "range of steps"),
        ] {
            let message = text.parse::<CacheSpec>().unwrap_err().to_string();
            assert!(message.contains(says), "{text}: {message}");
        }
    }
}
