//! AdaCache as asked for: where its settings come from, and what is changed of them.

use super::adacache::{Layers, MOST_ORDER, MoReg, Residual, Settings};
use super::words::Options;
use super::{Calibration, Codebook, Distance};
use crate::error::{Error, Result};

/// Most layers, steps or strides that can be spoken of.
const MOST: usize = 10_000;

/// Settings by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// The model's own, if it has one for the number of steps, else the released one.
    #[default]
    Fast,
    /// The same, slower and closer to the uncached video.
    Slow,
    /// [`Codebook::fast`], whatever the model has.
    ReleasedFast,
    /// [`Codebook::slow`].
    ReleasedSlow,
    /// [`Codebook::steps100`].
    Released100,
}

impl Preset {
    /// From this many steps on, what was released for 100 steps is nearer than what was for 30.
    pub const MANY_STEPS: usize = 60;

    const NAMES: [(&'static str, Preset); 6] = [
        ("fast", Preset::Fast),
        ("slow", Preset::Slow),
        ("released-fast", Preset::ReleasedFast),
        ("released-slow", Preset::ReleasedSlow),
        ("released-100", Preset::Released100),
        ("steps100", Preset::Released100),
    ];

    /// File name of a model's own preset for so many steps, in the folder `cache` of the model; `None` if models have none.
    pub fn file(self, steps: usize) -> Option<String> {
        match self {
            Preset::Fast => Some(format!("fast-{steps}.cache.json")),
            Preset::Slow => Some(format!("slow-{steps}.cache.json")),
            _ => None,
        }
    }

    fn released(self, steps: usize) -> Codebook {
        match self {
            Preset::Fast if steps >= Self::MANY_STEPS => Codebook::steps100(),
            Preset::Fast | Preset::ReleasedFast => Codebook::fast(),
            Preset::Slow | Preset::ReleasedSlow => Codebook::slow(),
            Preset::Released100 => Codebook::steps100(),
        }
    }
}

/// Where settings come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    Preset(Preset),
    Calibration(Box<Calibration>),
    Settings(Box<Settings>),
}

/// [`super::AdaCache`] as asked for; what is `None` is as its source has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    pub(super) from: Source,
    /// Distances to rates.
    pub codebook: Option<Codebook>,
    /// Which residual is measured.
    pub residual: Option<Residual>,
    /// Where.
    pub layers: Option<Layers>,
    /// How.
    pub distance: Option<Distance>,
    /// Whether motion regularization is on.
    pub moreg: Option<bool>,
    /// Frame strides of the motion score.
    pub strides: Option<Vec<usize>>,
    /// Steps at which motion counts.
    pub window: Option<(usize, usize)>,
    /// The motion score that leaves distances as they are.
    pub centre: Option<f64>,
    /// Weight of the change of the motion score.
    pub gradient: Option<f64>,
    /// Steps at the beginning that are always computed.
    pub head: Option<usize>,
    /// Steps at the end that are always computed.
    pub tail: Option<usize>,
    /// Order of the extrapolation.
    pub order: Option<usize>,
}

impl From<Preset> for Wish {
    fn from(preset: Preset) -> Self {
        Self::plain(Source::Preset(preset))
    }
}

impl From<Calibration> for Wish {
    fn from(calibration: Calibration) -> Self {
        Self::plain(Source::Calibration(Box::new(calibration)))
    }
}

impl Wish {
    fn plain(from: Source) -> Self {
        Self {
            from,
            codebook: None,
            residual: None,
            layers: None,
            distance: None,
            moreg: None,
            strides: None,
            window: None,
            centre: None,
            gradient: None,
            head: None,
            tail: None,
            order: None,
        }
    }

    /// Just these settings.
    pub fn of(settings: Settings) -> Self {
        Self::plain(Source::Settings(Box::new(settings)))
    }

    /// Reads options; `calibration` takes the place of a preset.
    ///
    /// # Errors
    /// [`Error::Request`] naming the option.
    pub(super) fn parse(options: &str, calibration: Option<Calibration>) -> Result<Self> {
        #[rustfmt::skip]
        let known = [
            "preset", "codebook", "layers", "residual", "distance", "moreg", "strides", "window", "centre", "gradient", "head", "tail", "order",
        ];
        let o = Options::parse(options, &known)?;
        let preset = o.one_of("preset", &Preset::NAMES)?;
        if preset.is_some() && calibration.is_some() {
            return Err(Error::request("cache preset", "and a calibration file both say it all; give one of them"));
        }
        let from = match calibration {
            Some(calibration) => Source::Calibration(Box::new(calibration)),
            None => Source::Preset(preset.unwrap_or_default()),
        };
        let residuals =
            [Residual::TemporalAttn, Residual::SpatialAttn, Residual::CrossMlp, Residual::Cross, Residual::Mlp];
        let places =
            [("start", Layers::Start), ("mid", Layers::Mid), ("end", Layers::End), ("multiple", Layers::Multiple)];
        let layers = match o.get("layers") {
            Some(word) if word.starts_with(|c: char| c.is_ascii_lowercase()) => o.one_of("layers", &places)?,
            _ => {
                let expected = "block numbers such as 13 or 0/13, or start, mid, end or multiple";
                o.list("layers", 0..=MOST, expected)?.map(Layers::These)
            }
        };
        let given = |key: &str| o.get(key).is_some();
        Ok(Self {
            codebook: o.get("codebook").map(parse_codebook).transpose()?,
            residual: o.one_of("residual", &residuals.map(|r| (r.name(), r)))?,
            layers,
            distance: o.one_of("distance", &[Distance::L1, Distance::L2, Distance::Cosine].map(|d| (d.name(), d)))?,
            moreg: given("moreg").then(|| o.switch("moreg")).transpose()?,
            strides: o.list("strides", 1..=MOST, "frame strides such as 1 or 1/2")?,
            window: o.range("window", "a range of steps such as 4-26")?,
            centre: given("centre").then(|| o.number("centre", 1e-6..=1e6, 1.0)).transpose()?,
            gradient: given("gradient").then(|| o.number("gradient", 0.0..=1e6, 0.0)).transpose()?,
            head: given("head").then(|| o.number("head", 1..=MOST, 1)).transpose()?,
            tail: given("tail").then(|| o.number("tail", 0..=MOST, 0)).transpose()?,
            order: given("order").then(|| o.number("order", 0..=MOST_ORDER, 0)).transpose()?,
            ..Self::plain(from)
        })
    }

