//! The codebook that loses least at a given pace, or is fastest at a given loss.

use super::{Recording, Replay};
use crate::cache::{Codebook, Settings};
use crate::error::{Error, Result};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// The least error with at most this share of steps computed.
    Share(f64),
    /// The fewest steps computed with a mean of ln error of at most this.
    LnError(f64),
}

/// How it is looked for.
#[derive(Clone, Debug)]
pub struct Search {
    /// Everything but the codebook; of several, the one that does best.
    pub variants: Vec<Settings>,
    /// The largest rate.
    pub most: usize,
    /// Starts of the descent; the same seed finds the same.
    pub starts: usize,
    /// Of the starts.
    pub seed: u64,
}

/// A codebook and how it would do.
#[derive(Clone, Debug)]
pub struct Found {
    /// The settings with it.
    pub settings: Settings,
    /// Mean share of steps computed.
    pub share: f64,
    /// Mean of ln error.
    pub ln_error: f64,
}

/// Thresholds are taken at so many quantiles of the recorded distances.
const GRID: usize = 48;

/// Finds a codebook over some recordings: rates from `most` down to 1, a threshold for each, moved one at a time until none
/// improves, from several starts, for each of the variants.
///
/// # Errors
/// [`Error::Request`] if there is nothing to learn from, or the settings do not fit.
pub fn search(recordings: &[Recording], search: &Search, goal: Goal) -> Result<Found> {
    let mut seen: Vec<f64> = Vec::new();
    for recording in recordings {
        for i in 0..recording.run().evaluations() {
            let paced = recording.distances(i).iter().enumerate().take(search.most);
            seen.extend(paced.map(|(age, d)| d / (age + 1) as f64).filter(|d| d.is_finite()));
        }
    }
    if seen.is_empty() || search.most < 2 {
        return Err(Error::request("calibration", "has no recorded distances, or no rate above 1 to choose"));
    }
    seen.sort_by(f64::total_cmp);
    let at = |q: usize| rounded(seen[q * (seen.len() - 1) / (GRID - 1)]);
    let mut grid: Vec<f64> = (0..GRID).map(at).collect();
    // below everything, so that a rate can be left out; above everything
    grid.insert(0, 0.0);
    grid.push(rounded(2.0 * seen[seen.len() - 1]));
    grid.dedup();

    let mut best: Option<(f64, Settings)> = None;
    for variant in &search.variants {
        let (cost, settings) = descend(recordings, search, variant, &grid, goal)?;
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, settings));
        }
    }
    match best {
        Some((_, settings)) => found(recordings, settings),
        None => Err(Error::request("calibration", "has no settings to choose from")),
    }
}

/// The best codebook of one variant, with its cost.
fn descend(
    recordings: &[Recording],
    search: &Search,
    variant: &Settings,
    grid: &[f64],
    goal: Goal,
) -> Result<(f64, Settings)> {
    let (levels, mut random) = (search.most - 1, search.seed);
    let of = |places: &[usize]| Settings { codebook: codebook(search.most, grid, places), ..variant.clone() };
    let mut best: Option<(f64, Vec<usize>)> = None;
    for start in 0..search.starts.max(1) {
        let mut places: Vec<usize> = (0..levels)
            .map(|level| {
                random = super::mixed(random);
                // the first start is a ladder over the whole grid
                if start == 0 { (level + 1) * (grid.len() - 1) / levels } else { random as usize % grid.len() }
            })
            .collect();
        places.sort_unstable();
        let mut cost = cost(recordings, &of(&places), goal)?;
        let mut moved = true;
        while moved {
            moved = false;
            for level in 0..levels {
                let low = if level == 0 { 0 } else { places[level - 1] };
                let high = places.get(level + 1).copied().unwrap_or(grid.len() - 1);
                for place in low..=high {
                    let own = std::mem::replace(&mut places[level], place);
                    let other = self::cost(recordings, &of(&places), goal)?;
                    if other < cost {
                        (cost, moved) = (other, true);
                    } else {
                        places[level] = own;
                    }
                }
            }
        }
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, places));
        }
    }
    let (cost, places) = best.unwrap_or_default();
    Ok((cost, of(&places)))
}

