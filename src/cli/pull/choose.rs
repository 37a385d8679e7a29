//! Which files of a repository a model needs.

use std::collections::BTreeMap;

use residua::pipeline::parts::{FILE, HubId, Part};
use residua::tensor::Checkpoint;

/// Most bytes of a file's name in a repository, and of each part of it.
const NAME: usize = 1024;
const PART: usize = 200;
/// Most files of a repository.
pub const FILES: usize = 10_000;

/// Whether a name that a hub gave stays inside the folder it is put into, on any system.
pub fn is_safe(name: &str) -> bool {
    let plain = |part: &str| {
        let odd = |c: char| c.is_control() || "\\:*?\"<>|".contains(c);
        !part.is_empty() && part.len() <= PART && part != "." && part != ".." && !part.contains(odd)
    };
    name.len() <= NAME && name.split('/').all(plain)
}

/// Of all files of a repository those that are read: in the folder asked for and in those of a model's parts the
/// weights of one form, configs and tokenizers.
pub fn wanted(names: &[String], id: &HubId) -> Vec<String> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let parts = names.iter().any(|n| n.starts_with("transformer/")) || has("model_index.json");
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        folders.entry(folder).or_default().push(file);
    }
    let is_part = |n: &str| n == "prompts" || Part::ALL.iter().any(|part| part.name() == n);
    let inside = |folder: &str| {
        folder.strip_prefix(id.folder.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    folders.retain(|folder, _| match id.folder.is_empty() {
        false => inside(folder),
        true if folder.is_empty() => true,
        true if has(FILE) => !folder.starts_with('.'),
        // (a VAE by itself may have its spatial part inside)
        true => *folder == Part::Vae2d.name() || parts && folder.split('/').all(is_part),
    });
    let mut wanted = Vec::new();
    for (folder, files) in folders {
        // beside the folders of its parts a repository may have the same model in another form
        let weights = if folder.is_empty() && parts { Vec::new() } else { Checkpoint::files_of(&files) };
        let small = |f: &str| {
            let plain = [".json", ".jsonl", ".toml", ".model"].iter().any(|e| f.ends_with(e));
            plain && !f.ends_with(".index.json") || f.starts_with("LICENSE") || f.starts_with("NOTICE")
        };
        let chosen = files.into_iter().filter(|f| small(f) || weights.contains(f));
        wanted.extend(chosen.map(|f| if folder.is_empty() { f.to_string() } else { format!("{folder}/{f}") }));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &str, id: &str) -> String {
        let names: Vec<String> = names.split(' ').map(String::from).collect();
        wanted(&names, &id.parse().unwrap()).join(" ")
    }

    #[test]
    fn only_what_is_read() {
        let t5 = "config.json pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin pytorch_model.bin.index.json \
                  spiece.model";
        assert_eq!(of(&format!("{t5} .gitattributes README.md flax_model.msgpack onnx/model.onnx"), "a/b"), t5);
        let safe = "config.json model.safetensors";
        assert_eq!(of(&format!("{safe} pytorch_model.bin pytorch_model.bin.index.json"), "a/b"), safe);
        let parts = "model_index.json transformer/config.json transformer/model.safetensors vae/vae_2d/config.json";
        assert_eq!(
            of(&format!("{parts} all-in-one.safetensors onnx/model.onnx transformer/model.fp16.bin"), "a/b"),
            parts
        );
        assert_eq!(of(&format!("{parts} text_encoder/config.json"), "a/b/vae"), "vae/vae_2d/config.json");
        let apart = "config.json model.safetensors vae_2d/config.json";
        assert_eq!(of(&format!("{apart} samples/config.json"), "a/b"), apart);
        let described = "residua-model.toml net/config.json net/a.safetensors";
        assert_eq!(of(described, "a/b"), described);
    }

    #[test]
    fn names_stay_inside() {
        assert!(is_safe("a") && is_safe("a/b.c/d-e_f") && is_safe("..a/b"));
        let long = "a".repeat(PART + 1);
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\nb", "c:a", &long] {
            assert!(!is_safe(bad), "{bad:?}");
        }
    }
}