    /// What the policy goes by in a run of so many steps.
    pub fn settings(&self, steps: usize) -> Settings {
        let (base, motion) = match &self.from {
            Source::Preset(preset) => (Settings::released(preset.released(steps)), MoReg::released(steps)),
            Source::Calibration(made) => (made.settings.clone(), made.moreg.clone()),
            Source::Settings(settings) => (Settings::clone(settings), MoReg::released(steps)),
        };
        let moreg = self.moreg.unwrap_or(base.moreg.is_some()).then(|| {
            let own = base.moreg.clone().unwrap_or(motion);
            MoReg {
                strides: self.strides.clone().unwrap_or(own.strides),
                window: self.window.unwrap_or(own.window),
                centre: self.centre.unwrap_or(own.centre),
                gradient: self.gradient.unwrap_or(own.gradient),
                ..own
            }
        });
        Settings {
            codebook: self.codebook.clone().unwrap_or(base.codebook),
            residual: self.residual.unwrap_or(base.residual),
            layers: self.layers.clone().unwrap_or(base.layers),
            distance: self.distance.unwrap_or(base.distance),
            moreg,
            head: self.head.unwrap_or(base.head),
            tail: self.tail.unwrap_or(base.tail),
            order: self.order.unwrap_or(base.order),
        }
    }

    /// Name of the file with a model's own preset for so many steps, if one is to be taken.
    pub(crate) fn own_file(&self, steps: usize) -> Option<String> {
        match &self.from {
            Source::Preset(preset) if self.codebook.is_none() => preset.file(steps),
            _ => None,
        }
    }

    /// The same over a calibration.
    pub(crate) fn calibrated(self, made: Calibration) -> Self {
        Self { from: Source::Calibration(Box::new(made)), ..self }
    }

    /// The calibration it comes from.
    pub(crate) fn calibration(&self) -> Option<&Calibration> {
        match &self.from {
            Source::Calibration(made) => Some(made),
            Source::Preset(_) | Source::Settings(_) => None,
        }
    }

    /// Where the codebook comes from, for people.
    pub fn origin(&self) -> String {
        match &self.from {
            _ if self.codebook.is_some() => "codebook as given".into(),
            Source::Settings(_) => "settings as given".into(),
            Source::Preset(_) => "released codebook".into(),
            Source::Calibration(made) => {
                format!("calibrated on {} at {} steps", made.made_for.model, made.made_for.steps)
            }
        }
    }
}

fn parse_codebook(text: &str) -> Result<Codebook> {
    let pair = |p: &str| {
        let (threshold, rate) = p.split_once(':')?;
        Some((threshold.trim().parse().ok()?, rate.trim().parse().ok()?))
    };
    let pairs = text
        .split('/')
        .map(|p| {
            pair(p).ok_or_else(|| {
                Error::request("cache codebook", format!("`{p}` is no threshold:rate pair such as 0.08:6"))
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Codebook::new(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &str) -> Settings {
        Wish::parse(options, None).unwrap_or_else(|e| panic!("{options}: {e}")).settings(30)
    }

    #[test]
    fn everything_is_as_released_unless_said() {
        assert_eq!(of(""), Settings::released(Codebook::fast()));
        assert_eq!(of("preset=slow").codebook, Codebook::slow());
        assert_eq!(Wish::from(Preset::Fast).settings(100).codebook, Codebook::steps100());
        assert_eq!(Wish::from(Preset::ReleasedFast).settings(100).codebook, Codebook::fast());
        let moreg = of("moreg=on,gradient=0,strides=1/2,window=3-9,centre=0.2").moreg.unwrap();
        let expected = MoReg { gradient: 0.0, strides: vec![1, 2], window: (3, 9), centre: 0.2, ..MoReg::released(30) };
        assert_eq!(moreg, expected);
    }

    #[test]
    fn the_ablations_of_the_paper() {
        let Settings { distance, layers, residual, tail, order, .. } =
            of("distance=cosine,layers=multiple,residual=mlp,tail=1,order=1");
        assert_eq!((distance, layers, residual), (Distance::Cosine, Layers::Multiple, Residual::Mlp));
        assert_eq!((tail, order), (1, 1));
        assert_eq!(of("layers=0/13").layers, Layers::These(vec![0, 13]));
    }
}
