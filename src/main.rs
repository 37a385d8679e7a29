//! The `residua` program: words on a command line to a request, progress to a terminal, frames to a file.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
