//! The command line. Standard output carries data (paths, JSON, the video itself); standard error is for people.

mod args;
mod bench;
mod calibrate;
mod convert;
mod decode;
mod devices;
mod exit;
mod generate;
mod given;
mod info;
mod lab;
mod latents;
mod list;
mod model;
mod output;
mod pace;
mod prompts;
mod pull;
mod recipe;
mod report;
mod screen;
mod signals;
mod words;

use std::io::Write;
use std::process::ExitCode;

use args::{Cli, Verb};
use clap::Parser;
use exit::Failure;
use screen::Screen;

/// Runs the program and says how it went, as its exit code.
pub fn main() -> ExitCode {
    runtime_folder();
    let cli = Cli::parse();
    let talk = match &cli.verb {
        Verb::Generate(args) => &args.talk,
        Verb::Resume(args) => &args.talk,
        Verb::Decode(args) => &args.talk,
        Verb::Info(args) => &args.talk,
        Verb::Convert(args) => &args.talk,
        Verb::Pull(args) => &args.talk,
        Verb::List(args) => &args.talk,
        Verb::Devices(args) => &args.talk,
        Verb::Bench(args) => bench::talk(args),
        Verb::Calibrate(args) => &args.work.talk,
    };
    start_log(talk.quiet, talk.verbose);
    let screen = Screen::new(talk.quiet, talk.json);
    let run = || match &cli.verb {
        Verb::Generate(args) => generate::run(args, &screen),
        Verb::Resume(args) => generate::resume(args, &screen),
        Verb::Decode(args) => decode::run(args, &screen),
        Verb::Info(args) => info::run(args, &screen),
        Verb::Convert(args) => convert::run(args, &screen),
        Verb::Pull(args) => pull::run(args, &screen),
        Verb::List(args) => list::run(args, &screen),
        Verb::Devices(args) => devices::run(args, &screen),
        Verb::Bench(args) => bench::run(args, &screen),
        Verb::Calibrate(args) => calibrate::run(args, &screen),
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let failure = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(failure)) => failure,
        Err(_) => Failure::bug(),
    };
    screen.failure(&failure);
    ExitCode::from(failure.exit)
}

/// Some drivers complain on standard error, whatever we do with them, if this variable is missing.
fn runtime_folder() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: the first thing the program does, before any other thread exists.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
}

/// Log lines go to standard error, above the progress bar. `RESIDUA_LOG` has the syntax of `env_logger`.
fn start_log(quiet: bool, verbose: u8) {
    let ours = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    // the layers below tell their own developers more than our users
    let below = if quiet { "error" } else { "warn" };
    env_logger::Builder::new()
        .parse_filters(&format!("{below},residua={ours}"))
        .parse_env("RESIDUA_LOG")
        .format(|out, record| {
            let level = record.level().as_str().to_lowercase();
            match record.level() {
                log::Level::Error | log::Level::Warn => writeln!(out, "{level}: {}", record.args()),
                _ => writeln!(out, "{level} {}: {}", record.target(), record.args()),
            }
        })
        .target(env_logger::Target::Pipe(Box::new(screen::AboveBar)))
        .init();
}
