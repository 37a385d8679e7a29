//! The words of `--cache`: `name[:key=value,…]`, the same in configuration files.

use std::path::Path;

use super::adacache::MOST_ORDER;
use super::words::{Options, unknown};
use super::{
    AdaCache, CachePolicy, Calibration, DeltaDit, FbCache, Fixed, MagCache, Pab, Phase, Settings, TGate, TaylorSeer,
    TeaCache, Wish,
};
use crate::error::{Error, Result};

/// A cache policy as asked for, checked but not yet tied to a run.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum CacheSpec {
    /// Compute every step.
    #[default]
    Off,
    /// [`AdaCache`].
    AdaCache(Box<Wish>),
    /// [`DeltaDit`].
    DeltaDit(DeltaDit),
    /// [`FbCache`].
    FbCache(FbCache),
    /// [`Fixed`].
    Fixed(Fixed),
    /// [`MagCache`].
    MagCache(MagCache),
    /// [`Pab`].
    Pab(Pab),
    /// [`TaylorSeer`].
    TaylorSeer(TaylorSeer),
    /// [`TeaCache`].
    TeaCache(TeaCache),
    /// [`TGate`].
    TGate(TGate),
}

/// Reads the options of a policy.
type Read = fn(&str) -> Result<CacheSpec>;

const POLICIES: [(&str, Read); 10] = [
    ("adacache", adacache),
    ("delta-dit", delta_dit),
    ("fbcache", fbcache),
    ("file", file),
    ("magcache", magcache),
    ("pab", pab),
    ("static", fixed),
    ("taylorseer", taylorseer),
    ("teacache", teacache),
    ("tgate", tgate),
];

/// Most evaluations an interval, a warm-up or a window can speak of.
const MOST: usize = 10_000;

/// The model whose published constants are taken.
#[derive(Clone, Copy, PartialEq)]
enum Published {
    OpenSora,
    Latte,
    OpenSoraPlan,
}

const MODELS: [(&str, Published); 3] =
    [("open-sora", Published::OpenSora), ("latte", Published::Latte), ("open-sora-plan", Published::OpenSoraPlan)];

impl std::str::FromStr for CacheSpec {
    type Err = Error;

    /// # Errors
    /// [`Error::Request`] naming the unknown word and the nearest known one, or the value that is wrong.
    fn from_str(text: &str) -> Result<Self> {
        let (name, options) = text.trim().split_once(':').unwrap_or((text.trim(), ""));
        match POLICIES.iter().find(|(known, _)| *known == name) {
            Some((_, read)) => read(options),
            None if matches!(name, "off" | "none") => Options::parse(options, &[]).map(|_| CacheSpec::Off),
            None => {
                let known: Vec<&str> = std::iter::once("off").chain(POLICIES.iter().map(|(name, _)| *name)).collect();
                Err(unknown("policy", name, &known))
            }
        }
    }
}

impl CacheSpec {
    /// Where its settings come from, for people; `None` when off.
    pub fn origin(&self) -> Option<String> {
        match self {
            CacheSpec::Off => None,
            CacheSpec::AdaCache(wish) => Some(wish.origin()),
            _ => Some("as published or given".into()),
        }
    }

    /// What AdaCache goes by in a run of so many steps; `None` of other policies.
    pub fn settings(&self, steps: usize) -> Option<Settings> {
        match self {
            CacheSpec::AdaCache(wish) => Some(wish.settings(steps)),
            _ => None,
        }
    }

    /// Everything it goes by in a run of so many steps, in words that can be compared and not read back.
    pub(crate) fn identity(&self, steps: usize) -> String {
        self.settings(steps).map_or_else(|| format!("{self:?}"), |settings| format!("{settings:?}"))
    }

    /// The policy for a run of `steps`; `None` when off.
    pub fn build(&self, steps: usize) -> Option<Box<dyn CachePolicy>> {
        Some(match self {
            CacheSpec::Off => return None,
            CacheSpec::AdaCache(wish) => Box::new(AdaCache::new(wish.settings(steps))),
            CacheSpec::DeltaDit(policy) => Box::new(policy.clone()),
            CacheSpec::FbCache(policy) => Box::new(policy.clone()),
            CacheSpec::Fixed(policy) => Box::new(policy.clone()),
            CacheSpec::MagCache(policy) => Box::new(policy.clone()),
            CacheSpec::Pab(policy) => Box::new(policy.clone()),
            CacheSpec::TaylorSeer(policy) => Box::new(policy.clone()),
            CacheSpec::TeaCache(policy) => Box::new(policy.clone()),
            CacheSpec::TGate(policy) => Box::new(policy.clone()),
        })
    }
}

