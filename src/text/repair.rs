//! What ftfy's `fix_text` does to a prompt: entities, odd widths, ligatures, quotes, controls, NFC.
//!
//! Repair of wrongly decoded text ("Ã©" for "é") needs large tables and comes from a crate behind the feature
//! `clean-text`; the rest is here and always on. Source: ftfy 6, `ftfy/fixes.py` and `ftfy/chardata.py`.

use std::borrow::Cow;
use std::sync::LazyLock;

use fancy_regex::Regex;
use tokenizers::NormalizedString;

/// Rounds after which a text that still changes is taken as it is.
const MAX_ROUNDS: usize = 16;

/// `text` repaired with ftfy's default options, line by line.
pub(super) fn fix_text(text: &str) -> String {
    // a `<` means the text is HTML: from its line on, entities are left alone
    let mut html = false;
    text.split_inclusive('\n')
        .map(|line| {
            html |= line.contains('<');
            fix_line(line, !html)
        })
        .collect()
}

fn fix_line(line: &str, entities: bool) -> String {
    let mut text = line.to_string();
    for _ in 0..MAX_ROUNDS {
        let mut fixed = if entities { unescape(&text) } else { text.clone() };
        fixed = fix_encoding(fixed);
        fixed =
            fixed.chars().map(|c| if matches!(c, '\u{80}'..='\u{9f}') { windows_1252(c as u8) } else { c }).collect();
        fixed = widths_and_quotes(&fixed);
        fixed = fixed.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
        fixed = without_escapes(&fixed).into_owned();
        fixed.retain(|c| !is_control(c));
        if !fixed.is_ascii() {
            fixed = normalized(&fixed, NormalizedString::nfc);
        }
        if fixed == text {
            break;
        }
        text = fixed;
    }
    text
}

/// Entities that end in `;`, once.
pub(super) fn unescape(text: &str) -> String {
    html_escape::decode_html_entities(text).into_owned()
}

#[cfg(feature = "clean-text")]
fn fix_encoding(text: String) -> String {
    if text.is_ascii() {
        return text;
    }
    let only_encoding = plsfix::TextFixerConfig {
        unescape_html: Some(false),
        remove_terminal_escapes: false,
        fix_c1_controls: false,
        fix_latin_ligatures: false,
        fix_character_width: false,
        uncurl_quotes: false,
        fix_line_breaks: false,
        remove_control_chars: false,
        normalization: None,
        // it cuts longer lines without regard for characters
        max_decode_length: i32::MAX,
        ..plsfix::TextFixerConfig::default()
    };
    // it decodes entities whatever it is told: keep `&` out of its sight
    text.split_inclusive('&')
        .map(|part| match part.strip_suffix('&') {
            Some(part) => plsfix::fix_text(part, Some(&only_encoding)) + "&",
            None => plsfix::fix_text(part, Some(&only_encoding)),
        })
        .collect()
}

#[cfg(not(feature = "clean-text"))]
fn fix_encoding(text: String) -> String {
    text
}

/// Ligatures to letters, full-width and half-width forms to the usual ones, curly quotes to straight ones.
fn widths_and_quotes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            'Ĳ' => out.push_str("IJ"),
            'ĳ' => out.push_str("ij"),
            'ŉ' => out.push_str("ʼn"),
            'Ǳ' => out.push_str("DZ"),
            'ǲ' => out.push_str("Dz"),
            'ǳ' => out.push_str("dz"),
            'Ǆ' => out.push_str("DŽ"),
            'ǅ' => out.push_str("Dž"),
            'ǆ' => out.push_str("dž"),
            'Ǉ' => out.push_str("LJ"),
            'ǈ' => out.push_str("Lj"),
            'ǉ' => out.push_str("lj"),
            'Ǌ' => out.push_str("NJ"),
            'ǋ' => out.push_str("Nj"),
            'ǌ' => out.push_str("nj"),
            'ﬀ' => out.push_str("ff"),
            'ﬁ' => out.push_str("fi"),
            'ﬂ' => out.push_str("fl"),
            'ﬃ' => out.push_str("ffi"),
            'ﬄ' => out.push_str("ffl"),
            'ﬅ' => out.push_str("ſt"),
            'ﬆ' => out.push_str("st"),
            '\u{3000}' => out.push(' '),
            '\u{ff01}'..='\u{ffef}' => out.push_str(&normalized(c.encode_utf8(&mut [0; 4]), NormalizedString::nfkc)),
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
            '\u{201c}'..='\u{201f}' => out.push('"'),
            _ => out.push(c),
        }
    }
    out
}

/// Without the escape sequences that colour a terminal.
fn without_escapes(text: &str) -> Cow<'_, str> {
    static ESCAPE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("\x1b\\[(?:\\d|;)*[a-zA-Z]").expect("a pattern of this file"));
    ESCAPE.try_replacen(text, 0, "").unwrap_or(Cow::Borrowed(text))
}

fn is_control(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

fn normalized(text: &str, form: fn(&mut NormalizedString) -> &mut NormalizedString) -> String {
    let mut text = NormalizedString::from(text);
    form(&mut text).get().to_string()
}

/// The character windows-1252 has at `byte` (0x80 to 0x9f; others and the five gaps stay what they are in Latin-1).
pub(super) fn windows_1252(byte: u8) -> char {
    const C1: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', //
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    byte.checked_sub(0x80).and_then(|i| C1.get(usize::from(i))).copied().unwrap_or(char::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repair() {
        for (text, want) in [
            ("", ""),
            ("ﬁne Ｆｕｌｌ　width ｶﾞ", "fine Full width ガ"),
            ("“a” ‘b’", "\"a\" 'b'"),
            ("a\r\nb\rc\u{2028}d", "a\nb\nc\nd"),
            ("\u{1b}[1;31mred\u{1b}[0m\u{7}", "red"),
            ("e\u{301}", "é"),
            ("\u{85}x\u{96}y", "…x–y"),
            ("&amp;amp; < &amp;", "&amp;amp; < &amp;"),
            ("＆ｌｔ；", "<"),
        ] {
            assert_eq!(fix_text(text), want, "{text:?}");
        }
    }

    #[test]
    fn line_by_line() {
        assert_eq!(fix_text("&eacute;\n<b>&eacute;\n&eacute;"), "é\n<b>&eacute;\n&eacute;");
    }

    #[cfg(feature = "clean-text")]
    #[test]
    fn wrongly_decoded_text() {
        assert_eq!(fix_text("schÃ¶n"), "schön");
        assert_eq!(fix_text("schÃ¶n & gut & schÃ¶n"), "schön & gut & schön");
    }

    #[test]
    fn long_and_hostile() {
        let _ = fix_text(&"é\u{fffd}â€œ\u{9d}ｶﾞ&".repeat(2_000));
    }
}
