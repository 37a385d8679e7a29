//! The words of `residua convert`.

use std::path::PathBuf;

use clap::Args;
use residua::tensor::Stored;

use crate::cli::args::Talk;

pub const CONVERT_HELP: &str = "Examples:
  residua convert weights/open-sora-v1.2 -o weights/open-sora-int8 --part text_encoder=int8 --part transformer=f16
  residua convert weights/open-sora-v1.2/text_encoder -o text_encoder-int8 --dtype int8
  residua convert pytorch_model.bin -o model.safetensors";

#[derive(Args)]
pub struct Convert {
    /// A file of weights, the folder of one part of a model, or a whole model folder
    #[arg(value_name = "FROM")]
    pub from: PathBuf,
    /// A file (.safetensors), or a folder that is made; files beside weights are copied into it
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// How numbers are kept: f32, f16, bf16, int8; as they are if not given
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Stored>,
    /// The same of one part of a model, such as text_encoder=int8; once for each
    #[arg(long = "part", value_name = "PART=TYPE", value_parser = part)]
    pub parts: Vec<(String, Stored)>,
    /// Larger parts of a folder become several files
    #[arg(long, value_name = "SIZE", default_value = "5GiB", value_parser = bytes)]
    pub shard_size: u64,
    /// Replace a file, or a folder that was made by this command
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub talk: Talk,
}

fn part(text: &str) -> Result<(String, Stored), String> {
    let (name, to) = text.split_once('=').ok_or("expected a part and a type, such as text_encoder=int8")?;
    Ok((name.into(), to.parse()?))
}

/// `5GiB`, `500 MB`, or a number of bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected a size such as 5GiB or 500MiB, got `{text}`");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: f64 = match unit.trim().to_lowercase().as_str() {
        "" | "b" => 1.0,
        "kib" => 1024.0,
        "mib" => 1024f64.powi(2),
        "gib" => 1024f64.powi(3),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => return Err(wrong()),
    };
    let size = number.parse::<f64>().map_err(|_| wrong())? * unit;
    if (1.0..1e18).contains(&size) { Ok(size as u64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_parts() {
        assert_eq!(bytes("5GiB"), Ok(5 << 30));
        assert_eq!(bytes("1.5 kb"), Ok(1500));
        assert_eq!(bytes("77"), Ok(77));
        for wrong in ["", "GiB", "5 parsecs", "0", "-1GiB", "1e99GiB", "1.2.3MB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(part("vae=bf16"), Ok(("vae".into(), Stored::Bf16)));
        assert!(part("vae").is_err() && part("vae=int4").is_err());
    }
}
