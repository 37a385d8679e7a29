//! Running the program and looking at what it did.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program in a folder of its own, with nothing of the surroundings that could change what it does.
pub fn residua(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_residua"));
    command.current_dir(folder).stdin(Stdio::null());
    command.env("RESIDUA_CACHE_DIR", cache());
    let ours = ["RESIDUA_MODEL", "RESIDUA_MODELS", "RESIDUA_DEVICE", "RESIDUA_KERNELS", "RESIDUA_DTYPE", "RESIDUA_LOG"];
    for name in ours.into_iter().chain(["HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"]) {
        command.env_remove(name);
    }
    command.env("HF_HUB_CACHE", folder.join("hub"));
    command
}

/// A cache that begins empty with every run of a test program.
fn cache() -> &'static Path {
    static CACHE: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
    CACHE.get_or_init(|| {
        let name = concat!("cache-", env!("CARGO_CRATE_NAME"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&folder); // of an earlier one
        folder
    })
}

/// What a run left behind.
pub struct Ran {
    pub exit: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!err.contains("panicked"), "{err}");
        Self { exit: output.status.code().unwrap_or(-1), out: output.stdout, err }
    }
}

impl Ran {
    /// Standard output as text, without the last newline.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap().trim_end_matches('\n')
    }

    /// The same, if the run went well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.exit, 0, "{}", self.err);
        self
    }
}

/// Runs it to its end.
#[allow(dead_code)] // by some of the tests that share this file
pub fn run(folder: &Path, args: &[&str]) -> Ran {
    residua(folder).args(args).output().unwrap().into()
}

/// Runs it with something on standard input.
#[allow(dead_code)] // as above
pub fn run_with_input(folder: &Path, args: &[&str], input: &[u8]) -> Ran {
    let mut child =
        residua(folder).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // one that stops before it reads is no failure of the test
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap().into()
}

/// Names in a folder, sorted; none may be a file half-written.
#[allow(dead_code)] // as above
#[track_caller]
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(!names.iter().any(|n| n.contains(".part")), "{names:?}");
    names
}

/// A new folder that goes when dropped.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("residua-test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
