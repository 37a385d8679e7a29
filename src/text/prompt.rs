//! The prompt grammar of Open-Sora v1.2: embedded references, segments per clip, score suffixes.
//!
//! The order is: [`Embedded::split`], [`Segments::split`], [`Scores::append`] and
//! [`clean_caption`] on each segment, then [`Segments::at`] for every clip.
//!
//! Source: opensora/utils/inference_utils.py (`extract_json_from_prompts`, `split_prompt`, `append_score_to_prompts`,
//! `merge_prompt`, `extract_prompts_loop`) at tag v1.2.0.

use serde_json::Value;

use super::clean::clean_caption;
use crate::error::{Error, Result};

/// A prompt with what was embedded in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Embedded {
    /// The prompt before the first `{`, not trimmed.
    pub text: String,
    /// `reference_path`: files with given frames, separated by `;`.
    pub reference_path: Option<String>,
    /// `mask_strategy`: where they go.
    pub mask_strategy: Option<String>,
}

impl Embedded {
    /// Splits `text {"reference_path": …, "mask_strategy": …}`; both keys are optional, as is the whole object.
    ///
    /// # Errors
    /// [`Error::Request`] for more than one `{`, broken JSON, another key, or a value that is not a string.
    pub fn split(prompt: &str) -> Result<Self> {
        let Some(brace) = prompt.find('{') else {
            return Ok(Self { text: prompt.to_string(), ..Self::default() });
        };
        let (text, json) = prompt.split_at(brace);
        if json[1..].contains('{') {
            return Err(problem("it holds more than one `{`; only one embedded JSON object is understood"));
        }
        let object: serde_json::Map<String, Value> = serde_json::from_str(json)
            .map_err(|e| problem(format!("from the `{{` on it is not a JSON object: {e}")))?;
        let mut embedded = Self { text: text.to_string(), ..Self::default() };
        for (key, value) in object {
            let Value::String(value) = value else {
                return Err(problem(format!("the embedded `{key}` is not a string")));
            };
            match key.as_str() {
                "reference_path" => embedded.reference_path = Some(value),
                "mask_strategy" => embedded.mask_strategy = Some(value),
                _ => {
                    return Err(problem(format!(
                        "the embedded key `{key}` is not `reference_path` or `mask_strategy`"
                    )));
                }
            }
        }
        Ok(embedded)
    }
}

/// A prompt by clips of a long video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    /// The texts, at least one.
    pub texts: Vec<String>,
    /// First clip (0-based, ascending, the first is 0) of each text; `None` for a prompt without segments.
    pub starts: Option<Vec<usize>>,
}

impl Segments {
    /// Splits `|0|text|3|text…`, texts trimmed. A prompt that does not start with exactly `|0|` is one segment, as is.
    ///
    /// # Errors
    /// [`Error::Request`] for a missing text or number, or numbers that do not ascend.
    pub fn split(prompt: &str) -> Result<Self> {
        let Some(rest) = prompt.strip_prefix("|0|") else {
            return Ok(Self { texts: vec![prompt.to_string()], starts: None });
        };
        let mut fields = rest.split('|');
        // `split` yields at least one field, the text of clip 0
        let mut texts = vec![fields.next().unwrap_or_default().trim().to_string()];
        let mut starts = vec![0];
        while let Some(number) = fields.next() {
            let start = number.trim().parse::<usize>().map_err(|_| {
                problem(format!("`|{number}|` is not the number of a clip; segments are `|0|text|2|text`"))
            })?;
            if starts.last().is_some_and(|&last| start <= last) {
                return Err(problem(format!("segment `|{start}|` does not come after the one before it")));
            }
            let text = fields.next().ok_or_else(|| problem(format!("segment `|{start}` has no text")))?;
            starts.push(start);
            texts.push(text.trim().to_string());
        }
        Ok(Self { texts, starts: Some(starts) })
    }

    /// The same segments with every text replaced by `f` of it.
    pub fn map(&self, f: impl FnMut(&str) -> String) -> Self {
        Self { texts: self.texts.iter().map(String::as_str).map(f).collect(), starts: self.starts.clone() }
    }

