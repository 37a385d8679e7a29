//! Text, numbers and tables as HTML. Everything that comes from data goes through [`escape`].

use std::fmt::Write;

/// What stands for a number that is missing or not finite.
pub const DASH: &str = "–";

/// Text that is nothing but text, between tags and within quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

/// A policy as the command line takes it, which may break after its options where it is long.
pub fn policy(text: &str) -> String {
    escape(text).replace(',', ",<wbr>").replace('/', "/<wbr>")
}

/// At most `most` characters: the middle is left out, because policies and prompts often differ at their ends.
pub fn shorten(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most || most < 3 {
        return text.into();
    }
    let tail = (most - 1) / 3;
    let head: String = text.chars().take(most - 1 - tail).collect();
    head.trim_end().to_string() + "…" + text.chars().skip(count - tail).collect::<String>().trim_start()
}

/// At most `most` characters of the beginning.
pub fn begin(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    text.chars().take(most.saturating_sub(1)).collect::<String>().trim_end().to_string() + "…"
}

pub fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { DASH.into() }
}

/// With a unit, which a missing number has none of.
pub fn with(value: f64, digits: usize, unit: &str) -> String {
    if value.is_finite() { format!("{value:.digits$}{unit}") } else { DASH.into() }
}

/// From `low` to `high`.
pub fn range(low: f64, high: f64, digits: usize) -> String {
    if low.is_finite() && high.is_finite() { format!("{low:.digits$}–{high:.digits$}") } else { DASH.into() }
}

/// An interval, as `[30.8, 31.5]`; nothing if an end is missing.
pub fn bracket(low: f64, high: f64, digits: usize) -> String {
    if low.is_finite() && high.is_finite() { format!("[{low:.digits$}, {high:.digits$}]") } else { String::new() }
}

/// A mean and its interval, as `31.2 [30.8, 31.5]`.
pub fn interval(mean: f64, low: f64, high: f64, digits: usize) -> String {
    match (mean.is_finite(), bracket(low, high, digits)) {
        (false, _) => DASH.into(),
        (true, bracket) if bracket.is_empty() => number(mean, digits),
        (true, bracket) => format!("{mean:.digits$} {bracket}"),
    }
}

/// To three digits, in seconds or milliseconds.
pub fn seconds(value: f64) -> String {
    let (value, unit) = if value.abs() < 1.0 { (value * 1e3, "ms") } else { (value, "s") };
    significant(value, unit)
}

pub fn flops(value: f64) -> String {
    let units = [(1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")];
    let (size, unit) = units.into_iter().find(|(size, _)| value.abs() >= *size).unwrap_or((1.0, "FLOP"));
    significant(value / size, unit)
}

pub fn bytes(value: u64) -> String {
    let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let (size, unit) = units.into_iter().find(|(size, _)| value >= *size).unwrap_or((1, "B"));
    significant(value as f64 / size as f64, unit)
}

fn significant(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    with(value, digits, &format!("\u{a0}{unit}"))
}

/// `1 step`, `2 steps`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// One cell's content, ready to stand in a table.
pub struct Cell {
    html: String,
    title: String,
}

impl Cell {
    pub fn text(text: impl AsRef<str>) -> Self {
        Self { html: escape(text.as_ref()), title: String::new() }
    }

    /// Of which a part is said in a quieter voice.
    pub fn quiet(text: impl AsRef<str>, quiet: impl AsRef<str>) -> Self {
        let (text, quiet) = (escape(text.as_ref()), escape(quiet.as_ref()));
        let quiet = if quiet.is_empty() || quiet == DASH { quiet } else { format!(" <small>{quiet}</small>") };
        Self { html: if text == DASH { text } else { text + &quiet }, title: String::new() }
    }

    /// A policy, and below it what it calls itself.
    pub fn policy(text: &str, name: &str) -> Self {
        let below = Self::quiet("", if name == text { "" } else { name });
        Self { html: policy(text) + &below.html, ..below }
    }

    /// The words that show when one points at it.
    pub fn titled(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }
}

/// A table whose first `words` columns are words and stand left; all others are numbers and stand right. What follows
/// a `|` in a head is said in a quieter voice.
pub fn table(heads: &[&str], words: usize, rows: &[Vec<Cell>]) -> String {
    let mut out = String::from("<div class=\"wide\"><table>\n<thead><tr>");
    for (i, head) in heads.iter().enumerate() {
        let (head, quiet) = head.split_once('|').unwrap_or((head, ""));
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", left(i < words), Cell::quiet(head, quiet).html);
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let tag = if i == 0 { "th scope=\"row\"" } else { "td" };
            let title =
                if cell.title.is_empty() { String::new() } else { format!(" title=\"{}\"", escape(&cell.title)) };
            let _ = write!(out, "<{tag}{}{title}>{}</{}>", left(i < words), cell.html, &tag[..2]);
        }
        out.push_str("</tr>\n");
    }
    out + "</tbody>\n</table></div>\n"
}

fn left(is: bool) -> &'static str {
    if is { " class=\"left\"" } else { "" }
}
