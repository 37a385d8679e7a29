//! Shaders without a GPU: every program the host can ask for links and validates; the table is the folder.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_program_validates() {
    let programs = residua::ops::programs();
    let failures: BTreeSet<String> =
        programs.iter().filter_map(|p| p.validate().err().map(|e| format!("{}: {e}", p.name()))).collect();
    assert!(
        failures.is_empty(),
        "of {} programs:\n{}",
        programs.len(),
        failures.into_iter().collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn the_table_lists_the_folder() {
    fn walk(dir: &Path, top: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, top, found);
            } else {
                found.insert(path.strip_prefix(top).unwrap().to_string_lossy().replace('\\', "/"));
            }
        }
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut folder = BTreeSet::new();
    walk(&top, &top, &mut folder);
    let table: BTreeSet<String> = residua::gpu::shader::ALL.iter().map(|s| s.path.to_string()).collect();
    assert_eq!(folder, table);
}
