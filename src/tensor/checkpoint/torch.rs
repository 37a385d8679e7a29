//! Files of `torch.save`: a zip archive of storages, and a pickle that says which tensors are in them.
//! Source: torch's `torch/serialization.py` at v2.6.

use std::collections::HashSet;

use super::pickle::{Pickle, View};
use super::zip::{AGAIN, Archive};
use super::{Fault, Found, Layout};

/// How a file of `torch.save` begins, since torch 1.6.
const ZIP: &[u8] = b"PK\x03\x04";
/// How it began before: a pickled number first.
const OLD: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Most tensors: some hundred times what published checkpoints have.
const TENSORS: usize = 200_000;

/// Whether this is such a file.
pub(super) fn is_ours(file: &[u8]) -> bool {
    file.starts_with(ZIP) || file.starts_with(OLD)
}

/// The tensors of a file.
pub(super) fn read(file: &[u8]) -> Result<Vec<Found>, Fault> {
    if file.starts_with(OLD) {
        let problem =
            "was written in the format of torch before 1.6, expected the zip format: load and save it in torch";
        return Err(Fault::of_file(problem));
    }
    let archive = Archive::open(file)?;
    let mut roots = archive.names().filter_map(|name| name.strip_suffix("/data.pkl")).filter(|top| !top.contains('/'));
    let (Some(top), None) = (roots.next(), roots.next()) else {
        return Err(Fault::of_file("is a zip archive, but not of torch: expected one folder in it with a `data.pkl`"));
    };
    if let Some(order) = archive.checked(&format!("{top}/byteorder"))?
        && order != b"little"
    {
        let order = String::from_utf8_lossy(&order[..order.len().min(16)]).into_owned();
        return Err(Fault::of_file(format!(
            "has numbers in the byte order `{}`, expected `little`: save it again on a little-endian machine",
            order.escape_debug()
        )));
    }
    let code = archive.checked(&format!("{top}/data.pkl"))?.unwrap_or_default();
    let within = |problem: String| Fault::of_file(format!("has a pickle (`{top}/data.pkl`) that {problem}"));
    let pickle = Pickle::read(code).map_err(within)?;
    let tensors = pickle.tensors().map_err(within)?;
    if tensors.len() > TENSORS {
        return Err(within(format!("names {} tensors, more than {TENSORS}", tensors.len())));
    }
    let (mut seen, mut found) = (HashSet::new(), Vec::with_capacity(tensors.len()));
    for (name, view) in tensors {
        let at = |problem: String| Fault { tensor: Some(name.into()), problem };
        if !seen.insert(name) {
            return Err(at(format!("is in the file twice; {AGAIN}")));
        }
        let layout = layout(view, |key| archive.place(&format!("{top}/data/{key}"))).map_err(at)?;
        found.push((name.to_string(), layout));
    }
    Ok(found)
}

/// Where the numbers of a tensor are, after a check of everything the pickle says about them.
fn layout(view: &View, place: impl Fn(&str) -> Option<std::ops::Range<usize>>) -> Result<Layout, String> {
    let View { storage, offset, shape, strides } = view;
    let (key, dtype) = (storage.key.escape_debug(), storage.dtype);
    let size = dtype.bitsize() / 8;
    let place = place(storage.key)
        .ok_or_else(|| format!("has its numbers in `data/{key}`, which the file does not hold; {AGAIN}"))?;
    let count = usize::try_from(storage.count).ok().filter(|n| n.checked_mul(size) == Some(place.len()));
    let stored = count.ok_or_else(|| {
        format!("needs {} numbers ({dtype:?}) in `data/{key}`, which has {} bytes; {AGAIN}", storage.count, place.len())
    })?;

    let whole = |of: &[i64]| of.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<usize>>>();
    let (Some(sizes), Some(steps), Ok(first)) = (whole(shape), whole(strides), usize::try_from(*offset)) else {
        return Err(format!("is {shape:?} by strides {strides:?} from {offset}, and none of them may be negative"));
    };
    let count = sizes.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    let last = sizes
        .iter()
        .zip(&steps)
        .filter(|(size, _)| **size > 0)
        .try_fold(first, |last, (size, step)| (size - 1).checked_mul(*step).and_then(|by| last.checked_add(by)));
    let outside = || {
        format!("is {shape:?} by strides {strides:?} from {offset}, which leaves the {stored} numbers of `data/{key}`")
    };
    let (count, last) = count.zip(last).ok_or_else(outside)?;
    if count == 0 && first <= stored {
        return Ok(Layout { dtype, shape: sizes, strides: None, bytes: place.start..place.start });
    }
    if last >= stored {
        return Err(outside());
    }
    if count > stored {
        return Err(format!(
            "repeats {stored} numbers as {count} (strides {strides:?}), which no weights do; save a plain copy of it"
        ));
    }
    let mut step = 1;
    let dense = sizes.iter().zip(&steps).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == step;
        step *= size;
        fits
    });
    let bytes = place.start + first * size..place.start + (last + 1) * size;
    Ok(Layout { dtype, shape: sizes, strides: (!dense).then_some(steps), bytes })
}
