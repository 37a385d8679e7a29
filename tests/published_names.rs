//! The published denoisers: every tensor of a checkpoint's table is asked for by name and shape, and nothing else.
//! (The lists of the VAE and of T5-XXL are fixtures of the `golden` target.)

use std::collections::BTreeMap;
use std::sync::Arc;

use residua::gpu::{Gpu, Prefs};
use residua::models::latte::{self, Latte};
use residua::models::open_sora_plan;
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

    let weights = outline(&table);
    if let Err(e) = STDiT3::from_weights(&weights, Config::xl_2()) {
        panic!("{e}");
    }
    assert_eq!(weights.unasked(), Vec::<String>::new());
}

/// The checkpoint of Latte-1, and of Open-Sora-Plan v1.1 whatever its number of frames.
fn latte_table() -> BTreeMap<String, Vec<usize>> {
    let (c, text) = (1152, 4096);
    let mut all = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| drop(all.insert(name, shape.to_vec()));
    add("pos_embed.proj.weight".into(), &[c, 4, 2, 2]);
    add("pos_embed.proj.bias".into(), &[c]);
    add("caption_projection.y_embedding".into(), &[120, text]);
    add("scale_shift_table".into(), &[2, c]);
    let mut linear = vec![
        ("adaln_single.emb.timestep_embedder.linear_1".to_string(), 256, c),
        ("adaln_single.emb.timestep_embedder.linear_2".into(), c, c),
        ("adaln_single.linear".into(), c, 6 * c),
        ("caption_projection.linear_1".into(), text, c),
        ("caption_projection.linear_2".into(), c, c),
        ("proj_out".into(), c, 32),
    ];
    for (axis, attentions) in
        [("transformer_blocks", &["attn1", "attn2"][..]), ("temporal_transformer_blocks", &["attn1"])]
    {
        for block in (0..28).map(|i| format!("{axis}.{i}")) {
            add(format!("{block}.scale_shift_table"), &[6, c]);
            for attention in attentions {
                for part in ["to_q", "to_k", "to_v", "to_out.0"] {
                    linear.push((format!("{block}.{attention}.{part}"), c, c));
                }
            }
            linear.push((format!("{block}.ff.net.0.proj"), c, 4 * c));
            linear.push((format!("{block}.ff.net.2"), 4 * c, c));
        }
    }
    for (name, inputs, outputs) in linear {
        add(format!("{name}.weight"), &[outputs, inputs]);
        add(format!("{name}.bias"), &[outputs]);
    }
    all
}

#[test]
fn latte_1_and_open_sora_plan() {
    let table = latte_table();
    let numbers: usize = table.values().map(|shape| shape.iter().product::<usize>()).sum();
    assert_eq!((table.len(), numbers), (967 + 1, 1_057_246_880 + 491_520));
    let frames = [65, 221].map(|n| open_sora_plan::Config::v1_1(n).network());
    assert_eq!(frames.each_ref().map(|c| (c.video_length, c.frames.scale)), [(17, 1.0), (56, 3.0)]);
    for config in [latte::Config::latte_1()].into_iter().chain(frames) {
        let weights = outline(&table);
        if let Err(e) = Latte::from_weights(&weights, config) {
            panic!("{e}");
        }
        // a buffer of the training, of no use here
        assert_eq!(weights.unasked(), ["caption_projection.y_embedding"]);
    }
}

/// A checkpoint that has names and shapes but no numbers.
fn outline(table: &BTreeMap<String, Vec<usize>>) -> Weights {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let list = dir.path().join("names.json");
    std::fs::write(&list, serde_json::to_string(&table).expect("plain data")).expect("written");
    let gpu = pollster::block_on(Gpu::open(&Prefs {
        device: std::env::var("RESIDUA_DEVICE").ok(),
        class: None,
        ..Prefs::default()
    }));
    let checkpoint = Checkpoint::outline(&list).expect("a list of tensors");
    Weights::new(&gpu.expect("an adapter"), Arc::new(checkpoint), "is this the published checkpoint?")
}
