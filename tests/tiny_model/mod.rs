//! A whole model folder that takes milliseconds to load: random transformer, and the small encoder, autoencoder and
//! tokenizer that the parity tests use. Its videos are noise, but the same noise every time.

#[path = "../made_once/mod.rs"]
pub mod made_once;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;

const WIDTH: usize = 24;
const HEADS: usize = 2;
pub const DEPTH: usize = 2;
/// Width of the text encoder in `tests/golden/t5/model_a`.
const CAPTION: usize = 64;
const TOKENS: usize = 24;

/// Default size and length of its videos: 2 chunks of the autoencoder, the second a short one.
pub const SIZE: usize = 32;
pub const FRAMES: usize = 21;

/// The folder: made by the first who asks, and left for the next as long as this file stays as it is.
pub fn folder() -> &'static Path {
    static FOLDER: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    FOLDER.get_or_init(|| made_once::made_once("tiny-model", include_str!("mod.rs"), write))
}

/// Writes the folder.
pub fn write(folder: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let copies = [
        ("t5/model_a/config.json", "text_encoder/config.json"),
        ("t5/model_a/model.safetensors", "text_encoder/model.safetensors"),
        ("t5/tokenizer/spiece.model", "tokenizer/spiece.model"),
        ("vae/osv12_b/config.json", "vae/config.json"),
        ("vae/osv12_b/model.safetensors", "vae/model.safetensors"),
        ("vae/osv12_b/vae_2d/config.json", "vae/vae_2d/config.json"),
    ];
    for (from, to) in copies {
        let to = folder.join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(golden.join(from), &to).unwrap_or_else(|e| panic!("{from}: {e}"));
    }
    for part in ["transformer", "scheduler"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    let write = |name: &str, value: serde_json::Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
    write("transformer/config.json", config());
    write("scheduler/scheduler_config.json", serde_json::json!({"num_sampling_steps": 6, "cfg_scale": 4.0}));
    write(
        "model_index.json",
        serde_json::json!({"defaults": {"height": SIZE, "width": SIZE, "num_frames": FRAMES, "fps": 8}}),
    );
    write_tensors(&folder.join("transformer/model.safetensors"), &transformer());
}

/// `config.json` of its transformer.
pub fn config() -> serde_json::Value {
    serde_json::json!({
        "model_type": "STDiT3",
        "hidden_size": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_ratio": 4.0, "in_channels": 4,
        "patch_size": [1, 2, 2], "caption_channels": CAPTION, "model_max_length": TOKENS, "input_sq_size": 512,
        "pred_sigma": true, "qk_norm": true
    })
}

/// Sizes and numbers by name.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Its transformer.
pub fn transformer() -> Tensors {
    let mut sizes: Vec<(String, Vec<usize>)> = Vec::new();
    let c = WIDTH;
    let mut linear = |name: &str, from: usize, to: usize| {
        sizes.push((format!("{name}.weight"), vec![to, from]));
        sizes.push((format!("{name}.bias"), vec![to]));
    };
    for embedder in ["t_embedder", "fps_embedder"] {
        linear(&format!("{embedder}.mlp.0"), 256, c);
        linear(&format!("{embedder}.mlp.2"), c, c);
    }
    linear("t_block.1", c, 6 * c);
    linear("y_embedder.y_proj.fc1", CAPTION, c);
    linear("y_embedder.y_proj.fc2", c, c);
    linear("final_layer.linear", c, 32);
    for block in blocks() {
        for (name, from, to) in [
            ("attn.qkv", c, 3 * c),
            ("attn.proj", c, c),
            ("cross_attn.q_linear", c, c),
            ("cross_attn.kv_linear", c, 2 * c),
            ("cross_attn.proj", c, c),
            ("mlp.fc1", c, 4 * c),
            ("mlp.fc2", 4 * c, c),
        ] {
            linear(&format!("{block}.{name}"), from, to);
        }
    }
    for block in blocks() {
        sizes.push((format!("{block}.scale_shift_table"), vec![6, c]));
        for norm in ["q_norm", "k_norm"] {
            sizes.push((format!("{block}.attn.{norm}.weight"), vec![c / HEADS]));
        }
    }
    sizes.push(("x_embedder.proj.weight".into(), vec![c, 4, 1, 2, 2]));
    sizes.push(("x_embedder.proj.bias".into(), vec![c]));
    sizes.push(("final_layer.scale_shift_table".into(), vec![2, c]));
    sizes.push(("y_embedder.y_embedding".into(), vec![TOKENS, CAPTION]));
    let mut random = Random(7);
    let filled = |(name, sizes): (String, Vec<usize>)| {
        let fan_in = sizes[1..].iter().product::<usize>().max(1);
        let scale = if name.contains("norm") { 0.0 } else { 1.0 / (fan_in as f32).sqrt() };
        let middle = if name.contains("norm") { 1.0 } else { 0.0 };
        let numbers = (0..sizes.iter().product()).map(|_| middle + scale * random.next()).collect();
        (name, (sizes, numbers))
    };
    sizes.into_iter().map(filled).collect()
}

fn blocks() -> impl Iterator<Item = String> {
    (0..DEPTH).flat_map(|i| [format!("spatial_blocks.{i}"), format!("temporal_blocks.{i}")])
}

/// Writes tensors as f32.
pub fn write_tensors(path: &Path, tensors: &Tensors) {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (sizes, numbers))| (name, sizes, numbers.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, sizes, b)| (name, TensorView::new(Dtype::F32, sizes.to_vec(), b).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Even numbers between -√3 and √3: deviation 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let unit = (self.0 >> 40) as f32 / (1u64 << 24) as f32;
        (2.0 * unit - 1.0) * 3f32.sqrt()
    }
}
