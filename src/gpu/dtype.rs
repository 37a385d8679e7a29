//! How numbers are stored.

/// How numbers are stored on the device. Arithmetic is f32 whatever the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision, two per 32-bit word; no device feature is needed to read it.
    F16,
}

impl DType {
    /// Bytes per number.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 => 2,
        }
    }
}

impl std::str::FromStr for DType {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "f32" => Ok(DType::F32),
            "f16" => Ok(DType::F16),
            _ => Err(format!("unknown number type `{s}`; known: f32, f16")),
        }
    }
}
