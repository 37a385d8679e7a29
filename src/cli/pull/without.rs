//! In place of downloading, where the program was built without it.

use residua::pipeline::parts::HubId;

use crate::cli::args::Pull;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::screen::Screen;

/// Says what to do instead.
///
/// # Errors
/// Always.
pub fn run(_: &Pull, ids: Vec<HubId>, _: &Screen) -> Outcome {
    let commands: Vec<String> = ids.iter().map(|id| format!("`hf download {}`", id.repo)).collect();
    let problem = "this program was built without the feature `download`";
    let hint = format!(
        "`cargo install --path . --features download` builds it with; the hub's own program fills the same cache: {}",
        commands.join(", ")
    );
    Err(Failure::wrong("pull", problem).hint(hint))
}
