//! The numbers `torch.randn` draws on CUDA: Philox4x32-10, Box-Muller, and torch's way of dealing them to elements.
//!
//! Every thread of a launch has a stream of its own, numbered by the thread. With G threads, element e of a tensor is
//! number `e / G mod 4` of the four normals that thread `e mod G` draws in its round `e / 4G`. torch launches blocks of
//! 256 threads, one thread an element, but no more blocks than the GPU holds at once: a tensor that fits has the same
//! numbers on every GPU, a larger one has those of the GPU's size. Of each four normals a tensor that fits uses the
//! first alone.
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011) for the bits; PyTorch's
//! `aten/src/ATen/native/cuda/DistributionTemplates.h` (`calc_execution_policy`,
//! `distribution_elementwise_grid_stride_kernel`) for the dealing, the same from 1.x to 2.13 for f32 and halves;
//! cuRAND's `curand_init` and `curand_normal4` for counters and Box-Muller.
//!
//! differs: a GPU takes its sines and logarithms from fast units that are some 1e-6 off; here they are accurate to a few
//! units in the last place and the same on every machine. What upstream draws in bfloat16 is these numbers, rounded.

use super::torch_cpu::{log, sin_cos};
use crate::error::{Error, Result};

/// Threads of a block.
const BLOCK: u64 = 256;
/// Normals a thread draws at once.
const LANES: usize = 4;
/// Most multiprocessors and threads of one that are taken for a GPU and not for a slip.
const MOST_PROCESSORS: u32 = 4096;
const MOST_THREADS: u32 = 8192;

/// How many threads draw at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grid {
    /// One an element, however large the tensor: what every GPU does with a tensor that fits it, and what programs do
    /// that imitate CUDA's noise on a CPU.
    #[default]
    Unbounded,
    /// As many as a GPU of this size holds; see [`Grid::gpu`].
    Gpu {
        /// Multiprocessors.
        processors: u32,
        /// Most threads of a multiprocessor.
        threads: u32,
    },
}

impl Grid {
    /// A GPU by `multiProcessorCount` and `maxThreadsPerMultiProcessor` of its properties: 108 and 2048 for an A100,
    /// 132 and 2048 for an H100 SXM, 128 and 1536 for an RTX 4090.
    ///
    /// # Errors
    /// [`Error::Request`] for numbers no GPU has: no multiprocessor, or one that holds no block of 256 threads.
    pub fn gpu(processors: u32, threads: u32) -> Result<Self> {
        if (1..=MOST_PROCESSORS).contains(&processors) && (BLOCK as u32..=MOST_THREADS).contains(&threads) {
            return Ok(Self::Gpu { processors, threads });
        }
        let problem = format!(
            "no GPU has {processors} multiprocessors of {threads} threads; they are 1 to {MOST_PROCESSORS} and \
             {BLOCK} to {MOST_THREADS}"
        );
        Err(Error::request("rng", problem))
    }

    /// Threads that draw `n` numbers.
    fn threads(self, n: usize) -> u64 {
        let blocks = (n as u64).div_ceil(BLOCK);
        let most = match self {
            Grid::Unbounded => u64::MAX,
            Grid::Gpu { processors, threads } => u64::from(processors) * (u64::from(threads) / BLOCK),
        };
        BLOCK * blocks.min(most)
    }

    /// Times every thread draws for `n` numbers.
    fn rounds(self, n: usize) -> u64 {
        (n as u64).div_ceil((LANES as u64 * self.threads(n)).max(1))
    }
}

/// torch's CUDA generator, as `torch.manual_seed` leaves it, on a GPU of a given size.
#[derive(Clone, Debug)]
pub struct TorchCudaRng {
    key: [u32; 2],
    grid: Grid,
    /// Rounds drawn so far; the same for all threads.
    at: u64,
}

impl TorchCudaRng {
    /// The generator after `torch.manual_seed(seed)`.
    pub fn new(seed: u64, grid: Grid) -> Self {
        Self { key: halves(seed), grid, at: 0 }
    }

    /// The next `torch.randn(n, device="cuda")` in f32. Successive calls continue the stream, as in torch.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        let threads = self.grid.threads(n) as usize;
        let mut out = vec![0.0; n];
        for (round, part) in out.chunks_mut((LANES * threads).max(1)).enumerate() {
            let lanes = part.len().div_ceil(threads);
            for thread in 0..threads.min(part.len()) {
                let [a, b] = halves(self.at.wrapping_add(round as u64));
                let [c, d] = halves(thread as u64);
                let normals = normals(philox4x32_10([a, b, c, d], self.key), lanes);
                for (lane, &normal) in normals.iter().enumerate().take(lanes) {
                    if let Some(element) = part.get_mut(lane * threads + thread) {
                        *element = normal;
                    }
                }
            }
        }
        self.skip(n);
        out
    }

    /// Leaves the next `torch.randn(n)` out.
    pub fn skip(&mut self, n: usize) {
        self.at = self.at.wrapping_add(self.grid.rounds(n));
    }
}

