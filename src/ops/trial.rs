//! The trial of kernels that work with cooperative matrices: before anything relies on them they must be right on
//! the very device that will run them.

use crate::gpu::Gpu;

/// Runs the matrix kernels of a freshly made handle on problems with known results, and waits for them.
///
/// # Errors
/// What was wrong, in words for a log.
pub(crate) fn trial(gpu: &Gpu) -> Result<(), String> {
    use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
    let since = std::time::Instant::now();
    // a driver that refuses a kernel must not take the process down with it
    let scopes = [OutOfMemory, Internal, Validation].map(|filter| gpu.device().push_error_scope(filter));
    let outcome = super::matmul::trial(gpu);
    // scopes end in reverse; what was refused explains what came out wrong
    let mut refused = None;
    for scope in scopes.into_iter().rev() {
        refused = pollster::block_on(scope.pop()).or(refused);
    }
    log::debug!("trial of matrix kernels: {:.1} s", since.elapsed().as_secs_f64());
    refused.map_or(outcome, |error| Err(error.to_string()))
}
