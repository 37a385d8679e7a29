//! The published checkpoints: every tensor of their tables is asked for by name and shape, and nothing else.

#[path = "published/mod.rs"]
mod published;

use std::collections::BTreeMap;
use std::sync::Arc;

use residua::gpu::{Gpu, Prefs};
use residua::models::latte::{self, Latte};
use residua::models::open_sora_plan;
use residua::models::stdit3::{self, Config, STDiT3};
use residua::models::t5::{self, T5Encoder};
use residua::models::vae::{self, OpenSoraVae};
use residua::tensor::{Checkpoint, Weights};

/// All three parts of Open-Sora v1.2: every name and shape of the published files is asked for, but for those that are
/// known to be of no use.
#[test]
fn open_sora_1_2() {
    let transformer = outline(&published::stdit3());
    if let Err(e) = STDiT3::from_weights(&transformer, Config::xl_2()) {
        panic!("{e}");
    }
    assert_eq!(transformer.unasked_but(&stdit3::UNUSED), [""; 0]);

    let autoencoder = outline(&published::vae());
    let vae = OpenSoraVae::from_weights(autoencoder.clone(), vae::Config::default()).expect("scale and shift");
    if let Err(e) = vae.decoder().and(vae.encoder().map(drop)) {
        panic!("{e}");
    }
    assert_eq!(autoencoder.unasked_but(&vae::UNUSED), [""; 0]);

    // the embedding has two names, and a file may hold either or both
    for without in ["", "shared.weight", "encoder.embed_tokens.weight"] {
        let mut shapes = published::t5();
        shapes.remove(without);
        let encoder = outline(&shapes);
        if let Err(e) = T5Encoder::from_weights(encoder.clone(), t5::Config::xxl()) {
            panic!("{e}");
        }
        assert_eq!(encoder.unasked_but(&t5::UNUSED), [""; 0]);
    }
    let mut whole = published::t5();
    whole.insert("decoder.block.0.layer.0.layer_norm.weight".into(), vec![4096]);
    whole.insert("lm_head.weight".into(), vec![32128, 4096]);
    let encoder = outline(&whole);
    assert!(T5Encoder::from_weights(encoder.clone(), t5::Config::xxl()).is_ok());
    assert_eq!(encoder.unasked().len(), 2);
    assert_eq!(encoder.unasked_but(&t5::UNUSED), [""; 0]);
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
        assert_eq!(weights.unasked(), latte::UNUSED);
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
