//! The numbers `torch.randn` draws on a CPU, bit for bit.
//!
//! A seed names a video only if it names the same noise everywhere, so this follows torch down to its rounding: the
//! Mersenne Twister, 24-bit uniforms, Box-Muller in groups of sixteen, and the polynomials torch's vector code uses
//! for log, sin and cos. Plain library functions would be as accurate and differ in the last bit.
//!
//! Source: PyTorch `aten/src/ATen/native/cpu/DistributionTemplates.h` and `avx_mathfun.h` (the AVX2 build, which
//! x86-64 machines with AVX-512 use as well); the same since 1.x. The compiler of that build contracts a product and
//! a sum into one fused operation wherever it can, and so do the `mul_add` calls below. GPU generators differ.

use std::f64::consts::PI;

use rand_mt::Mt;

/// 4/π, as Cephes writes it.
const FOUR_OVER_PI: f32 = 1.273_239_5;

/// Elements that are transformed together: eight pairs, `j` with `j + 8`.
const GROUP: usize = 16;

/// torch's CPU generator, as `torch.manual_seed` leaves it.
#[derive(Clone, Debug)]
pub struct TorchCpuRng {
    twister: Mt,
    /// The second value of the last scalar pair; it waits for the next scalar draw, across calls.
    spare: Option<f64>,
}

impl TorchCpuRng {
    /// The generator after `torch.manual_seed(seed)`. Like torch, only the low 32 bits of `seed` matter.
    pub fn new(seed: u64) -> Self {
        // the twister's state is 32-bit: torch cuts the seed off there, on purpose or not
        Self { twister: Mt::new(seed as u32), spare: None }
    }

    /// The next `torch.randn(n)`: `n` normal f32 values, mean 0, deviation 1. For a tensor, `n` is the product of its
    /// sizes and the values are in row-major order. Successive calls continue the stream, as in torch.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < GROUP {
            return (0..n).map(|_| self.scalar_normal() as f32).collect();
        }
        let mut data: Vec<f32> = (0..n).map(|_| self.uniform()).collect();
        for group in data.chunks_exact_mut(GROUP) {
            box_muller(group);
        }
        if !n.is_multiple_of(GROUP) {
            // the last sixteen are drawn anew, over values that are already done
            let tail = &mut data[n - GROUP..];
            tail.fill_with(|| self.uniform());
            box_muller(tail);
        }
        data
    }

    /// In [0, 1), 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.twister.next_u32() & 0x00ff_ffff) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// In [0, 1), 53 bits; the first word drawn is the upper half.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.twister.next_u32());
        let low = u64::from(self.twister.next_u32());
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Box-Muller in double precision, one value at a time.
    fn scalar_normal(&mut self) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let theta = 2.0 * PI * u1;
        self.spare = Some(radius * theta.sin());
        radius * theta.cos()
    }
}

/// `torch.manual_seed(seed); torch.randn(n)` on a CPU, bit for bit in f32.
pub fn torch_cpu_randn(seed: u64, n: usize) -> Vec<f32> {
    TorchCpuRng::new(seed).randn(n)
}

/// Sixteen uniforms to sixteen normals, in place.
fn box_muller(group: &mut [f32]) {
    let (first, second) = group.split_at_mut(GROUP / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * log(1.0 - *a)).sqrt();
        let (sin, cos) = sin_cos((2.0 * PI) as f32 * *b);
        // torch scales by the deviation and adds the mean; adding 0 still turns -0 into +0
        *a = radius * cos + 0.0;
        *b = radius * sin + 0.0;
    }
}

/// Cephes `logf` for normal positive x, in the order of operations of `log256_ps`.
pub(super) fn log(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let bits = x.to_bits();
    let mut exponent = ((bits >> 23) as i32 - 0x7f) as f32 + 1.0;
    let mut x = f32::from_bits(bits & !0x7f80_0000 | 0.5f32.to_bits());
    if x < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        x = (x - 1.0) + x;
    } else {
        x -= 1.0;
    }
    let z = x * x;
    let y = P[1..].iter().fold(P[0], |y, &p| y.mul_add(x, p)) * x;
    let y = y.mul_add(z, exponent * -2.121_944_4e-4);
    let y = z.mul_add(-0.5, y);
    exponent.mul_add(0.693_359_4, x + y)
}

/// Cephes `sinf` and `cosf` for x ≥ 0, in the order of operations of `sincos256_ps`.
pub(super) fn sin_cos(x: f32) -> (f32, f32) {
    let octant = ((x * FOUR_OVER_PI) as i32 + 1) & !1;
    let y = octant as f32;
    // x − octant·π/4, the constant in three parts
    let x = y.mul_add(-0.785_156_25, x);
    let x = y.mul_add(-2.418_756_5e-4, x);
    let x = y.mul_add(-3.774_895e-8, x);
    let z = x * x;
    let c = 2.443_315_7e-5f32.mul_add(z, -1.388_731_6e-3).mul_add(z, 4.166_664_6e-2) * z;
    let c = c.mul_add(z, -(z * 0.5)) + 1.0;
    let s = (-1.951_529_6e-4f32).mul_add(z, 8.332_161e-3).mul_add(z, -1.666_665_5e-1) * z;
    let s = s.mul_add(x, x);
    let (sin, cos) = if octant & 2 == 0 { (s, c) } else { (c, s) };
    (if octant & 4 != 0 { -sin } else { sin }, if !(octant - 2) & 4 != 0 { -cos } else { cos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_draw() {
        // torch.manual_seed(42); torch.randn(16)[:4]
        let x = torch_cpu_randn(42, 16);
        for (a, b) in x.iter().zip([1.9269, 1.4873, 0.9007, -2.1055]) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn lengths_and_streams() {
        assert!(torch_cpu_randn(0, 0).is_empty());
        assert_eq!(torch_cpu_randn(1, 3), torch_cpu_randn(1 + (1 << 32), 3));
        let mut rng = TorchCpuRng::new(5);
        let (a, b) = (rng.randn(3), rng.randn(4));
        assert_eq!([a, b].concat(), torch_cpu_randn(5, 7), "the spare value survives a call");
    }

    #[test]
    fn the_polynomials_are_good_to_a_few_ulp() {
        for i in 0..1u32 << 12 {
            let u = i as f32 / 4096.0;
            assert!((f64::from(log(1.0 - u)) - f64::from(1.0 - u).ln()).abs() < 1e-6);
            let (s, c) = sin_cos((2.0 * PI) as f32 * u);
            let x = f64::from((2.0 * PI) as f32 * u);
            assert!((f64::from(s) - x.sin()).abs() < 2e-7 && (f64::from(c) - x.cos()).abs() < 2e-7);
        }
    }

    #[test]
    fn moments() {
        let x = torch_cpu_randn(7, 100_000);
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let square = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.02 && x.iter().all(|v| v.is_finite()));
    }
}
