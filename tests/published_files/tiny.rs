//! Checkpoints with every tensor of the published ones, in the same depth, but narrow: a second to load and run.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::published::{self, Shapes};

/// A stored tensor.
#[derive(Clone)]
pub struct Stored {
    pub name: String,
    pub shape: Vec<usize>,
    pub numbers: Vec<f32>,
}

/// Every tensor of the published denoiser: 24 wide, 2 heads.
pub fn transformer() -> Vec<Stored> {
    filled(published::stdit3(), |n| match n {
        72 => 12,
        36 => 6,
        4096 => 32,
        300 => 24,
        n if n.is_multiple_of(1152) => n / 48,
        n => n,
    })
}

pub fn transformer_config() -> Value {
    json!({
        "architectures": ["STDiT3"], "model_type": "STDiT3", "hidden_size": 24, "depth": 28, "num_heads": 2,
        "caption_channels": 32, "model_max_length": 24, "qk_norm": true, "pred_sigma": true, "patch_size": [1, 2, 2],
        "input_size": [null, null, null], "torch_dtype": "float32"
    })
}

/// Every tensor of the published autoencoder: 8 wide where that is 128.
pub fn vae() -> Vec<Stored> {
    filled(published::vae(), |n| if n >= 128 { n / 16 } else { n })
}

/// Its config: the published one does not state the widths.
pub fn vae_config() -> Value {
    json!({
        "architectures": ["VideoAutoencoderPipeline"], "model_type": "VideoAutoencoderPipeline", "micro_frame_size": 17,
        "scale": [3.85, 2.32, 2.33, 3.06], "shift": [-0.1, 0.34, 0.27, 0.98],
        "vae_2d": {
            "type": "VideoAutoencoderKL", "from_pretrained": "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers",
            "subfolder": "vae", "micro_batch_size": 4
        },
        "vae_temporal": {
            "type": "VAE_Temporal", "filters": 8, "num_res_blocks": 4, "channel_multipliers": [1, 2, 2, 4],
            "temporal_downsample": [false, true, true], "num_groups": 4
        }
    })
}

/// The config of its spatial part, as diffusers writes it.
pub fn spatial_config() -> Value {
    json!({
        "_class_name": "AutoencoderKL", "block_out_channels": [8, 16, 32, 32], "layers_per_block": 2,
        "norm_num_groups": 4, "latent_channels": 4, "scaling_factor": 0.13025
    })
}

/// Every tensor of the published text encoder: 32 wide, 4 heads.
pub fn t5() -> Vec<Stored> {
    let mut all = filled(published::t5(), |n| match n {
        4096 => 32,
        10240 => 64,
        32128 => 640,
        64 => 4,
        n => n,
    });
    // one tensor under two names
    let shared = all.iter().find(|t| t.name == "shared.weight").unwrap().numbers.clone();
    all.iter_mut().find(|t| t.name == "encoder.embed_tokens.weight").unwrap().numbers = shared;
    all
}

pub fn t5_config() -> Value {
    json!({
        "architectures": ["T5EncoderModel"], "model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4,
        "num_layers": 24, "vocab_size": 640, "feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 32,
        "layer_norm_epsilon": 1e-6
    })
}

/// Numbers by name, the same every time: norms around 1, layers that keep the size of what they multiply.
fn filled(shapes: Shapes, narrow: impl Fn(usize) -> usize) -> Vec<Stored> {
    let one = |(name, shape): (String, Vec<usize>)| {
        let shape: Vec<usize> = shape.into_iter().map(&narrow).collect();
        let mut state =
            name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let inputs: usize = shape[1..].iter().product();
        let (middle, spread) = match name.as_str() {
            "scale" => (3.0, 0.5),
            "shift" => (0.3, 0.3),
            "rope.freqs" => (0.5, 0.4),
            n if n.contains("norm") && n.ends_with("weight") => (1.0, 0.1),
            _ if shape.len() == 1 => (0.0, 0.1),
            _ => (0.0, 1.7 / (inputs as f32).sqrt()),
        };
        let numbers = (0..shape.iter().product()).map(|_| middle + spread * random()).collect();
        Stored { name, shape, numbers }
    };
    shapes.into_iter().map(one).collect()
}

/// Writes safetensors of a type.
pub fn write(path: &Path, tensors: &[Stored], dtype: Dtype) {
    let bytes = |t: &Stored| -> Vec<u8> {
        let numbers = t.numbers.iter();
        match dtype {
            Dtype::F16 => numbers.flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            Dtype::BF16 => numbers.flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            _ => numbers.flat_map(|v| v.to_le_bytes()).collect(),
        }
    };
    let all: Vec<(&Stored, Vec<u8>)> = tensors.iter().map(|t| (t, bytes(t))).collect();
    let views = all.iter().map(|(t, b)| (t.name.as_str(), TensorView::new(dtype, t.shape.clone(), b).unwrap()));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Writes safetensors in shards with their index.
pub fn write_sharded(folder: &Path, stem: &str, tensors: &[Stored], shards: usize) {
    let mut map = serde_json::Map::new();
    for (i, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let name = format!("{stem}-{:05}-of-{shards:05}.safetensors", i + 1);
        write(&folder.join(&name), part, Dtype::F32);
        map.extend(part.iter().map(|t| (t.name.clone(), name.clone().into())));
    }
    let index = json!({"metadata": {}, "weight_map": map});
    write_json(&folder.join(format!("{stem}.safetensors.index.json")), &index);
}

/// Writes a config.
pub fn write_json(path: &Path, value: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, value.to_string()).unwrap();
}
