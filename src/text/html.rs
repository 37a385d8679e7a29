//! The text of a piece of HTML, read as leniently as a browser would.
//!
//! Follows Python's `html.parser` under BeautifulSoup, as the reference does: tags go, entities are decoded, comments
//! and the content of script, style and template go. Anything that is no tag (`a < b`, an open `<b` at the end) stays.

/// Elements whose content is no text.
const HIDDEN: [&str; 5] = ["script", "style", "template", "rt", "rp"];

/// The text of `html`, tags removed and entities decoded.
pub(super) fn text(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut hidden: Vec<&str> = Vec::new(); // open elements of HIDDEN, innermost last
    let mut rest = html;
    // the place of the last `>`: beyond it no tag can close, so the search need not be repeated for every `<`
    let last_close = html.rfind('>');
    while let Some(first) = rest.chars().next() {
        let closes = last_close.is_some_and(|at| at >= html.len() - rest.len());
        let taken = match first {
            '<' if closes => match markup(rest) {
                Some(Markup { length, opens, closes }) => {
                    if let Some(name) = opens.and_then(|n| HIDDEN.into_iter().find(|h| h.eq_ignore_ascii_case(n))) {
                        if name == "script" || name == "style" {
                            rest = after_raw_text(&rest[length..], name);
                            continue;
                        }
                        hidden.push(name);
                    }
                    if let Some(at) = closes.and_then(|n| hidden.iter().rposition(|h| h.eq_ignore_ascii_case(n))) {
                        hidden.truncate(at);
                    }
                    rest = &rest[length..];
                    continue;
                }
                None => {
                    // an open comment is text up to the next `>`, tags in it and all
                    let length = if rest.starts_with("<!--") { rest.find('>').map_or(1, |at| at + 1) } else { 1 };
                    (rest[..length].to_string(), length)
                }
            },
            '&' => entity(rest),
            _ => {
                let length =
                    rest.find(['<', '&']).filter(|&at| at > 0).unwrap_or(if first == '<' { 1 } else { rest.len() });
                (rest[..length].to_string(), length)
            }
        };
        if hidden.is_empty() {
            out.push_str(&taken.0);
        }
        rest = &rest[taken.1..];
    }
    out
}

/// A tag, comment or declaration at the start of a text.
struct Markup<'a> {
    /// Bytes up to and with its end.
    length: usize,
    /// Name of the element it opens.
    opens: Option<&'a str>,
    /// Name of the element it closes.
    closes: Option<&'a str>,
}

/// What the `<` at the start of `rest` begins; `None` if it is only a character.
fn markup(rest: &str) -> Option<Markup<'_>> {
    let until = |end: &str, from: usize| rest.get(from..)?.find(end).map(|at| from + at + end.len());
    let plain = |length: usize| Some(Markup { length, opens: None, closes: None });
    let name = |from: usize| {
        let end =
            rest[from..].find(|c: char| c.is_ascii_whitespace() || c == '/' || c == '>').unwrap_or(rest.len() - from);
        &rest[from..from + end]
    };
    let bytes = rest.as_bytes();
    match bytes.get(1)? {
        b'a'..=b'z' | b'A'..=b'Z' => {
            let length = tag_end(rest)?;
            let opens = (!rest[..length].ends_with("/>")).then(|| name(1));
            Some(Markup { length, opens, closes: None })
        }
        b'/' => match bytes.get(2)? {
            b'a'..=b'z' | b'A'..=b'Z' => Some(Markup { length: until(">", 2)?, opens: None, closes: Some(name(2)) }),
            _ => plain(until(">", 2)?),
        },
        b'!' if rest.starts_with("<!--") => plain(until("-->", 4)?),
        b'!' | b'?' => plain(until(">", 2)?),
        _ => None,
    }
}

/// The end of a start tag: the first `>` outside quoted attribute values.
fn tag_end(rest: &str) -> Option<usize> {
    let mut quote = None;
    let mut previous = b' ';
    for (i, &b) in rest.as_bytes().iter().enumerate().skip(1) {
        match (quote, b) {
            (Some(q), _) if q == b => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') if previous == b'=' => quote = Some(b),
            (None, b'>') => return Some(i + 1),
            _ => {}
        }
        if !b.is_ascii_whitespace() {
            previous = b;
        }
    }
    // a quote that never closes: a plain tag after all
    rest.find('>').map(|at| at + 1)
}

