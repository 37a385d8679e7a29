//! The shader files, and the linker that makes one module of several.
//!
//! A kernel file *calls* functions it does not define; the host names the files that define them. Module
//! scope has no order in WGSL, so linking is concatenation. Three directives, all comments to an editor:
//!
//! - `// enable f16` in the head of a file puts `enable f16;` where WGSL wants it: at the top of the module, once.
//! - `// use lib/half` in the head of a file links `shaders/lib/half.wgsl`, once.
//! - `//% for i in 0..TM` … `//% end` repeats the lines between, with `{i}` replaced: register tiles, which
//!   WGSL cannot index without spilling. Bounds are numbers or defined names; loops nest.

use crate::error::{Error, Result};

/// One file under `shaders/`.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Path under `shaders/`, with extension.
    pub path: &'static str,
    /// The WGSL text.
    pub text: &'static str,
}

// A path names one text, so it is enough to compare.
impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}
impl Eq for Source {}
impl std::hash::Hash for Source {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.path.hash(state);
    }
}

macro_rules! shaders {
    ($($name:ident = $path:literal,)*) => {
        $(
            #[doc = concat!("`shaders/", $path, "`")]
            pub const $name: Source =
                Source { path: $path, text: include_str!(concat!("../../shaders/", $path)) };
        )*
        /// Every file; a test compares this with the folder.
        pub const ALL: &[Source] = &[$($name),*];
    };
}

include!("shader_table.rs");

/// A linked module and where its lines came from.
pub struct Linked {
    /// The complete WGSL text.
    pub text: String,
    /// For each line of `text`: file and line, or none for the prelude.
    lines: Vec<Option<(&'static str, u32)>>,
}

impl Linked {
    /// File and line (1-based) behind a line (1-based) of the linked text.
    pub fn origin(&self, line: u32) -> (&'static str, u32) {
        (line as usize).checked_sub(1).and_then(|i| self.lines.get(i).copied().flatten()).unwrap_or(("prelude", line))
    }

    fn push(&mut self, line: &str, origin: Option<(&'static str, u32)>) {
        self.text.push_str(line);
        self.text.push('\n');
        self.lines.push(origin);
    }
}

/// Concatenates a prelude of extensions and constants, the kernel, the files named, and those they use.
///
/// # Errors
/// [`Error::Shader`] on an unknown `use`, an unknown bound, or a loop without end.
pub fn link(main: Source, links: &[Source], defines: &[(&'static str, u32)]) -> Result<Linked> {
    let mut head: Vec<String> = Vec::new();
    let mut body: Vec<(String, (&'static str, u32))> = Vec::new();
    let mut queue: Vec<Source> = std::iter::once(main).chain(links.iter().copied()).collect();
    let mut next = 0;
    while next < queue.len() {
        let file = queue[next];
        next += 1;
        if queue[..next - 1].contains(&file) {
            continue;
        }
        for (number, line) in (1u32..).zip(file.text.lines()) {
            if let Some(path) = line.strip_prefix("// use ") {
                let wanted = format!("{}.wgsl", path.trim());
                let found = ALL.iter().find(|s| s.path == wanted).ok_or_else(|| Error::Shader {
                    file: file.path.into(),
                    line: number,
                    problem: format!("uses `{wanted}`, which is not in the table"),
                })?;
                queue.push(*found);
            }
            if let Some(extension) = line.strip_prefix("// enable ") {
                let line = format!("enable {};", extension.trim());
                if !head.contains(&line) {
                    head.push(line);
                }
            }
        }
        let lines: Vec<(u32, String)> = (1u32..).zip(file.text.lines().map(String::from)).collect();
        for (number, line) in expand(&lines, defines, file.path)? {
            body.push((line, (file.path, number)));
        }
    }
    head.extend(defines.iter().map(|(name, value)| format!("const {name}: u32 = {value}u;")));
    let mut out = Linked { text: String::new(), lines: Vec::new() };
    head.iter().for_each(|line| out.push(line, None));
    body.iter().for_each(|(line, origin)| out.push(line, Some(*origin)));
    Ok(out)
}

fn expand(lines: &[(u32, String)], defines: &[(&'static str, u32)], file: &str) -> Result<Vec<(u32, String)>> {
    let mut out = Vec::with_capacity(lines.len());
    let mut at = 0;
    while at < lines.len() {
        let (number, line) = &lines[at];
        let Some(head) = line.trim().strip_prefix("//% for ") else {
            out.push((*number, line.clone()));
            at += 1;
            continue;
        };
        let wrong = |problem: &str| Error::Shader { file: file.into(), line: *number, problem: problem.into() };
        let (name, range) = head.split_once(" in ").ok_or_else(|| wrong("expected `//% for i in a..b`"))?;
        let (from, to) = range.split_once("..").ok_or_else(|| wrong("expected a range `a..b`"))?;
        let bound = |text: &str| {
            let text = text.trim();
            let defined = defines.iter().find(|(n, _)| *n == text).map(|(_, v)| *v);
            text.parse().ok().or(defined).ok_or_else(|| wrong(&format!("`{text}` is no number and not defined")))
        };
        let (from, to) = (bound(from)?, bound(to)?);
        let mut depth = 1;
        let mut end = at + 1;
        while end < lines.len() {
            let text = lines[end].1.trim();
            depth += usize::from(text.starts_with("//% for "));
            depth -= usize::from(text == "//% end");
            if depth == 0 {
                break;
            }
            end += 1;
        }
        if end == lines.len() {
            return Err(wrong("this loop has no `//% end`"));
        }
        for i in from..to {
            let placeholder = format!("{{{}}}", name.trim());
            let body: Vec<(u32, String)> =
                lines[at + 1..end].iter().map(|(n, l)| (*n, l.replace(&placeholder, &i.to_string()))).collect();
            out.extend(expand(&body, defines, file)?);
        }
        at = end + 1;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &'static str, defines: &[(&'static str, u32)]) -> Result<Linked> {
        link(Source { path: "test.wgsl", text: source }, &[], defines)
    }

    #[test]
    fn loops_unroll_and_keep_their_lines() {
        let linked =
            text("a\n//% for i in 0..N\nb{i}\n//% for j in 1..3\nc{i}{j}\n//% end\n//% end\nd", &[("N", 2)]).unwrap();
        assert_eq!(linked.text, "const N: u32 = 2u;\na\nb0\nc01\nc02\nb1\nc11\nc12\nd\n");
        assert_eq!(linked.origin(4), ("test.wgsl", 5));
        assert_eq!(linked.origin(9), ("test.wgsl", 8));
    }

    #[test]
    fn extensions_stand_at_the_top_once() {
        let linked = text("// enable f16\na\n// enable f16\nb", &[("N", 2)]).unwrap();
        assert_eq!(linked.text, "enable f16;\nconst N: u32 = 2u;\n// enable f16\na\n// enable f16\nb\n");
        assert_eq!((linked.origin(1).0, linked.origin(6)), ("prelude", ("test.wgsl", 4)));
    }

    #[test]
    fn mistakes_name_their_line() {
        for source in ["x\n//% for i in 0..M\n//% end", "x\n//% for i in 0..2\ny", "x\n// use lib/nothing"] {
            match text(source, &[]).map(|l| l.text) {
                Err(Error::Shader { file, line, .. }) => assert_eq!((file.as_str(), line), ("test.wgsl", 2)),
                other => panic!("{source}: {other:?}"),
            }
        }
    }
}