/// How settings would do on the mean of some recordings.
///
/// # Errors
/// If they do not fit a run.
pub fn found(recordings: &[Recording], settings: Settings) -> Result<Found> {
    let replays = recordings.iter().map(|r| r.adacache(&settings)).collect::<Result<Vec<Replay>>>()?;
    let mean = |of: &dyn Fn(&Replay) -> f64| replays.iter().map(of).sum::<f64>() / replays.len() as f64;
    let share = mean(&|r| r.count() as f64 / r.computed.len() as f64);
    // nothing reused has no error: as good as can be, and still a number
    let ln_error = mean(&|r| r.error.max(1e-12).ln());
    Ok(Found { settings, share, ln_error })
}

/// The bound first, then what is to be least.
fn cost(recordings: &[Recording], settings: &Settings, goal: Goal) -> Result<f64> {
    const STEEP: f64 = 1e6;
    let Found { share, ln_error, .. } = found(recordings, settings.clone())?;
    Ok(match goal {
        Goal::Share(most) => ln_error + STEEP * (share - most).max(0.0),
        // between codebooks that compute as much, the one that loses less
        Goal::LnError(most) => share + 1e-3 * ln_error + STEEP * (ln_error - most).max(0.0),
    })
}

/// The codebook whose thresholds stand at these places: of the largest rate first. Rates that no distance can have are left
/// out.
fn codebook(most: usize, grid: &[f64], places: &[usize]) -> Codebook {
    let mut pairs: Vec<(f64, usize)> = Vec::new();
    for (level, &place) in places.iter().enumerate() {
        let (threshold, rate) = (grid[place], most - level);
        if threshold > pairs.last().map_or(0.0, |(t, _)| *t) {
            pairs.push((threshold, rate));
        }
    }
    let above = pairs.last().map_or(1.0, |(t, _)| (2.0 * t).max(1.0));
    pairs.push((above, 1));
    Codebook::new(pairs).expect("thresholds of a grid ascend")
}

/// To three digits: more would speak of this run alone.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::super::tests::even;
    use super::*;

    fn search_for(recordings: &[Recording], variants: Vec<Settings>, goal: Goal) -> Found {
        search(recordings, &Search { variants, most: 6, starts: 4, seed: 1 }, goal).unwrap()
    }

    /// Changes fast at first, then slowly.
    fn falling(steps: usize) -> Recording {
        even(steps, 12, |i| 0.3 / (1.0 + i as f64))
    }

    #[test]
    fn a_bound_on_work_is_kept_and_more_work_loses_less() {
        let recordings = [falling(30), even(30, 12, |i| 0.2 / (1.0 + i as f64))];
        let released = || vec![Settings::released(Codebook::fast())];
        let few = search_for(&recordings, released(), Goal::Share(0.34));
        let many = search_for(&recordings, released(), Goal::Share(0.6));
        assert!(few.share <= 0.34 && many.share <= 0.6, "{few:?} {many:?}");
        assert!(many.ln_error < few.ln_error - 0.2, "{few:?} {many:?}");
        // no worse than the released codebook at the work that one does
        let by_hand = found(&recordings, Settings::released(Codebook::fast())).unwrap();
        let own = search_for(&recordings, released(), Goal::Share(by_hand.share));
        assert!(own.ln_error <= by_hand.ln_error + 1e-9, "{own:?} {by_hand:?}");
    }

    #[test]
    fn a_bound_on_error_is_kept_with_little_work() {
        let recordings = [falling(30)];
        let goal = found(&recordings, Settings::released(Codebook::slow())).unwrap();
        let own = search_for(&recordings, vec![Settings::released(Codebook::fast())], Goal::LnError(goal.ln_error));
        assert!(own.ln_error <= goal.ln_error && own.share <= goal.share, "{own:?} {goal:?}");
    }

    #[test]
    fn the_best_variant_is_taken() {
        // its first steps differ most: a head pays
        let recordings = [even(30, 12, |i| if i < 5 { 0.5 } else { 0.01 })];
        let variants = [1, 5].map(|head| Settings { head, tail: 1, ..Settings::released(Codebook::fast()) });
        assert_eq!(search_for(&recordings, variants.to_vec(), Goal::Share(0.4)).settings.head, 5);
        let search = Search { variants: vec![], most: 6, starts: 1, seed: 1 };
        assert!(super::search(&recordings, &search, Goal::Share(0.5)).is_err());
    }
}