/// Low and high half.
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// Philox4x32 with ten rounds: 128 bits that counter and key name.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let [low0, high0] = halves(u64::from(c0) * 0xD251_1F53);
        let [low1, high1] = halves(u64::from(c2) * 0xCD9E_8D57);
        (c0, c1, c2, c3) = (high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// Four words to four normals, of which the first `wanted` are right.
fn normals(words: [u32; 4], wanted: usize) -> [f32; LANES] {
    let (a, b) = box_muller(words[0], words[1]);
    let (c, d) = if wanted > 2 { box_muller(words[2], words[3]) } else { (0.0, 0.0) };
    [a, b, c, d]
}

/// cuRAND's: two words to two normals, the sine first.
fn box_muller(x: u32, y: u32) -> (f32, f32) {
    const UNIT: f32 = 2.328_306_4e-10; // 2⁻³²
    const TURN: f32 = UNIT * 6.283_185_5;
    let u = (x as f32).mul_add(UNIT, UNIT / 2.0); // never 0, perhaps 1
    let v = (y as f32).mul_add(TURN, TURN / 2.0);
    let radius = (-2.0 * log(u)).max(0.0).sqrt();
    let (sin, cos) = sin_cos(v);
    // torch scales by the deviation and adds the mean; adding 0 still turns -0 into +0
    (radius * sin + 0.0, radius * cos + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, grid: (u32, u32), n: usize) -> Vec<f32> {
        TorchCudaRng::new(seed, Grid::gpu(grid.0, grid.1).unwrap()).randn(n)
    }

    #[track_caller]
    fn close(got: &[f32], published: &[f32], decimals: i32) {
        let bound = 0.51 * 0.1f32.powi(decimals) + 2e-6;
        assert!(
            got.len() == published.len() && got.iter().zip(published).all(|(a, b)| (a - b).abs() < bound),
            "{got:?}"
        );
    }

    /// The answers that come with Random123 (`tests/kat_vectors`, philox4x32 with 10 rounds).
    #[test]
    fn known_answers() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        for (counter, key, answer) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ] {
            assert_eq!(philox4x32_10(counter, key), answer);
        }
    }

    /// Seed 0 on any GPU, as published with `modules/rng_philox.py` of AUTOMATIC1111/stable-diffusion-webui.
    #[test]
    fn a_tensor_that_fits() {
        let published = [
            -0.924_662_6,
            -0.425_344_15,
            -2.643_845_7,
            0.145_183_88,
            -0.120_866_47,
            -0.579_725_6,
            -0.622_851_2,
            -0.328_387_1,
            -1.074_542_3,
            -0.363_144_07,
            -1.671_050_7,
            2.265_505,
        ];
        close(&TorchCudaRng::new(0, Grid::Unbounded).randn(12), &published, 7);
        close(&draw(0, (108, 2048), 12), &published, 7);
    }

    /// Seed 1, 9 483 264 numbers: first and last three as printed on an H100 (132 x 2048) and an A100 (108 x 2048) in
    /// pytorch/pytorch#143086. Eleven and nine rounds, and other lanes at the end.
    #[test]
    fn a_tensor_of_many_rounds() {
        let n = 49 * 12 * 112 * 144;
        for (processors, last) in [(132, [-0.6970, -0.7780, 0.3267]), (108, [0.1549, -0.6797, -0.1656])] {
            let all = draw(1, (processors, 2048), n);
            close(&all[..3], &[-0.2963, 2.6764, -0.1408], 4);
            close(&all[n - 3..], &last, 4);
        }
    }

    /// Seed 43 on an RTX A6000 (84 x 1536), pytorch/pytorch#62467; and `normal_(5, √5)` of seed 14 on an RTX A4000
    /// (48 x 1536), where 100 000 numbers do not fit, pytorch/pytorch#97097.
    #[test]
    fn other_gpus() {
        let all = draw(43, (84, 1536), 3 * 128 * 128);
        close(&[all[0], all[128 * 128], all[2 * 128 * 128]], &[1.9983, 0.8704, 2.1127], 4);
        let scaled: Vec<f32> = draw(14, (48, 1536), 100_000).iter().map(|v| 5f32.sqrt() * v + 5.0).collect();
        close(&scaled[..3], &[2.8731, 5.2727, 2.9889], 4);
        close(&scaled[99_900..][..3], &[2.7337, 2.2106, 7.7815], 4);
        close(&scaled[99_997..], &[8.2207, 6.5395, 4.2604], 4);
    }

    /// Element by element, from the rule alone.
    #[test]
    fn dealing() {
        for (grid, n) in [(Grid::gpu(1, 512).unwrap(), 5000), (Grid::gpu(1, 300).unwrap(), 1), (Grid::Unbounded, 777)] {
            let mut rng = TorchCudaRng::new(u64::MAX - 3, grid);
            let (first, second) = (rng.randn(n), rng.randn(n));
            let (threads, rounds) = (grid.threads(n), grid.rounds(n));
            for (draw, numbers) in [&first, &second].into_iter().enumerate() {
                for (e, &number) in numbers.iter().enumerate() {
                    let e = e as u64;
                    let counter = [(draw as u64 * rounds + e / (4 * threads)) as u32, 0, (e % threads) as u32, 0];
                    let four = normals(philox4x32_10(counter, [u32::MAX - 3, u32::MAX]), 4);
                    assert_eq!(number, four[(e / threads % 4) as usize], "{grid:?} {draw} {e}");
                }
            }
        }
        assert!(TorchCudaRng::new(1, Grid::Unbounded).randn(0).is_empty());
    }

    #[test]
    fn the_ends_of_the_words() {
        for x in [0, 1, 1 << 31, u32::MAX] {
            for y in [0, 1 << 29, 1 << 30, 1 << 31, 3 << 30, u32::MAX] {
                let (a, b) = box_muller(x, y);
                let u = (f64::from(x) + 0.5) / 2f64.powi(32);
                let v = (f64::from(y) + 0.5) / 2f64.powi(32) * std::f64::consts::TAU;
                let radius = (-2.0 * u.ln()).sqrt();
                let bound = 1e-5 + 3e-4 * f64::from(u8::from(x == u32::MAX)); // 1 - u is lost in f32
                assert!((f64::from(a) - radius * v.sin()).abs() < bound, "{x} {y} {a}");
                assert!((f64::from(b) - radius * v.cos()).abs() < bound, "{x} {y} {b}");
            }
        }
    }
}
