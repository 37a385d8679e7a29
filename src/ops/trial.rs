//! The trial of kernels that work with cooperative matrices: before anything relies on them they must be right on
//! the very device that will run them.

use super::kernel::Kernel;
use super::matmul;
use crate::gpu::Gpu;
use crate::tensor::{DType, Tensor};

/// Runs the matrix kernels of a freshly made handle on problems with known results, and waits for them.
///
/// # Errors
/// What was wrong, in words for a log.
pub(crate) fn trial(gpu: &Gpu) -> Result<(), String> {
    use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
    let since = std::time::Instant::now();
    // a driver that refuses a kernel must not take the process down with it
    let scopes = [OutOfMemory, Internal, Validation].map(|filter| gpu.device().push_error_scope(filter));
    let outcome = products(gpu, &Kernel::tried(gpu)).and_then(|()| super::attention::trial(gpu));
    // scopes end in reverse; what was refused explains what came out wrong
    let mut refused = None;
    for scope in scopes.into_iter().rev() {
        refused = pollster::block_on(scope.pop()).or(refused);
    }
    log::debug!("trial of matrix kernels: {:.1} s", since.elapsed().as_secs_f64());
    refused.map_or(outcome, |error| Err(error.to_string()))
}

/// Whether a kernel that the trial has not seen makes exact products too; says so in the log if not.
pub(super) fn sound(gpu: &Gpu, kernel: Kernel) -> bool {
    let outcome = products(gpu, &[kernel]);
    outcome.inspect_err(|reason| log::warn!("a kernel is fast, but wrong: {reason}")).is_ok()
}

/// Makes products with each kernel and compares them with what they are, twice.
///
/// Inputs are multiples of 1/8 up to 1, so every product and every sum of them is exact in f32, in any order: what
/// differs at all is wrong.
fn products(gpu: &Gpu, kernels: &[Kernel]) -> Result<(), String> {
    let number = |i: usize, step: usize| ((i * step + i / 7) % 17) as f32 / 8.0 - 1.0;
    // whole tiles first, then edges in m, n and k
    for [m, n, k] in [[256, 320, 192], [77, 72, 40]] {
        let x: Vec<f32> = (0..m * k).map(|i| number(i, 5)).collect();
        let w: Vec<f32> = (0..n * k).map(|i| number(i, 11)).collect();
        let sum = |i: usize| -> f32 {
            let (row, column) = (i / n * k, i % n * k);
            x[row..row + k].iter().zip(&w[column..column + k]).map(|(a, b)| a * b).sum()
        };
        let expected: Vec<f32> = (0..m * n).map(sum).collect();
        let (x, w) = (halves(gpu, &x, [m, k]), halves(gpu, &w, [n, k]));
        for kernel in kernels {
            for _ in 0..2 {
                let got = matmul::product(&x, &w, *kernel).read_blocking().map_err(|e| format!("{kernel:?}: {e}"))?;
                // NaN differs from everything
                if let Some(i) = (0..m * n).find(|&i| got[i] != expected[i]) {
                    let (row, column) = (i / n, i % n);
                    return Err(format!(
                        "{kernel:?} on {m} x {n} x {k}: {} in row {row}, column {column}, where {} was due",
                        got[i], expected[i]
                    ));
                }
            }
        }
    }
    Ok(())
}

fn halves(gpu: &Gpu, numbers: &[f32], shape: [usize; 2]) -> Tensor {
    gpu.filled(shape, DType::F16, |view| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
        view.slice(..bytes.len()).copy_from_slice(&bytes);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Class, Prefs};

    /// The kernels that a class chooses from are right whichever is chosen.
    #[test]
    fn every_candidate_makes_exact_products() {
        for class in Class::ALL {
            let prefs = Prefs { device: std::env::var("RESIDUA_DEVICE").ok(), class: Some(class), ..Prefs::default() };
            let gpu = pollster::block_on(Gpu::open(&prefs)).expect("a device");
            if gpu.class() == class {
                products(&gpu, &Kernel::candidates(&gpu, [256, 320, 192], true)).unwrap();
            }
        }
    }
}