    /// One string again: `|0|text|3|text`, or the only text.
    pub fn merged(&self) -> String {
        match &self.starts {
            None => self.texts.first().cloned().unwrap_or_default(),
            Some(starts) => starts.iter().zip(&self.texts).map(|(start, text)| format!("|{start}|{text}")).collect(),
        }
    }

    /// The text of clip `at_loop` (0-based): the last segment that starts at it or before.
    pub fn at(&self, at_loop: usize) -> &str {
        let index = match &self.starts {
            None => 0,
            Some(starts) => starts.partition_point(|&start| start <= at_loop).saturating_sub(1),
        };
        self.texts.get(index).map_or("", String::as_str)
    }
}

/// Quality words appended to a prompt, as in the training captions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Aesthetic score; upstream asks for 6.5, the caching ablations for 7.
    pub aesthetic: Option<f64>,
    /// Motion score; the caching ablations ask for 5.
    pub motion: Option<f64>,
    /// Camera motion, such as "pan left".
    pub camera_motion: Option<String>,
}

impl Scores {
    /// `text` with each score that is given and that it does not mention already, one decimal, ties to even.
    pub fn append(&self, text: &str) -> String {
        let mut out = text.to_string();
        let mut add = |phrase: &str, value: Option<String>| {
            if let Some(value) = value.filter(|_| !text.contains(phrase)) {
                out.push_str(&format!(" {phrase} {value}."));
            }
        };
        add("aesthetic score:", self.aesthetic.map(|v| format!("{v:.1}")));
        add("motion score:", self.motion.map(|v| format!("{v:.1}")));
        add("camera motion:", self.camera_motion.clone());
        out
    }
}

/// The whole chain on a prompt without embedded JSON: split, scores, cleaning. [`Segments::at`] of the result is what
/// the tokenizer reads.
///
/// # Errors
/// Those of [`Segments::split`].
pub fn prepare(prompt: &str, scores: &Scores) -> Result<Segments> {
    Ok(Segments::split(prompt)?.map(|text| clean_caption(&scores.append(text))))
}

fn problem(what: impl Into<String>) -> Error {
    Error::request("prompt", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_json() {
        let e = Embedded::split("x {\"mask_strategy\": \"0\"} ").unwrap();
        assert_eq!((e.text.as_str(), e.mask_strategy.as_deref(), e.reference_path), ("x ", Some("0"), None));
        assert_eq!(Embedded::split("").unwrap(), Embedded::default());
        let deep = "[".repeat(100_000);
        for bad in [
            "{",
            "a {b}",
            "a {\"x\": \"y\"}",
            "a {\"mask_strategy\": 1}",
            "a {} {}",
            "a {} b",
            &format!("{{\"mask_strategy\": {deep}"),
        ] {
            assert!(matches!(Embedded::split(bad), Err(Error::Request { .. })), "{bad:.30}");
        }
    }

    #[test]
    fn segments() {
        let s = Segments::split("|0|x| 2 |y").unwrap();
        assert_eq!([0, 1, 2, 9].map(|k| s.at(k)), ["x", "x", "y", "y"]);
        assert_eq!(s.merged(), "|0|x|2|y");
        assert_eq!(Segments::split("|0|").unwrap().at(0), "");
        for bad in ["|0|a|", "|0|a|1", "|0|a|0|b", "|0|a|2|b|1|c", "|0|a|-1|b", "|0|a|b|c"] {
            assert!(matches!(Segments::split(bad), Err(Error::Request { .. })), "{bad}");
        }
    }

    #[test]
    fn scores_round_ties_to_even() {
        let scores = Scores { aesthetic: Some(5.25), motion: Some(5.75), camera_motion: None };
        assert_eq!(scores.append("x"), "x aesthetic score: 5.2. motion score: 5.8.");
        assert_eq!(Scores::default().append("x"), "x");
    }

    #[test]
    fn the_chain() {
        let scores = Scores { aesthetic: Some(6.5), ..Scores::default() };
        let s = prepare("|0| A Quiet Day |1| a STORMY night", &scores).unwrap();
        assert_eq!(s.at(7), "a stormy night aesthetic score: 6.5.");
    }
}
