//! What every target does with a checkpoint that was opened.

use residua::tensor::Checkpoint;

/// Most numbers of a tensor that are read; larger ones are read at their ends.
const MOST: usize = 1 << 16;

/// Reads every tensor.
pub fn look(checkpoint: &Checkpoint) {
    for name in checkpoint.names() {
        let entry = checkpoint.entry(name).expect("a name that is listed");
        let count: usize = entry.shape.iter().product();
        if count <= MOST {
            let bytes = entry.bytes().len();
            if let Ok(numbers) = entry.widen(0..count) {
                assert_eq!(numbers.len(), count);
                assert!(bytes >= count * 2);
            }
        } else {
            let _ = entry.widen(0..1);
            let _ = entry.widen(count - 1..count);
        }
    }
}
