//! Open-Sora v1.2 at its true size, in files that take no room: names, shapes and types are those of the published
//! checkpoints, and the numbers are holes in the files, read as zeros.

#[path = "../published/mod.rs"]
mod published;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::tiny_model::made_once;
use published::Shapes;

/// The folder: made by the first who asks, and left for the next as long as this file stays as it is.
pub fn folder() -> &'static Path {
    static FOLDER: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    FOLDER.get_or_init(|| made_once::made_once("open-sora-1.2", include_str!("mod.rs"), write))
}

fn write(folder: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let part = |name: &str, config: serde_json::Value, shapes: &Shapes, dtype: &str| {
        let part = folder.join(name);
        std::fs::create_dir_all(&part).unwrap();
        std::fs::write(part.join("config.json"), config.to_string()).unwrap();
        hollow(&part.join("model.safetensors"), shapes, dtype);
    };
    use serde_json::json;
    let net = json!({
        "hidden_size": 1152, "depth": 28, "num_heads": 16, "mlp_ratio": 4.0, "in_channels": 4, "patch_size": [1, 2, 2],
        "caption_channels": 4096, "model_max_length": 300, "input_sq_size": 512, "pred_sigma": true, "qk_norm": true
    });
    part("transformer", net, &published::stdit3(), "F32");
    let vae = json!({"model_type": "VideoAutoencoderPipeline", "vae_temporal": {"type": "VAE_Temporal_SD"}});
    part("vae", vae, &published::vae(), "F32");
    let text = json!({
        "d_model": 4096, "d_kv": 64, "num_heads": 64, "d_ff": 10240, "num_layers": 24, "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu", "model_type": "t5"
    });
    part("text_encoder", text, &published::t5(), "BF16");
    std::fs::create_dir_all(folder.join("tokenizer")).unwrap();
    std::fs::copy(golden.join("t5/tokenizer/spiece.model"), folder.join("tokenizer/spiece.model")).unwrap();
}

/// A safetensors file whose numbers are a hole.
fn hollow(path: &Path, shapes: &Shapes, dtype: &str) {
    let size = if dtype == "F32" { 4 } else { 2 };
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let end = at + size * shape.iter().product::<usize>();
        header.insert(name.clone(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
}
