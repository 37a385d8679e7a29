//! Ctrl-C and SIGTERM: the first asks the run to stop after its step, the second stops the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use residua::Error;

use super::exit::{Failure, Outcome, code};
use super::screen;

/// Whether to stop, and with which exit code; 0 while nobody asked.
#[derive(Clone)]
pub struct Stop(Arc<AtomicUsize>);

#[cfg(unix)]
const TERMINATED: usize = 143;

impl Stop {
    /// Listens from now on.
    pub fn listen() -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let flag = asked.clone();
        let listening = ctrlc::set_handler(move || {
            let interrupted = usize::from(code::INTERRUPTED);
            if flag.compare_exchange(0, interrupted, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                exit_now(code::INTERRUPTED.into());
            }
            screen::above("stopping after this step; Ctrl-C again stops at once");
        });
        if let Err(e) = listening {
            log::warn!("Ctrl-C will stop at once and not after a step: {e}");
        }
        #[cfg(unix)]
        if let Err(e) = Self::on_terminate(&asked) {
            log::warn!("SIGTERM will stop at once and not after a step: {e}");
        }
        Self(asked)
    }

    #[cfg(unix)]
    fn on_terminate(asked: &Arc<AtomicUsize>) -> std::io::Result<()> {
        use signal_hook::consts::SIGTERM;
        use signal_hook::flag;
        let again = Arc::new(std::sync::atomic::AtomicBool::new(false));
        // in this order: the first signal finds `again` unset and sets it
        flag::register_conditional_shutdown(SIGTERM, TERMINATED as i32, again.clone())?;
        flag::register(SIGTERM, again)?;
        flag::register_usize(SIGTERM, asked.clone(), TERMINATED)?;
        Ok(())
    }

    /// Whether somebody asked to stop.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }

    /// # Errors
    /// [`Error::Cancelled`] if somebody asked to stop.
    pub fn check(&self) -> Outcome {
        if self.asked() { Err(Error::Cancelled.into()) } else { Ok(()) }
    }

    /// What a failure of a run that may have been stopped is.
    pub fn explain(&self, failure: Failure) -> Failure {
        match self.0.load(Ordering::SeqCst) {
            0 => failure,
            _ if failure.exit != code::INTERRUPTED => failure,
            exit => {
                let by = if exit == usize::from(code::INTERRUPTED) { "Ctrl-C" } else { "SIGTERM" };
                let message = format!("stopped by {by}; nothing is left half-written");
                Failure { exit: exit as u8, message, ..failure }
            }
        }
    }
}

/// Without the goodbyes of libraries, which might wait for the work we no longer want.
fn exit_now(status: i32) -> ! {
    #[cfg(unix)]
    signal_hook::low_level::exit(status);
    #[cfg(not(unix))]
    std::process::exit(status);
}
