//! Frames of all policies below each other, prompt by prompt.

use super::cases::{Case, Cases};
use super::html::{self, escape, number, with};
use super::record::Record;
use super::stats::{Results, median};

const INTRODUCTION: &str = "Some frames of each run, the uncached one first.";
/// Prompts that are shown at once; more are folded away, each by itself.
const OPEN: usize = 6;

/// The section, without its heading; nothing if there are no pictures.
pub fn section(
    results: &Results,
    records: &[Record],
    cases: &Cases,
    pictures: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> Option<String> {
    // what is compared with comes first
    let mut policies: Vec<_> = results.policies.iter().collect();
    policies.sort_by_key(|s| s.quality.is_some());
    let mut shown = 0;
    let mut out = String::new();
    for case in &cases.all {
        let own = |policy: &str| {
            records.iter().find(|r| r.policy == policy && r.prompt == case.prompt && r.seed == case.seed)
        };
        let rows = policies.iter().filter_map(|s| row(own(&s.policy)?, pictures)).collect::<String>();
        if !rows.is_empty() {
            out += &framed(case, cases, &rows, shown < OPEN);
            shown += 1;
        }
    }
    (shown > 0).then(|| format!("<p>{INTRODUCTION}</p>\n{out}"))
}

fn framed(case: &Case, cases: &Cases, rows: &str, open: bool) -> String {
    let seed = format!(" <small>seed {}</small>", case.seed);
    let group = case.group.map_or(String::new(), |g| format!(" <small>{}</small>", escape(cases.groups[g])));
    let heading = format!("<h3>{} · {}{group}{seed}</h3>", escape(&case.label), escape(case.prompt));
    let rows = format!("<div class=\"frames\">\n{rows}</div>\n");
    if open {
        format!("{heading}\n{rows}")
    } else {
        format!("<details><summary>{heading}</summary>\n{rows}</details>\n")
    }
}

/// A run's picture with its numbers beside it; nothing if it has none.
fn row(record: &Record, pictures: &dyn Fn(&str) -> Option<Vec<u8>>) -> Option<String> {
    let png = pictures(record.picture.as_deref()?)?;
    let size = size(&png).map_or(String::new(), |(w, h)| format!(" width=\"{w}\" height=\"{h}\""));
    let policy = escape(&record.policy);
    let facts: String = facts(record).iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>")).collect();
    Some(format!(
        "<div class=\"run\"><img{size} alt=\"Frames under {policy}\" src=\"data:image/png;base64,{}\">\n\
         <div><b>{}</b><dl>{facts}</dl></div></div>\n",
        base64(&png),
        html::policy(&record.policy)
    ))
}

fn facts(record: &Record) -> Vec<(&'static str, String)> {
    let computed = ("computed", format!("{} of {}", record.computed(), record.steps.len()));
    let Some(q) = record.quality else {
        return vec![computed];
    };
    let speedup = median(&record.uncached_seconds) / median(&record.seconds);
    vec![
        ("PSNR", with(q.psnr, 2, " dB")),
        ("SSIM", number(q.ssim, 4)),
        ("FLIP", number(q.flip, 4)),
        ("speedup", with(speedup, 2, "×")),
        computed,
    ]
}

/// Width and height, from the head of a PNG.
fn size(png: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_be_bytes(png.get(at..at + 4)?.try_into().ok()?));
    png.starts_with(b"\x89PNG\r\n\x1a\n").then(|| Some((number(16)?, number(20)?)))?
}

/// Source: RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|i| u32::from(three.get(i).copied().unwrap_or(0)));
        let word = a << 16 | b << 8 | c;
        for digit in 0..4 {
            let six = (word >> (18 - 6 * digit) & 63) as usize;
            out.push(if digit <= three.len() { DIGITS[six] as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        let words = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        assert_eq!(words.map(|w| base64(w.as_bytes())), expected);
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn sizes() {
        let mut head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        assert_eq!(size(&head), None);
        head.extend([0, 0, 1, 2, 0, 0, 0, 9]);
        assert_eq!((size(&head), size(b"GIF89a")), (Some((258, 9)), None));
    }
}
