//! What a failure means to whoever started the program.

use residua::Error;

/// Exit codes. 0 is success.
pub mod code {
    pub const BUG: u8 = 1;
    pub const USE: u8 = 2;
    pub const INPUT: u8 = 3;
    pub const NO_ADAPTER: u8 = 4;
    pub const MEMORY: u8 = 5;
    pub const DEVICE: u8 = 6;
    pub const OUTPUT: u8 = 7;
    pub const INTERRUPTED: u8 = 130;
}

/// An error on its way out.
#[derive(Debug)]
pub struct Failure {
    pub exit: u8,
    /// A stable name, for programs.
    pub code: &'static str,
    pub message: String,
    /// What to do, where the message does not say it.
    pub hint: Option<String>,
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (exit, hint) = match &error {
            Error::Request { .. } => (code::USE, None),
            Error::Checkpoint { .. } | Error::Io { .. } => (code::INPUT, None),
            Error::NoAdapter(_) => (code::NO_ADAPTER, None),
            // most say what to ask for instead
            Error::Limit { have, .. } if have.contains("ask for") => (code::MEMORY, None),
            Error::Limit { .. } => {
                (code::MEMORY, Some("ask for fewer frames (-f) or a smaller size (-W, -H), or choose another --device"))
            }
            Error::OutOfMemory { .. } => (
                code::MEMORY,
                Some("--memory low needs the least; fewer frames (-f) or a smaller size (-W, -H) need less"),
            ),
            Error::DeviceLost(_) => (code::DEVICE, Some("try again, or with --device software or --kernels portable")),
            Error::Encode { .. } => (code::BUG, Some("are the weights damaged?")),
            Error::Cancelled => (code::INTERRUPTED, None),
            _ => (code::BUG, Some(REPORT)),
        };
        Self { exit, code: error.code(), message: error.to_string(), hint: hint.map(String::from) }
    }
}

const REPORT: &str = "this is a bug; please report it with this message and the output of `residua devices`";

impl Failure {
    /// A panic: its own message is on standard error already.
    pub fn bug() -> Self {
        Self {
            exit: code::BUG,
            code: "internal",
            message: "something that cannot happen did".into(),
            hint: Some(REPORT.into()),
        }
    }

    /// Wrong use of a flag.
    pub fn wrong(flag: &str, problem: impl Into<String>) -> Self {
        Error::request(flag, problem).into()
    }

    /// An error about something we were to read.
    pub fn input(error: Error) -> Self {
        Self { exit: code::INPUT, ..error.into() }
    }

    /// Something that was to be downloaded and could not be.
    #[cfg(feature = "download")]
    pub fn download(what: impl std::fmt::Display, problem: impl std::fmt::Display) -> Self {
        Self { exit: code::INPUT, code: "download.failed", message: format!("{what}: {problem}"), hint: None }
    }

    /// An error about something we were to write.
    pub fn output(error: Error) -> Self {
        let hint = match &error {
            Error::Request { problem, .. } if problem.contains("overwrite") => Some("--force replaces it"),
            Error::Io { .. } => Some("is there such a folder, with room, that may be written to?"),
            _ => None,
        };
        Self { exit: code::OUTPUT, hint: hint.map(String::from), ..error.into() }
    }

    /// With something else to do than usual.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}
