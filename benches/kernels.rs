//! `cargo bench --bench kernels [-- --filter PART] [--json] …`: the program's `bench kernels`, built first.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // cargo adds a word of its own
    let words = std::env::args().skip(1).filter(|w| w != "--bench");
    let status = Command::new(env!("CARGO_BIN_EXE_residua")).args(["bench", "kernels"]).args(words).status();
    match status {
        Ok(status) => status.code().and_then(|c| u8::try_from(c).ok()).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(problem) => {
            eprintln!("the program would not start: {problem}");
            ExitCode::FAILURE
        }
    }
}
