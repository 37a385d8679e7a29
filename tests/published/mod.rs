//! Names and shapes of the published checkpoints of Open-Sora v1.2.

use std::collections::BTreeMap;
use std::path::Path;

pub type Shapes = BTreeMap<String, Vec<usize>>;

/// The denoiser, from its description rather than from the model's code.
pub fn stdit3() -> Shapes {
    let (c, d, text, hidden) = (1152, 72, 4096, 4608);
    let mut all = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| drop(all.insert(name, shape.to_vec()));
    add("rope.freqs".into(), &[d / 2]);
    add("y_embedder.y_embedding".into(), &[300, text]);
    add("final_layer.scale_shift_table".into(), &[2, c]);
    add("x_embedder.proj.weight".into(), &[c, 4, 1, 2, 2]);
    add("x_embedder.proj.bias".into(), &[c]);
    let mut linear = vec![
        ("t_block.1".to_string(), c, 6 * c),
        ("y_embedder.y_proj.fc1".into(), text, c),
        ("y_embedder.y_proj.fc2".into(), c, c),
        ("final_layer.linear".into(), c, 32),
    ];
    for embedder in ["t_embedder", "fps_embedder"] {
        linear.push((format!("{embedder}.mlp.0"), 256, c));
        linear.push((format!("{embedder}.mlp.2"), c, c));
    }
    for block in ["spatial", "temporal"].iter().flat_map(|a| (0..28).map(move |i| format!("{a}_blocks.{i}"))) {
        add(format!("{block}.scale_shift_table"), &[6, c]);
        add(format!("{block}.attn.q_norm.weight"), &[d]);
        add(format!("{block}.attn.k_norm.weight"), &[d]);
        for (part, inputs, outputs) in [
            ("attn.qkv", c, 3 * c),
            ("attn.proj", c, c),
            ("cross_attn.q_linear", c, c),
            ("cross_attn.kv_linear", c, 2 * c),
            ("cross_attn.proj", c, c),
            ("mlp.fc1", c, hidden),
            ("mlp.fc2", hidden, c),
        ] {
            linear.push((format!("{block}.{part}"), inputs, outputs));
        }
    }
    for (name, inputs, outputs) in linear {
        add(format!("{name}.weight"), &[outputs, inputs]);
        add(format!("{name}.bias"), &[outputs]);
    }
    let numbers: usize = all.values().map(|shape| shape.iter().product::<usize>()).sum();
    assert_eq!((all.len(), numbers), (973, 1_208_872_772));
    all
}

/// The autoencoder, spatial part inside.
pub fn vae() -> Shapes {
    let all = listed("vae/real_keys/opensora_vae_v1_2.json");
    assert_eq!(all.len(), 517);
    all
}

/// T5 v1.1 XXL with both names of its embedding.
pub fn t5() -> Shapes {
    let all = listed("t5/real_keys/t5_v1_1_xxl_encoder.json");
    assert_eq!(all.len(), 220);
    all
}

fn listed(name: &str) -> Shapes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let all: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    // what is no list of sizes is a note
    all.into_iter().filter_map(|(name, sizes)| Some((name, serde_json::from_value(sizes).ok()?))).collect()
}
