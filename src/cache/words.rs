//! The options of a policy on the command line: `key=value` pairs, each named in its errors.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The options of one policy, as given.
pub(super) struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    /// Takes them apart.
    ///
    /// # Errors
    /// [`Error::Request`] naming an option that is not among `known` and the nearest that is, or one given twice.
    pub fn parse(text: &'a str, known: &[&str]) -> Result<Self> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for option in text.split(',').filter(|o| !o.trim().is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let (key, value) = (key.trim(), value.trim());
            if !known.contains(&key) {
                return Err(unknown("option", key, known));
            }
            if pairs.iter().any(|(k, _)| *k == key) {
                return Err(Error::request(format!("cache {key}"), "is given twice"));
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    /// The words of an option.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }

    /// A number within bounds.
    pub fn number<T>(&self, key: &str, least_to_most: RangeInclusive<T>, otherwise: T) -> Result<T>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(value) = self.get(key) else { return Ok(otherwise) };
        value.parse().ok().filter(|v| least_to_most.contains(v)).ok_or_else(|| {
            let expected = format!("a number from {} to {}", least_to_most.start(), least_to_most.end());
            wrong(key, value, &expected)
        })
    }

    /// Numbers within bounds, divided by `/`; `expected` says what they are.
    pub fn list<T>(&self, key: &str, least_to_most: RangeInclusive<T>, expected: &str) -> Result<Option<Vec<T>>>
    where
        T: FromStr + PartialOrd,
    {
        self.parsed(key, expected, |value| {
            let number = |n: &str| n.trim().parse().ok().filter(|v| least_to_most.contains(v));
            value.split('/').map(number).collect()
        })
    }

    /// From one number to a larger or the same, divided by `-`.
    pub fn range<T: FromStr + PartialOrd>(&self, key: &str, expected: &str) -> Result<Option<(T, T)>> {
        self.parsed(key, expected, range)
    }

    /// Several of them, divided by `/`.
    pub fn ranges(&self, key: &str, expected: &str) -> Result<Option<Vec<(usize, usize)>>> {
        self.parsed(key, expected, |value| value.split('/').map(range).collect())
    }

    /// On or off.
    pub fn switch(&self, key: &str) -> Result<bool> {
        let read = |value: &str| match value {
            "on" | "true" | "1" => Some(true),
            "off" | "false" | "0" => Some(false),
            _ => None,
        };
        Ok(self.parsed(key, "on or off", read)?.unwrap_or(false))
    }

    /// One of some words.
    ///
    /// # Errors
    /// [`Error::Request`] naming the nearest of `known`.
    pub fn one_of<T: Clone>(&self, key: &str, known: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match known.iter().find(|(word, _)| *word == value) {
            Some((_, meant)) => Ok(Some(meant.clone())),
            None => Err(unknown(key, value, &known.iter().map(|(word, _)| *word).collect::<Vec<_>>())),
        }
    }

    /// An option by a reader of its own.
    pub fn parsed<T>(&self, key: &str, expected: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        self.get(key).map(|value| read(value).ok_or_else(|| wrong(key, value, expected))).transpose()
    }
}

fn range<T: FromStr + PartialOrd>(text: &str) -> Option<(T, T)> {
    let (a, b) = text.split_once('-')?;
    let (a, b) = (a.trim().parse().ok()?, b.trim().parse().ok()?);
    (a <= b).then_some((a, b))
}

fn wrong(key: &str, value: &str, expected: &str) -> Error {
    Error::request(format!("cache {key}"), format!("`{value}` is not {expected}"))
}

/// A word that is none of those known.
pub(super) fn unknown(what: &str, word: &str, known: &[&str]) -> Error {
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
