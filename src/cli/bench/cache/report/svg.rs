//! Just enough of SVG for plots: numbers to places, ticks, axes, and text that is escaped.

use std::fmt::Write;

use super::html::escape;

/// Where numbers lie along an axis.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    low: f64,
    high: f64,
    /// The places of both, in user units.
    from: f64,
    to: f64,
    log: bool,
}

impl Scale {
    /// Exactly from `low` to `high`.
    pub fn exact((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        Self { low, high, from, to, log: false }
    }

    /// All finite values with some air around them; from 0 to 1 if there are none.
    pub fn linear(values: impl IntoIterator<Item = f64>, places: (f64, f64)) -> Self {
        let (low, high) = extent(values).unwrap_or((0.0, 1.0));
        let air = if high > low { (high - low) * 0.06 } else { (low.abs() * 0.1).max(0.5) };
        Self::exact((low - air, high + air), places)
    }

    /// All values above 0 with some air around them; a decade if there are none.
    pub fn log(values: impl IntoIterator<Item = f64>, places: (f64, f64)) -> Self {
        let (low, high) = extent(values.into_iter().filter(|&v| v > 0.0)).unwrap_or((0.1, 1.0));
        let air = if high > low { (high / low).powf(0.06) } else { 2.0 };
        Self { log: true, ..Self::exact((low / air, high * air), places) }
    }

    /// The place of a value; outside of the axis, its nearer end.
    pub fn at(&self, value: f64) -> f64 {
        let bend = |v: f64| if self.log { v.ln() } else { v };
        let (low, high) = (bend(self.low), bend(self.high));
        let share = ((bend(value.clamp(self.low, self.high)) - low) / (high - low)).clamp(0.0, 1.0);
        self.from + (self.to - self.from) * share
    }

    /// Both ends, in user units, the end of the low values first.
    pub fn places(&self) -> (f64, f64) {
        (self.from, self.to)
    }

    /// Both ends, as values.
    pub fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Round values in the range with their words, about `want` of them.
    pub fn ticks(&self, want: usize) -> Vec<(f64, String)> {
        if self.log { log_ticks(self.low, self.high, want) } else { ticks(self.low, self.high, want) }
    }
}

fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.into_iter().filter(|v| v.is_finite());
    finite.fold(None, |ends, v| Some(ends.map_or((v, v), |(a, b): (f64, f64)| (a.min(v), b.max(v)))))
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn ticks(low: f64, high: f64, want: usize) -> Vec<(f64, String)> {
    let rough = (high - low) / want.max(1) as f64;
    if !rough.is_finite() || rough <= 0.0 {
        return Vec::new();
    }
    let decade = 10f64.powf(rough.log10().floor());
    let step = decade * [1.0, 2.0, 5.0].into_iter().find(|m| m * decade >= rough * 0.999).unwrap_or(10.0);
    let digits = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|i| (i as f64 * step, format!("{:.digits$}", i as f64 * step))).collect()
}

/// 1, 2 and 5 of each decade; its first only where these would be too many.
fn log_ticks(low: f64, high: f64, want: usize) -> Vec<(f64, String)> {
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let all = |each: &[f64]| -> Vec<(f64, String)> {
        let values = decades.clone().flat_map(|d| each.iter().map(move |m| (d, m * 10f64.powi(d))));
        let inside = values.filter(|(_, v)| (low..=high).contains(v));
        inside.map(|(d, v)| (v, format!("{v:.*}", (-d).max(0) as usize))).collect()
    };
    let fine = all(&[1.0, 2.0, 5.0]);
    if fine.len() > want * 2 { all(&[1.0]) } else { fine }
}

/// A drawing that grows.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(place);
        self.push(format_args!(r#"<path class="{class}" d="M{x1} {y1}L{x2} {y2}"/>"#));
    }

    /// A path with the words that show when one points at it.
    pub fn path(&mut self, class: &str, d: &str, title: &str) {
        match title {
            "" => self.push(format_args!(r#"<path class="{class}" d="{d}"/>"#)),
            _ => self.push(format_args!(r#"<path class="{class}" d="{d}"><title>{}</title></path>"#, escape(title))),
        }
    }

    /// Text on the base line `at`; the class says on which side of it.
    pub fn text(&mut self, class: &str, at: (f64, f64), text: &str) {
        self.titled(class, at, text, "");
    }

    /// Text with the words that show when one points at it.
    pub fn titled(&mut self, class: &str, (x, y): (f64, f64), text: &str, title: &str) {
        let title = if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
        let (x, y) = (place(x), place(y));
        self.push(format_args!(r#"<text class="{class}" x="{x}" y="{y}">{title}{}</text>"#, escape(text)));
    }

    /// What [`Svg`] has no word for.
    pub fn push(&mut self, text: std::fmt::Arguments) {
        self.body.write_fmt(text).expect("strings take all");
    }

    /// `label` is read aloud in place of the drawing.
    pub fn finish(self, label: &str) -> String {
        let label = escape(label);
        format!("<svg {} role=\"img\" aria-label=\"{label}\">{}</svg>\n", self.size(), self.body)
    }

    /// A drawing within a line of text, that is not read aloud.
    pub fn sample(self) -> String {
        format!("<svg {} class=\"sample\" aria-hidden=\"true\">{}</svg>", self.size(), self.body)
    }

    fn size(&self) -> String {
        format!("viewBox=\"0 0 {} {}\"", place(self.width), place(self.height))
    }
}

/// A coordinate, to a tenth of a unit.
pub fn place(value: f64) -> String {
    let tenths = (value * 10.0).round();
    if tenths % 10.0 == 0.0 { format!("{:.0}", tenths / 10.0) } else { format!("{:.1}", tenths / 10.0) }
}

/// A line through points.
pub fn through(points: &[(f64, f64)]) -> String {
    let mut d = String::new();
    for (i, &(x, y)) in points.iter().enumerate() {
        let _ = write!(d, "{}{} {}", if i == 0 { 'M' } else { 'L' }, place(x), place(y));
    }
    d
}

/// Both axes of a plot, and how many ticks each is to have.
pub struct Axes<'a> {
    pub x: Scale,
    pub y: Scale,
    pub ticks: (usize, usize),
    pub names: (&'a str, &'a str),
    /// The height of a line of text.
    pub line: f64,
}

impl Axes<'_> {
    pub fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (self.x.at(x), self.y.at(y))
    }

    /// Grid, tick words and names; the name of y stands above the plot, where it reads without turning the head.
    pub fn draw(&self, svg: &mut Svg) {
        let ((left, right), (bottom, top)) = (self.x.places(), self.y.places());
        for (value, word) in self.x.ticks(self.ticks.0) {
            let x = self.x.at(value);
            svg.line("grid", (x, top), (x, bottom));
            svg.text("tick middle", (x, bottom + self.line * 1.2), &word);
        }
        for (value, word) in self.y.ticks(self.ticks.1) {
            let y = self.y.at(value);
            svg.line("grid", (left, y), (right, y));
            svg.text("tick end", (left - self.line * 0.5, y + self.line * 0.32), &word);
        }
        svg.line("axis", (left, bottom), (right, bottom));
        svg.text("name end", (right, bottom + self.line * 2.5), self.names.0);
        svg.text("name", (0.0, top - self.line * 0.8), self.names.1);
    }
}
