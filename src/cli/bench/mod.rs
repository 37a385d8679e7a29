//! `residua bench`: how fast this adapter is.

mod kernels;

use super::args::{Bench, Talk};
use super::exit::Outcome;
use super::screen::Screen;

/// How much the verb is to say.
pub fn talk(args: &Bench) -> &Talk {
    match args {
        Bench::Kernels(args) => &args.talk,
    }
}

/// Runs the verb.
///
/// # Errors
/// No adapter, a filter that fits nothing, a kernel that is wrong.
pub fn run(args: &Bench, screen: &Screen) -> Outcome {
    match args {
        Bench::Kernels(args) => kernels::run(args, screen),
    }
}
