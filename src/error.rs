//! The one error type, grouped by who can act on it.

use std::path::PathBuf;

/// What can go wrong, named by who can do something about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that cannot be carried out as given: the caller changes it.
    #[error("{field}: {problem}")]
    Request {
        /// The field of the request (or flag of the command line).
        field: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// A checkpoint that is not what its configuration says.
    #[error("{}: {}{problem}", file.display(), tensor.as_ref().map(|t| format!("tensor `{t}` ")).unwrap_or_default())]
    Checkpoint {
        /// The file (or folder) at fault.
        file: PathBuf,
        /// The tensor at fault, if it is a single one.
        tensor: Option<String>,
        /// What is wrong: both sides and the likely cause.
        problem: String,
    },
    /// Something larger than the adapter (or a budget) allows.
    #[error("{what} needs {need}, but the limit is {have}")]
    Limit {
        /// The thing that does not fit.
        what: String,
        /// How much it needs, with its unit.
        need: String,
        /// How much there is, with its unit.
        have: String,
    },
    /// Memory ran out on the way: that of the adapter, or of a budget.
    #[error("memory on the adapter ran out: {need} more are needed; {have}")]
    OutOfMemory {
        /// How much was asked for, with its unit.
        need: String,
        /// How much there is, and what takes it.
        have: String,
    },
    /// No GPU and no software driver answered.
    #[error("no usable graphics adapter: {0}")]
    NoAdapter(String),
    /// The device was lost, or the driver reported a fault.
    #[error("the device was lost: {0}")]
    DeviceLost(String),
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// One of our shaders is wrong: a bug to report.
    #[error("shader {file}:{line}: {problem}")]
    Shader {
        /// File under `shaders/`.
        file: String,
        /// Line in that file, 1-based; 0 where unknown.
        line: u32,
        /// What naga said.
        problem: String,
    },
    /// The output could not be encoded.
    #[error("{what}: {problem}")]
    Encode {
        /// The format or file.
        what: String,
        /// What the encoder said.
        problem: String,
    },
    /// The caller asked to stop; nothing half-written is left behind.
    #[error("cancelled")]
    Cancelled,
}

/// Result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Shorthand for [`Error::Request`].
    pub fn request(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Request { field: field.into(), problem: problem.into() }
    }

    /// Shorthand for [`Error::Checkpoint`] about a whole file.
    pub fn checkpoint(file: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Error::Checkpoint { file: file.into(), tensor: None, problem: problem.into() }
    }

    /// Shorthand for [`Error::Io`].
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    /// A stable name for programs, as in the `--json` error event.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Request { .. } => "request.invalid",
            Error::Checkpoint { .. } => "checkpoint.invalid",
            Error::Limit { .. } => "memory.too_small",
            Error::OutOfMemory { .. } => "memory.out",
            Error::NoAdapter(_) => "device.none",
            Error::DeviceLost(_) => "device.lost",
            Error::Io { .. } => "file.io",
            Error::Shader { .. } => "shader.invalid",
            Error::Encode { .. } => "output.encode",
            Error::Cancelled => "cancelled",
        }
    }
}