fn adacache(options: &str) -> Result<CacheSpec> {
    Ok(CacheSpec::AdaCache(Box::new(Wish::parse(options, None)?)))
}

/// `PATH[,options of adacache]`
fn file(words: &str) -> Result<CacheSpec> {
    let (path, options) = words.split_once(',').unwrap_or((words, ""));
    if path.is_empty() {
        return Err(Error::request(
            "cache file",
            "names no file; expected file:PATH, as `residua calibrate` writes it",
        ));
    }
    let made = Calibration::read(Path::new(path))?;
    Ok(CacheSpec::AdaCache(Box::new(Wish::parse(options, Some(made))?)))
}

fn fixed(options: &str) -> Result<CacheSpec> {
    let o = Options::parse(options, &["every", "mask"])?;
    let mark = |c: char| match c {
        '1' | '#' => Some(true),
        '0' | '.' => Some(false),
        _ => None,
    };
    let mask = o.parsed("mask", "a row of 1 or # (computed) and 0 or . (reused)", |v| v.chars().map(mark).collect())?;
    let every = o.number("every", 1..=MOST, 2)?;
    Ok(CacheSpec::Fixed(match mask {
        Some(_) if o.get("every").is_some() => {
            return Err(Error::request("cache static", "takes `every` or `mask`, not both"));
        }
        Some(mask) => Fixed::mask(mask)?,
        None => Fixed::every(every),
    }))
}

fn teacache(options: &str) -> Result<CacheSpec> {
    let o = Options::parse(options, &["threshold", "model", "coefficients"])?;
    let fitted = match o.one_of("model", &MODELS)?.unwrap_or(Published::OpenSora) {
        Published::OpenSora => TeaCache::OPEN_SORA,
        Published::Latte => TeaCache::LATTE,
        Published::OpenSoraPlan => TeaCache::OPEN_SORA_PLAN,
    };
    let expected = "five numbers divided by /, from x^4 to x^0";
    let given = o.parsed("coefficients", expected, |value| {
        let numbers: Option<Vec<f64>> =
            value.split('/').map(|n| n.trim().parse().ok().filter(|v: &f64| v.is_finite())).collect();
        <[f64; 5]>::try_from(numbers?).ok()
    })?;
    Ok(CacheSpec::TeaCache(TeaCache::new(o.number("threshold", 0.0..=1e3, 0.1)?, given.unwrap_or(fitted))))
}

fn fbcache(options: &str) -> Result<CacheSpec> {
    let o = Options::parse(options, &["threshold", "warmup", "order"])?;
    let (warmup, order) = (o.number("warmup", 0..=MOST, 0)?, o.number("order", 0..=MOST_ORDER, 0)?);
    Ok(CacheSpec::FbCache(FbCache::new(o.number("threshold", 0.0..=1e3, 0.08)?, warmup, order)))
}

fn magcache(options: &str) -> Result<CacheSpec> {
    let o = Options::parse(options, &["threshold", "most", "ratios"])?;
    let ratios = o.list("ratios", 1e-3..=1e3, "ratios such as 0.98/0.99/1, of the evaluations from the second on")?;
    let (threshold, most) = (o.number("threshold", 0.0..=1e3, 0.12)?, o.number("most", 1..=MOST, 3)?);
    Ok(CacheSpec::MagCache(MagCache::new(threshold, most, ratios)))
}

fn taylorseer(options: &str) -> Result<CacheSpec> {
    let o = Options::parse(options, &["every", "order", "first"])?;
    let (every, order) = (o.number("every", 1..=MOST, 5)?, o.number("order", 0..=MOST_ORDER, 1)?);
    Ok(CacheSpec::TaylorSeer(TaylorSeer::new(every, order, o.number("first", 1..=MOST, 1)?)))
}

