//! Mask strategies: which given frames go where in a video, and how far each may be changed.
//!
//! A strategy is `group(;group)*`, a group `loop,reference,reference start,target start,length,edit ratio`; fields
//! left out at the end are `0,0,0,0,1,0`. Starts are latent frames and may count from the end (negative). "0" makes
//! the first reference the first frame; "0,0,0,0,15,0.4" edits a whole clip.
//!
//! Source: opensora/utils/inference_utils.py (`parse_mask_strategy`, `apply_mask_strategy`, `append_generated`) at
//! tag v1.2.0.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Given frames start at multiples of this many latent frames in the released configurations.
pub const ALIGN: usize = 5;

/// One group of a mask strategy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Clip of a long video it applies to, 0-based.
    pub at_loop: i64,
    /// Which reference, 0-based; negative counts from the last.
    pub reference: i64,
    /// First latent frame taken from the reference; negative counts from its end.
    pub ref_start: i64,
    /// Latent frame of the video it goes to; negative counts from its end.
    pub target_start: i64,
    /// Latent frames, at most; cut to what the reference and the video hold.
    pub length: i64,
    /// 0: kept as given. Between 0 and 1: noised to this level and regenerated. 1: generated as usual.
    pub edit: f64,
}

impl Group {
    /// The group that carries the last `length` latent frames of the clip before into the start of clip `at_loop`,
    /// once that clip has become reference number `reference`.
    pub fn continuation(at_loop: usize, reference: usize, length: usize, edit: f64) -> Self {
        let (at_loop, reference, length) = (at_loop as i64, reference as i64, length as i64);
        Self { at_loop, reference, ref_start: -length, target_start: 0, length, edit }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_loop, reference, ref_start, target_start, length, edit } = self;
        write!(f, "{at_loop},{reference},{ref_start},{target_start},{length},{edit:?}")
    }
}

/// Latent frames to copy: `video[target_start..][..length] = references[reference][ref_start..][..length]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Copy {
    /// Index of the reference.
    pub reference: usize,
    /// First latent frame of the reference.
    pub ref_start: usize,
    /// First latent frame of the video.
    pub target_start: usize,
    /// Latent frames, at least 1.
    pub length: usize,
    /// Edit ratio of these frames, 0 to 1; what [`Plan::mask`] holds for them, unless a later copy overwrites it.
    pub edit: f64,
}

/// What a strategy means for one clip.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Copies in order; a later one may overwrite an earlier one.
    pub copies: Vec<Copy>,
    /// Per latent frame of the clip: 1 generate, 0 keep, between: the edit ratio.
    pub mask: Vec<f32>,
}

/// Reads a mask strategy; the empty string has no groups.
///
/// # Errors
/// [`Error::Request`] for an empty group, more than six fields, a field that is not a number, a negative length, or an
/// edit ratio outside 0 to 1.
pub fn parse(strategy: &str) -> Result<Vec<Group>> {
    if strategy.is_empty() {
        return Ok(Vec::new());
    }
    strategy.split(';').map(parse_group).collect()
}

fn parse_group(text: &str) -> Result<Group> {
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    if fields.len() > 6 {
        return Err(problem(text, format!("has {} fields, at most 6 are known", fields.len())));
    }
    let whole = |i: usize, default: i64| field(text, &fields, i, default);
    let group = Group {
        at_loop: whole(0, 0)?,
        reference: whole(1, 0)?,
        ref_start: whole(2, 0)?,
        target_start: whole(3, 0)?,
        length: whole(4, 1)?,
        edit: field(text, &fields, 5, 0.0)?,
    };
    if group.length < 0 {
        return Err(problem(text, format!("has length {}, it cannot be negative", group.length)));
    }
    if !(0.0..=1.0).contains(&group.edit) {
        return Err(problem(text, format!("has edit ratio {}, it lies between 0 and 1", group.edit)));
    }
    Ok(group)
}

fn field<T: FromStr>(text: &str, fields: &[&str], i: usize, default: T) -> Result<T> {
    let Some(word) = fields.get(i) else { return Ok(default) };
    word.parse().map_err(|_| problem(text, format!("has `{word}` as field {} of 6, a number is needed", i + 1)))
}

