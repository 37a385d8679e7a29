//! Which prompts and seeds there are, and the short names by which figures call them.

use super::html::{count, escape};
use super::record::Record;

/// A prompt with a seed.
pub struct Case<'a> {
    /// The prompt's number, from 1; with a second one for the seed if it ran with several.
    pub label: String,
    pub prompt: &'a str,
    pub seed: u64,
    /// Its place in [`Cases::groups`].
    pub group: Option<usize>,
}

impl Case<'_> {
    /// All that is known of it, for the words that show when one points at something.
    pub fn title(&self, groups: &[&str]) -> String {
        let group = self.group.map_or(String::new(), |g| format!(" ({})", groups[g]));
        format!("{} · {}{group}, seed {}", self.label, self.prompt, self.seed)
    }
}

/// All of them, in the order in which they first ran.
pub struct Cases<'a> {
    pub all: Vec<Case<'a>>,
    pub groups: Vec<&'a str>,
    pub prompts: Vec<&'a str>,
}

impl<'a> Cases<'a> {
    pub fn of(records: &'a [Record]) -> Self {
        let mut cases = Self { all: Vec::new(), groups: Vec::new(), prompts: Vec::new() };
        let mut seeds: Vec<Vec<u64>> = Vec::new();
        for record in records {
            let number = place(&mut cases.prompts, record.prompt.as_str());
            seeds.resize(cases.prompts.len(), Vec::new());
            place(&mut seeds[number], record.seed);
        }
        for record in records {
            if cases.all.iter().any(|c| c.prompt == record.prompt && c.seed == record.seed) {
                continue;
            }
            let group = record.group.as_deref().map(|g| place(&mut cases.groups, g));
            let number = place(&mut cases.prompts, record.prompt.as_str());
            let label = match seeds[number].len() {
                1 => (number + 1).to_string(),
                _ => format!("{}.{}", number + 1, place(&mut seeds[number], record.seed) + 1),
            };
            cases.all.push(Case { label, prompt: &record.prompt, seed: record.seed, group });
        }
        cases
    }

    /// Each case that a policy ran, with its run, in the order of the cases.
    pub fn runs<'r>(&self, records: &'r [Record], policy: &str) -> Vec<(&Case<'a>, &'r Record)> {
        let own: Vec<&Record> = records.iter().filter(|r| r.policy == policy).collect();
        let find = |c: &Case| own.iter().find(|r| r.prompt == c.prompt && r.seed == c.seed).copied();
        self.all.iter().filter_map(|c| Some((c, find(c)?))).collect()
    }

    /// The prompts behind the numbers.
    pub fn list(&self) -> String {
        let item = |prompt: &&str| {
            let group = self.all.iter().find(|c| c.prompt == *prompt).and_then(|c| c.group);
            let group = group.map_or(String::new(), |g| format!(" <small>{}</small>", escape(self.groups[g])));
            let own = self.all.iter().filter(|c| c.prompt == *prompt).map(|c| c.seed.to_string());
            let seeds = own.collect::<Vec<_>>().join(", ");
            format!("<li>{}{group} <small>seed {seeds}</small></li>\n", escape(prompt))
        };
        let items: String = self.prompts.iter().map(item).collect();
        let several = self.all.len() > self.prompts.len();
        let note = if several { "<p>The number after the point says which seed.</p>\n" } else { "" };
        let summary = format!("The {} behind the numbers", count(self.prompts.len(), "prompt"));
        format!("<details><summary>{summary}</summary>\n<ol>\n{items}</ol>\n{note}</details>\n")
    }
}

/// Where an item is among those that are known; it is from now on.
fn place<T: PartialEq>(known: &mut Vec<T>, item: T) -> usize {
    known.iter().position(|k| *k == item).unwrap_or_else(|| {
        known.push(item);
        known.len() - 1
    })
}