fn pab(options: &str) -> Result<CacheSpec> {
    let o = Options::parse(options, &["preset", "model", "ranges", "window", "mlp", "blocks", "skip"])?;
    let expected = "three intervals, for spatial, temporal and cross-attention, such as 2/4/6";
    let given = o.list("ranges", 1..=MOST, expected)?.map(<[usize; 3]>::try_from).transpose();
    let given = given.map_err(|_| Error::request("cache ranges", format!("must be {expected}")))?;
    let model = o.one_of("model", &MODELS)?.unwrap_or(Published::OpenSora);
    let presets = match model {
        Published::Latte => [("slow", [2, 3, 6]), ("mid", [3, 4, 7]), ("fast", [4, 6, 9])],
        _ => [("slow", [2, 4, 6]), ("mid", [3, 5, 7]), ("fast", [5, 7, 9])],
    };
    let digits = presets.map(|(_, r)| r.map(|n| n.to_string()).concat());
    let by_digits = digits.iter().zip(presets).map(|(digits, (_, ranges))| (digits.as_str(), ranges));
    let named: Vec<(&str, [usize; 3])> = presets.into_iter().chain(by_digits).collect();
    let preset = o.one_of("preset", &named)?;
    let ranges = given.or(preset).unwrap_or(presets[0].1);
    let mut policy = match model {
        Published::OpenSora => Pab::open_sora(ranges),
        Published::Latte => Pab::latte(ranges),
        Published::OpenSoraPlan => Pab::open_sora_plan(ranges),
    };
    policy.window = o.range("window", "a range of timesteps such as 450-930")?.unwrap_or(policy.window);
    if o.get("mlp") == Some("off") {
        policy.mlp.clear();
    } else {
        policy.mlp = o.list("mlp", 0.0..=1000.0, "timesteps such as 864/788, or off")?.unwrap_or(policy.mlp);
    }
    policy.mlps = o.number("blocks", 0..=MOST, policy.mlps)?;
    policy.skip = o.number("skip", 1..=MOST, policy.skip)?;
    Ok(CacheSpec::Pab(policy))
}

fn tgate(options: &str) -> Result<CacheSpec> {
    let o = Options::parse(options, &["model", "gate", "until", "gap"])?;
    let mut policy = match o.one_of("model", &MODELS)?.unwrap_or(Published::OpenSora) {
        Published::OpenSora => TGate::open_sora(),
        Published::Latte => TGate::latte(),
        Published::OpenSoraPlan => TGate::open_sora_plan(),
    };
    policy.gate = o.number("gate", 0..=MOST, policy.gate)?;
    policy.until = o.number("until", 0..=MOST, if o.get("gate").is_some() { policy.gate } else { policy.until })?;
    policy.gap = o.number("gap", 1..=MOST, policy.gap)?;
    Ok(CacheSpec::TGate(policy))
}

fn delta_dit(options: &str) -> Result<CacheSpec> {
    let o = Options::parse(options, &["blocks", "window", "gap"])?;
    let pairs = o.ranges("blocks", "ranges of pairs such as 0-5, or 14-27/0-13 for two phases")?;
    let windows = o.ranges("window", "ranges of evaluations such as 0-5, or 0-14/15-29")?.unwrap_or(vec![(0, 5)]);
    if pairs.as_ref().is_some_and(|p| p.len() != windows.len()) {
        return Err(Error::request("cache window", "needs as many ranges as `blocks`, one for each phase"));
    }
    let phase = |(i, window): (usize, (usize, usize))| Phase {
        pairs: pairs.as_ref().map(|p| p[i].0..p[i].1.saturating_add(1)),
        window,
    };
    let phases = windows.into_iter().enumerate().map(phase).collect();
    Ok(CacheSpec::DeltaDit(DeltaDit::new(phases, o.number("gap", 1..=MOST, 2)?)))
}

#[cfg(test)]
mod tests {
    use super::super::{Layers, Residual};
    use super::*;

    #[test]
    fn the_grammar() {
        assert_eq!("off".parse::<CacheSpec>().unwrap(), CacheSpec::Off);
        let spec =
            "adacache:codebook=0.1:3/0.2:2/1.0:1,layers=0/13,residual=ca-mlp,moreg=on,window=3-9".parse().unwrap();
        let CacheSpec::AdaCache(wish) = spec else { panic!("{spec:?}") };
        let settings = wish.settings(30);
        assert_eq!(settings.codebook.pairs(), [(0.1, 3), (0.2, 2), (1.0, 1)]);
        assert_eq!((settings.residual, settings.layers), (Residual::CrossMlp, Layers::These(vec![0, 13])));
        assert_eq!(settings.moreg.map(|m| m.window), Some((3, 9)));
    }