/// What `groups` mean for clip `at_loop` of `frames` latent frames, with references of `reference_frames` latent
/// frames each. `align` (see [`ALIGN`]) moves both starts to the nearest multiple; `None` takes them as they are.
///
/// # Errors
/// [`Error::Request`] for a reference that is not there, or a start outside the reference or the video.
pub fn apply(
    groups: &[Group],
    at_loop: usize,
    frames: usize,
    reference_frames: &[usize],
    align: Option<usize>,
) -> Result<Plan> {
    let mut plan = Plan { copies: Vec::new(), mask: vec![1.0; frames] };
    for group in groups.iter().filter(|g| usize::try_from(g.at_loop) == Ok(at_loop)) {
        let text = group.to_string();
        let reference = from_end(group.reference, reference_frames.len()).ok_or_else(|| {
            problem(&text, format!("asks for a reference, of which there are {}", reference_frames.len()))
        })?;
        let held = reference_frames[reference];
        let start = |start: i64, length: usize, of: &str| {
            from_end(start, length)
                .map(|start| align.filter(|&a| a > 0).map_or(start, |align| near(start, align, length)))
                .ok_or_else(|| {
                    problem(&text, format!("starts at frame {start} of {of}, which has {length} latent frames"))
                })
        };
        let ref_start = start(group.ref_start, held, "its reference")?;
        let target_start = start(group.target_start, frames, "the video")?;
        let length = usize::try_from(group.length).unwrap_or(0).min(frames - target_start).min(held - ref_start);
        if length > 0 {
            plan.mask[target_start..target_start + length].fill(group.edit as f32);
            plan.copies.push(Copy { reference, ref_start, target_start, length, edit: group.edit });
        }
    }
    Ok(plan)
}

/// An index that may count from the end, as one from the start; `None` outside 0..length.
fn from_end(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    let index = if index < 0 { index.checked_add(length)? } else { index };
    (0..length).contains(&index).then_some(index as usize)
}

/// The multiple of `align` nearest to `value`, ties and the last incomplete stretch rounded down; never above `value`
/// by more than what stays below `max`.
fn near(value: usize, align: usize, max: usize) -> usize {
    let up = 2 * (value % align) > align && value / align + 1 < max / align;
    (value / align + usize::from(up)) * align
}

fn problem(group: &str, what: String) -> Error {
    Error::request("mask strategy", format!("group `{group}` {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_spaces() {
        assert!(parse("").unwrap().is_empty());
        let first = Group { at_loop: 0, reference: 0, ref_start: 0, target_start: 0, length: 1, edit: 0.0 };
        assert_eq!(parse("0").unwrap(), [first]);
        assert_eq!(parse(" 0 , 0;0,1,0,-1,1").unwrap()[1], Group { reference: 1, target_start: -1, ..first });
    }

    #[test]
    fn hostile_strategies_are_refused() {
        let long = "9".repeat(100_000);
        for bad in
            [";", "0;", "a", "0,,0", "0,0,0,0,0,0,0", "0,0,0,0,-1", "0,0,0,0,1,nan", "0,0,0,0,1,1.5", &long, "1.5"]
        {
            assert!(matches!(parse(bad), Err(Error::Request { .. })), "{bad:.20}");
        }
        for bad in ["0,1", "0,-2", "0,0,-9", "0,0,9", "0,0,0,15", "0,0,0,-16", "0,0,-9223372036854775808"] {
            assert!(apply(&parse(bad).unwrap(), 0, 15, &[5], Some(5)).is_err(), "{bad}");
        }
        assert!(apply(&parse("0,0,0,0,9223372036854775807").unwrap(), 0, 15, &[5], None).is_ok());
    }

    #[test]
    fn starts_move_to_multiples() {
        assert_eq!([0, 2, 3, 7, 8, 12, 13, 14].map(|v| near(v, 5, 15)), [0, 0, 5, 5, 10, 10, 10, 10]);
        let plan = apply(&parse("0,0,0,-1,1").unwrap(), 0, 15, &[1], Some(ALIGN)).unwrap();
        assert_eq!(plan.copies[0].target_start, 10);
        let plan = apply(&parse("0,0,0,-1,1").unwrap(), 0, 15, &[1], None).unwrap();
        assert_eq!(plan.copies[0].target_start, 14);
    }

    #[test]
    fn continuing_a_clip() {
        let group = Group::continuation(1, 0, 5, 0.0);
        assert_eq!(group.to_string(), "1,0,-5,0,5,0.0");
        assert_eq!(parse(&group.to_string()).unwrap(), [group]);
        let plan = apply(&[group], 1, 15, &[15], Some(ALIGN)).unwrap();
        assert_eq!(plan.copies, [Copy { reference: 0, ref_start: 10, target_start: 0, length: 5, edit: 0.0 }]);
        assert!(apply(&[group], 0, 15, &[], Some(ALIGN)).unwrap().copies.is_empty(), "another clip's group");
    }
}