/// What follows the end tag of a script or style; nothing if it is never closed.
fn after_raw_text<'a>(rest: &'a str, name: &str) -> &'a str {
    let mut from = 0;
    while let Some(at) = rest[from..].find("</").map(|at| from + at + 2) {
        if rest.get(at..at + name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name)) {
            return rest[at..].find('>').map_or("", |end| &rest[at + end + 1..]);
        }
        from = at;
    }
    ""
}

/// The character(s) the `&` at the start of `rest` stands for, and the bytes it takes.
fn entity(rest: &str) -> (String, usize) {
    let body = &rest[1..];
    let run = |text: &str, ok: fn(char) -> bool| text.find(|c| !ok(c)).unwrap_or(text.len());
    let (name, length) = if let Some(number) = body.strip_prefix('#') {
        let hex = number.starts_with(['x', 'X']);
        let digits = &number[usize::from(hex)..];
        let length = if hex { run(digits, |c| c.is_ascii_hexdigit()) } else { run(digits, |c| c.is_ascii_digit()) };
        if length == 0 {
            // the reference's parser stops here if nothing ahead could end an entity
            let raw = if rest.contains(';') { 2 } else { rest.len() };
            return raw_entity(rest, raw);
        }
        if length == digits.len() {
            return raw_entity(rest, rest.len());
        }
        let code = u32::from_str_radix(&digits[..length], if hex { 16 } else { 10 }).unwrap_or(u32::MAX);
        let c = match code {
            0 => char::REPLACEMENT_CHARACTER,
            // meant as windows-1252, as browsers have it
            0x80..=0x9f => super::repair::windows_1252(code as u8),
            _ => char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
        };
        (c.to_string(), 2 + usize::from(hex) + length)
    } else {
        let length = if body.starts_with(|c: char| c.is_ascii_alphabetic()) {
            run(body, |c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
        } else {
            0
        };
        let name = &body[..length];
        if length > 0 && length == body.len() {
            return raw_entity(rest, rest.len());
        }
        let closed = format!("&{name};");
        let decoded = html_escape::decode_html_entities(&closed);
        // an unknown name keeps its `&` and, as in the reference, loses its `;`
        (if length > 0 && decoded != closed { decoded.into_owned() } else { format!("&{name}") }, 1 + length)
    };
    let semicolon = usize::from(length > 1 && rest[length..].starts_with(';'));
    (name, length + semicolon)
}

/// The first `length` bytes as they are. The reference's parser loses the `&` of two last characters `&x`.
fn raw_entity(rest: &str, length: usize) -> (String, usize) {
    let lost = usize::from(rest.len() == 2);
    (rest[lost..length].to_string(), length)
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn tags_go_and_text_stays() {
        for (html, want) in [
            ("", ""),
            ("<b>bold</b> x", "bold x"),
            ("a < b", "a < b"),
            ("a <b", "a <b"),
            ("1<2 and 3>2", "1<2 and 3>2"),
            ("<a title='x>y' href=\"z\">q</a>", "q"),
            ("<a title='open>q", "q"),
            ("a<!-- <b> -->b<br/>c<!doctype html>d<?php ?>e</>f", "abcdef"),
            ("x<script>if (a < b) {}</script>y<style>p{}</STYLE >z", "xyz"),
            ("x<script>never closed", "x"),
            ("x<template>in <b>it</b></template>y", "xy"),
            ("</", "</"),
            ("<é>", "<é>"),
        ] {
            assert_eq!(text(html), want, "{html}");
        }
    }

    #[test]
    fn entities() {
        for (html, want) in [
            ("&lt;b&gt; caf&eacute; &#233;&#xe9; &#150;", "<b> café éé –"),
            ("&amp x & y &foo; &", "& x & y &foo &"),
            ("&#; &#x; &#99999999999; &#xd800;", "&#; &#x; \u{fffd} \u{fffd}"),
            // the end of the text ends no entity
            ("caf&eacute", "caf&eacute"),
            ("x &#33", "x &#33"),
            ("x &b", "x b"),
            ("x &", "x &"),
            ("&# <b>x</b>", "&# <b>x</b>"),
        ] {
            assert_eq!(text(html), want, "{html}");
        }
    }

    #[test]
    fn long_and_hostile() {
        for piece in ["<", "<a", "<a ", "</", "&", "&#", "<!--", "<a b='", "<script></", "é<"] {
            let _ = text(&piece.repeat(20_000));
        }
        assert_eq!(text(&"<b>".repeat(50_000)), "");
    }
}
