//! Caption cleaning before T5: the long list of substitutions the training captions went through.
//!
//! Patterns have Python's `re` semantics, where `\w` knows letters and numbers but no combining marks, and `\b` follows
//! from it; they are rewritten to that effect. Text is lower case from the second step on.
//!
//! Source: opensora/models/text_encoder/t5.py (`text_preprocessing`, `clean_caption`) at tag v1.2.0.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::{html, repair};

/// `text` as the reference cleans it: the whole list, twice (once is not enough for nested entities). Idempotent for
/// ordinary prompts; score suffixes pass unchanged. A pattern that gives up on a hostile text leaves it as it is.
pub fn clean_caption(text: &str) -> String {
    clean_once(&clean_once(text))
}

/// The list applied once.
pub fn clean_once(text: &str) -> String {
    let text = unquote(text);
    let text = strip(&text).to_lowercase().replace("<person>", "person");
    let text = html::text(&substitute(&URLS, text));
    let mut text = substitute(&BEFORE_REPAIR, text);
    if text.matches(['-', '_']).count() > 3 {
        text = text.replace(['-', '_'], " ");
    }
    let text = repair::fix_text(&text);
    let text = repair::unescape(&repair::unescape(&text));
    strip(&substitute(&AFTER_REPAIR, strip(&text).to_string())).to_string()
}

/// What is left with cleaning switched off: lower case, trimmed.
pub fn lower_strip(text: &str) -> String {
    strip(&text.to_lowercase()).to_string()
}

/// Compiled patterns and what takes their place.
type Rules = LazyLock<Vec<(Regex, &'static str)>>;

static URLS: Rules = LazyLock::new(|| {
    compile(&[
        (
            r"\b((?:https?:(?:\/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)))",
            "",
        ),
        (
            r"\b((?:www:(?:\/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)))",
            "",
        ),
    ])
});

static BEFORE_REPAIR: Rules = LazyLock::new(|| {
    compile(&[
        (r"@[\w\d]+\b", ""),
        // CJK strokes, katakana extensions, enclosed CJK, CJK compatibility, ideographs and their extension A, hexagrams
        (r"[\x{31c0}-\x{31ef}]+", ""),
        (r"[\x{31f0}-\x{31ff}]+", ""),
        (r"[\x{3200}-\x{32ff}]+", ""),
        (r"[\x{3300}-\x{33ff}]+", ""),
        (r"[\x{3400}-\x{4dbf}]+", ""),
        (r"[\x{4dc0}-\x{4dff}]+", ""),
        (r"[\x{4e00}-\x{9fff}]+", ""),
        // every dash there is, but not the minus sign
        (
            "[\u{2d}\u{58a}\u{5be}\u{1400}\u{1806}\u{2010}-\u{2015}\u{2e17}\u{2e1a}\u{2e3a}\u{2e3b}\u{2e40}\u{301c}\
             \u{3030}\u{30a0}\u{fe31}\u{fe32}\u{fe58}\u{fe63}\u{ff0d}]+",
            "-",
        ),
        ("[`´«»“”¨]", "\""),
        ("[‘’]", "'"),
        (r"&quot;?", ""),
        (r"&amp", ""),
        // IP addresses, a time at the end, written-out line breaks
        (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
        (r"\d:\d\d\s+$", ""),
        (r"\\n", " "),
        // numbers of things: "#123", "#12345", 123456
        (r"#\d{1,3}\b", ""),
        (r"#\d{5,}\b", ""),
        (r"\b\d{6,}\b", ""),
        (r"\S+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)", ""),
        (r#"["']{2,}"#, "\""),
        (r"\.{2,}", " "),
        (r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+", " "),
        (r"\s+\.\s+", " "),
    ])
});

static AFTER_REPAIR: Rules = LazyLock::new(|| {
    compile(&[
        // codes: jc6640, jc6640vc, 6640vc231
        (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
        (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
        (r"\b\d+[a-zA-Z]+\d+\b", ""),
        // what web pages say
        (r"(worldwide\s+)?(free\s+)?shipping", ""),
        (r"(free\s)?download(\sfree)?", ""),
        (r"\bclick\b\s(?:for|on)\s\w+", ""),
        (r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(\simage[s]?)?", ""),
        (r"\bpage\s+\d+\b", ""),
        (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
        // 1920x1080 with a Latin x, a Cyrillic х or a ×
        (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),
        // punctuation and space
        (r"\b\s+\:\s+", ": "),
        (r"(\D[,\./])\b", "$1 "),
        (r"\s+", " "),
        (r#"^["']((?s:.)+)["']$"#, "$1"),
        (r"^['_,\-:;]", ""),
        (r"['_,\-:\-+]$", ""),
        (r"^\.\S+$", ""),
    ])
});

/// Python patterns to ours: `\w` without marks, and `\b` by that `\w`.
fn compile(rules: &[(&'static str, &'static str)]) -> Vec<(Regex, &'static str)> {
    const WORD: &str = r"[\p{L}\p{N}_]";
    const EDGE: &str = r"(?:(?<=[\p{L}\p{N}_])(?![\p{L}\p{N}_])|(?<![\p{L}\p{N}_])(?=[\p{L}\p{N}_]))";
    let python = |pattern: &str| {
        pattern
            .replace(r"[\w\d]", WORD)
            .replace(r"[\w/-]", r"[\p{L}\p{N}_/-]")
            .replace(r"\w", WORD)
            .replace(r"\b", EDGE)
    };
    let compiled = |pattern: &str| Regex::new(&python(pattern)).expect("a pattern of this file");
    rules.iter().map(|&(pattern, by)| (compiled(pattern), by)).collect()
}

fn substitute(rules: &Rules, mut text: String) -> String {
    for (pattern, by) in rules.iter() {
        match pattern.try_replacen(&text, 0, *by) {
            Ok(replaced) => text = replaced.into_owned(),
            // the matcher's budget ran out, which takes kilobytes made for it
            Err(e) => log::debug!("caption cleaning skips `{}`: {e}", pattern.as_str()),
        }
    }
    text
}

/// `%XX` to bytes, bytes to UTF-8 (U+FFFD where they are none), `+` to a space.
fn unquote(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = &tail[if escaped.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Python's `strip`: it counts the four separators U+001C to U+001F as space.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_nothing_out() {
        for text in ["", " ", "\n\t", "...", "&amp;", "()"] {
            assert_eq!(clean_caption(text), "", "{text:?}");
        }
    }

    #[test]
    fn ordinary_prompts_pass() {
        let prompt = "a small fox, running. aesthetic score: 6.5. motion score: 5.0. camera motion: pan left.";
        assert_eq!(clean_caption(prompt), prompt);
    }

    #[test]
    fn unquoting() {
        assert_eq!(unquote("50%25+%zz%4%"), "50% %zz%4%");
        assert_eq!(unquote("%c3%A9 %ff é"), "é \u{fffd} é");
    }

    #[test]
    fn python_words() {
        // a combining mark is no word character: there is an edge before it, so the comma gets its space only by "b"
        assert_eq!(clean_once("a,b"), "a, b");
        assert_eq!(clean_once("a,\u{20d0}b"), "a,\u{20d0}b");
        assert_eq!(clean_once("x,²"), "x, ²");
    }

    #[test]
    fn long_and_hostile_texts_end() {
        for piece in ["a.", "a", "1", "<", "&", "%", "\"'", "-", "x1", " : ", "@", "a.com/", "é\u{301}", "\u{0}", "汉"]
        {
            let _ = clean_caption(&piece.repeat(4_000));
        }
    }
}
