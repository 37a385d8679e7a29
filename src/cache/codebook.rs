//! AdaCache's table from distances to rates.

use crate::error::{Error, Result};

/// Thresholds and rates: a distance below a threshold is answered by its rate, in order; the last rate
/// answers whatever is left, and its threshold is never asked.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Vec<(f64, usize)>", into = "Vec<(f64, usize)>")]
pub struct Codebook(Vec<(f64, usize)>);

impl Codebook {
    /// Checks and takes a codebook.
    ///
    /// # Errors
    /// [`Error::Request`] if it is empty, not in ascending order, not finite, or holds a rate of 0.
    pub fn new(pairs: Vec<(f64, usize)>) -> Result<Self> {
        let wrong = |problem: String| Err(Error::request("cache codebook", problem));
        if pairs.is_empty() {
            return wrong("is empty; expected threshold:rate pairs such as 0.08:6/0.16:5/1.0:1".into());
        }
        if let Some((t, r)) = pairs.iter().find(|(t, r)| !t.is_finite() || *t < 0.0 || *r == 0) {
            return wrong(format!("has the pair {t}:{r}; thresholds are finite and not negative, rates at least 1"));
        }
        if let Some(w) = pairs.windows(2).find(|w| w[1].0 <= w[0].0) {
            return wrong(format!("has {} after {}; thresholds must ascend", w[1].0, w[0].0));
        }
        Ok(Self(pairs))
    }

    /// The released codebook for 30 steps, fast (paper, appendix A.1).
    pub fn fast() -> Self {
        Self(vec![(0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.40, 2), (1.0, 1)])
    }

    /// The released codebook for 30 steps, slow (paper, appendix A.1, with its typing error read as the code has it).
    pub fn slow() -> Self {
        Self(vec![(0.08, 3), (0.16, 2), (0.24, 1), (0.32, 1), (0.40, 1), (1.0, 1)])
    }

    /// The released codebook for 100 steps (paper, Table 3f, fast).
    pub fn steps100() -> Self {
        Self(vec![(0.03, 12), (0.05, 10), (0.07, 8), (0.09, 6), (0.11, 4), (1.0, 3)])
    }

    /// Threshold and rate pairs, in order.
    pub fn pairs(&self) -> &[(f64, usize)] {
        &self.0
    }

    /// The rate for a distance. NaN gets the last.
    pub fn rate(&self, distance: f64) -> usize {
        let (last, asked) = self.0.split_last().expect("a codebook is never empty");
        asked.iter().find(|(threshold, _)| distance < *threshold).unwrap_or(last).1
    }
}

impl TryFrom<Vec<(f64, usize)>> for Codebook {
    type Error = Error;

    fn try_from(pairs: Vec<(f64, usize)>) -> Result<Self> {
        Self::new(pairs)
    }
}

impl From<Codebook> for Vec<(f64, usize)> {
    fn from(codebook: Codebook) -> Self {
        codebook.0
    }
}

impl std::fmt::Display for Codebook {
    /// As the command line takes it: `0.08:6/0.16:5/1:1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (threshold, rate)) in self.0.iter().enumerate() {
            write!(f, "{}{threshold}:{rate}", if i > 0 { "/" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codebooks_of_any_length_are_checked() {
        assert_eq!(Codebook::new(vec![(1.0, 1)]).unwrap().rate(0.0), 1);
        let two = Codebook::new(vec![(0.1, 3), (0.2, 2)]).unwrap();
        assert_eq!([0.05, 0.1, 0.3, f64::NAN].map(|d| two.rate(d)), [3, 2, 2, 2]);
        for bad in [vec![], vec![(0.2, 2), (0.1, 1)], vec![(0.1, 0)], vec![(f64::NAN, 1)], vec![(-0.1, 1)]] {
            assert!(Codebook::new(bad).is_err());
        }
    }
}