    #[test]
    fn every_policy_has_settings() {
        let fixed = |mask: &[bool]| CacheSpec::Fixed(Fixed::mask(mask.to_vec()).unwrap());
        let pab = |policy: Pab, window, mlp: &[f64]| CacheSpec::Pab(Pab { window, mlp: mlp.to_vec(), ..policy });
        let phases = |p: [(usize, usize, usize, usize); 2]| {
            p.map(|(a, b, from, to)| Phase { pairs: Some(a..b), window: (from, to) }).to_vec()
        };
        for (text, meant) in [
            ("static", CacheSpec::Fixed(Fixed::every(2))),
            ("static:every=7", CacheSpec::Fixed(Fixed::every(7))),
            ("static:mask=##..1.0", fixed(&[true, true, false, false, true, false, false])),
            ("teacache", CacheSpec::TeaCache(TeaCache::new(0.1, TeaCache::OPEN_SORA))),
            ("teacache:threshold=0.2,model=latte", CacheSpec::TeaCache(TeaCache::new(0.2, TeaCache::LATTE))),
            (
                "teacache:coefficients=1/-2/3e1/0/.5",
                CacheSpec::TeaCache(TeaCache::new(0.1, [1.0, -2.0, 30.0, 0.0, 0.5])),
            ),
            ("fbcache:threshold=0.06,warmup=4,order=1", CacheSpec::FbCache(FbCache::new(0.06, 4, 1))),
            ("magcache:most=5,ratios=0.9/1", CacheSpec::MagCache(MagCache::new(0.12, 5, Some(vec![0.9, 1.0])))),
            ("taylorseer:every=3,order=2,first=4", CacheSpec::TaylorSeer(TaylorSeer::new(3, 2, 4))),
            ("pab", CacheSpec::Pab(Pab::open_sora([2, 4, 6]))),
            ("pab:preset=357", CacheSpec::Pab(Pab::open_sora([3, 5, 7]))),
            ("pab:preset=fast,model=latte", CacheSpec::Pab(Pab::latte([4, 6, 9]))),
            ("pab:ranges=2/2/3,window=100-900,mlp=off", pab(Pab::open_sora([2, 2, 3]), (100.0, 900.0), &[])),
            ("tgate:gate=9,gap=3", CacheSpec::TGate(TGate { gate: 9, until: 9, gap: 3, ..TGate::open_sora() })),
            ("delta-dit", CacheSpec::DeltaDit(DeltaDit::default())),
            (
                "delta-dit:blocks=14-27/0-13,window=0-14/15-29,gap=3",
                CacheSpec::DeltaDit(DeltaDit::new(phases([(14, 28, 0, 14), (0, 14, 15, 29)]), 3)),
            ),
        ] {
            assert_eq!(text.parse::<CacheSpec>().unwrap_or_else(|e| panic!("{text}: {e}")), meant, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("adacash", "did you mean `adacache`"),
            ("teacash", "did you mean `teacache`"),
            ("cache", "known: off, adacache, delta-dit"),
            ("off:every=2", "unknown `every`"),
            ("adacache:presets=fast", "did you mean `preset`"),
            ("adacache:preset=quick", "known: fast, slow, released-fast"),
            ("adacache:codebook=", "no threshold:rate pair"),
            ("adacache:codebook=0.2:2/0.1:1", "must ascend"),
            ("adacache:codebook=0.2:-2", "no threshold:rate pair"),
            ("adacache:layers=x", "known: start, mid"),
            ("adacache:layers=-1", "block numbers"),
            ("adacache:distance=l3", "did you mean `l1`"),
            ("adacache:moreg=maybe", "on or off"),
            ("file:", "names no file"),
            ("adacache:window=9-3", "range of steps"),
            ("static:every=0", "`0` is not a number from 1 to"),
            ("static:every=2,every=3", "given twice"),
            ("static:mask=1x", "row of 1 or #"),
            ("static:mask=", "must begin with a computed step"),
            ("static:mask=01", "must begin with a computed step"),
            ("static:mask=10,every=2", "not both"),
            ("teacache:treshold=0.1", "did you mean `threshold`"),
            ("teacache:threshold=-0.1", "a number from 0 to 1000"),
            ("teacache:threshold=nan", "a number from 0 to 1000"),
            ("teacache:coefficients=1/2/3", "five numbers"),
            ("teacache:model=late", "did you mean `latte`"),
            ("fbcache:order=9", "a number from 0 to 4"),
            ("magcache:ratios=1/0", "ratios such as"),
            ("pab:preset=247", "did you mean `246`"),
            ("pab:ranges=2/4", "three intervals"),
            ("pab:mlp=1200", "timesteps such as"),
            ("delta-dit:blocks=5-0", "ranges of pairs"),
            ("delta-dit:blocks=0-1/2-3", "as many ranges"),
        ] {
            let message = text.parse::<CacheSpec>().unwrap_err().to_string();
            assert!(message.contains(says), "{text}: {message}");
        }
    }
}
