//! The published STDiT3-XL/2 checkpoint: every tensor of its table is asked for by name and shape, and nothing else.
//! (The lists of the VAE and of T5-XXL are fixtures of the `golden` target.)

use std::collections::BTreeMap;
use std::sync::Arc;

use residua::gpu::{Gpu, Prefs};
use residua::models::stdit3::{Config, STDiT3};
use residua::tensor::{Checkpoint, Weights};

/// The table of the checkpoint, from its description rather than from the model's code.
fn table() -> BTreeMap<String, Vec<usize>> {
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
    all
}

#[test]
fn stdit3_xl_2() {
    let table = table();
    assert_eq!(table.len(), 973);
    let numbers: usize = table.values().map(|shape| shape.iter().product::<usize>()).sum();
    assert_eq!(numbers, 1_208_872_772);

    let dir = tempfile::tempdir().expect("a temporary folder");
    let list = dir.path().join("names.json");
    std::fs::write(&list, serde_json::to_string(&table).expect("plain data")).expect("written");
    let gpu = pollster::block_on(Gpu::open(&Prefs {
        device: std::env::var("RESIDUA_DEVICE").ok(),
        class: None,
        ..Prefs::default()
    }));
    let checkpoint = Checkpoint::outline(&list).expect("a list of tensors");
    let weights = Weights::new(&gpu.expect("an adapter"), Arc::new(checkpoint), "is this the published checkpoint?");
    if let Err(e) = STDiT3::from_weights(&weights, Config::xl_2()) {
        panic!("{e}");
    }
    assert_eq!(weights.unasked(), Vec::<String>::new());
}
