//! Single numbers of the passes over every number, each with its bound.

use super::U;

/// z + dt · (untold + scale · (told − untold)): one Euler step of rectified flow under guidance.
pub fn euler(z: f32, told: f32, untold: f32, dt: f32, scale: f32) -> (f64, f64) {
    let [z, told, untold, dt, scale] = [z, told, untold, dt, scale].map(f64::from);
    let pull = scale * (told - untold);
    let value = z + dt * (untold + pull);
    // the difference, its product, their sum, the product with dt, the last sum
    let guided = U * (2.0 * pull.abs() + 2.0 * (untold + pull).abs());
    let bound = dt.abs() * guided + U * value.abs();
    (value, if dt == 0.0 { 0.0 } else { bound })
}

/// q · scale by row: one product in f32, so there is only one right answer.
pub fn expand_int8(q: &[i8], scales: &[f32]) -> Vec<f32> {
    let k = q.len() / scales.len();
    q.iter().enumerate().map(|(i, &q)| f32::from(q) * scales[i / k]).collect()
}
