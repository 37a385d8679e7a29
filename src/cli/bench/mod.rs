//! `residua bench`: how fast this adapter is.

pub mod args;
pub mod cache;
mod cases;
mod ceilings;
mod kernels;
pub mod measure;
mod model;
mod networks;
mod numbers;
mod table;
// what the tests of the kernels judge by, and where their numbers come from
#[allow(dead_code)]
#[path = "../../../tests/kernels/random.rs"]
mod random;
#[allow(dead_code)]
#[path = "../../../tests/reference/mod.rs"]
mod reference;

use residua::gpu::Gpu;
use serde_json::Value;

use super::args::{Bench, Talk};
use super::exit::Outcome;
use super::screen::Screen;

/// How much the verb is to say.
pub fn talk(args: &Bench) -> &Talk {
    match args {
        Bench::Kernels(args) => &args.talk,
        Bench::Table(args) => &args.talk,
        Bench::Model(args) => &args.talk,
        Bench::Cache(args) => &args.work.talk,
    }
}

/// Runs the verb.
///
/// # Errors
/// No adapter, a filter that fits nothing, a kernel that is wrong.
pub fn run(args: &Bench, screen: &Screen) -> Outcome {
    match args {
        Bench::Kernels(args) => kernels::run(args, screen),
        Bench::Table(args) => table::run(args, screen),
        Bench::Model(args) => model::run(args, screen),
        Bench::Cache(args) => cache::run(args, screen),
    }
}

/// Where a number was measured, for every line of results: adapter, driver, kernels, type, commit.
fn place(gpu: &Gpu) -> Value {
    let mut place = crate::cli::model::adapter(gpu);
    place["adapter"] = place["name"].take();
    if let Some(fields) = place.as_object_mut() {
        fields.remove("name");
    }
    place["commit"] = commit().into();
    place
}

/// The commit this was built from: `RESIDUA_COMMIT` when it runs, or when it was built.
fn commit() -> Option<String> {
    let told = std::env::var("RESIDUA_COMMIT").ok().filter(|c| !c.is_empty());
    told.or_else(|| option_env!("RESIDUA_COMMIT").map(String::from))
}

/// Two JSON objects as one.
fn joined(mut a: Value, b: Value) -> Value {
    if let (Some(a), Value::Object(b)) = (a.as_object_mut(), b) {
        a.extend(b);
    }
    a
}
