//! Colours and markers that stay apart for readers of any colour vision: the palette of Okabe and Ito, slightly changed
//! for text on white and on black, by name in the style sheet.

use super::svg::{Svg, through};

/// How many colours the style sheet has, `c0` and up.
const COLOURS: usize = 7;

/// What a policy is before its options.
pub fn family(policy: &str) -> &str {
    policy.split(':').next().unwrap_or(policy)
}

/// How one family is drawn. With the colours used up they start again, hollow and with other markers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look(usize);

impl Look {
    /// Of the policy's family, the `n`th in `families`.
    pub fn of(policy: &str, families: &[&str]) -> Self {
        Self(families.iter().position(|f| *f == family(policy)).unwrap_or(0))
    }

    /// The classes of its colour.
    pub fn class(self) -> String {
        colour(self.0)
    }

    /// The marker at a place, `radius` in user units.
    pub fn draw(self, svg: &mut Svg, at: (f64, f64), radius: f64, title: &str) {
        let hollow = if self.0 / COLOURS % 2 == 1 { " hollow" } else { "" };
        svg.path(&format!("mark {}{hollow}", self.class()), &marker(self.0 % MARKERS, at, radius), title);
    }

    /// A small drawing of the marker alone.
    pub fn sample(self) -> String {
        let mut svg = Svg::new(16.0, 16.0);
        self.draw(&mut svg, (8.0, 8.0), 5.5, "");
        svg.sample()
    }
}

/// The class of the `n`th colour.
pub fn colour(n: usize) -> String {
    format!("c{}", n % COLOURS)
}

const MARKERS: usize = 8;

/// The outline of the `kind`th marker, all about equally heavy to the eye.
fn marker(kind: usize, (x, y): (f64, f64), r: f64) -> String {
    let polygon = |corners: usize, turn: f64, size: f64| {
        let corner = |i: usize| {
            let angle = (i as f64 / corners as f64 + turn) * std::f64::consts::TAU;
            (x + r * size * angle.sin(), y - r * size * angle.cos())
        };
        through(&(0..corners).map(corner).collect::<Vec<_>>()) + "Z"
    };
    match kind {
        0 => polygon(24, 0.0, 1.0),
        1 => polygon(4, 0.125, 1.25),
        2 => polygon(3, 0.0, 1.35),
        3 => polygon(4, 0.0, 1.3),
        4 => polygon(3, 0.5, 1.35),
        5 => cross(x, y, r * 1.15),
        6 => polygon(5, 0.0, 1.15),
        _ => polygon(6, 0.25, 1.1),
    }
}

fn cross(x: f64, y: f64, r: f64) -> String {
    let t = r * 0.36;
    let corners =
        [(t, r), (t, t), (r, t), (r, -t), (t, -t), (t, -r), (-t, -r), (-t, -t), (-r, -t), (-r, t), (-t, t), (-t, r)];
    through(&corners.map(|(dx, dy)| (x + dx, y + dy))) + "Z"
}
