//! The kernels that make products, and which of them suits a shape on a device.

use crate::gpu::shader::{self, Source};
use crate::gpu::{Class, Gpu, Matrices, Program};
use crate::tensor::DType;

/// Multiplications from which on `matmul/simd8` is worth its large tiles: up to 1.4 times as fast as the small ones, but
/// they compile for 0.4 to 1.8 s instead of a sixth of one, and such a product takes 10 ms.
const SIMD8_LARGE: usize = 1 << 28;
/// Below this even a tile twice as wide does not pay for its compilation.
const SIMD8_TINY: usize = 1 << 22;

/// One algorithm with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// `matmul/tiled`: rows and columns of a workgroup, 64 or 128.
    Tiled { side: usize },
    /// `matmul/simd8`: rows of a workgroup, and pairs of columns a lane.
    Simd8 { rows: usize, pairs: usize },
    /// `matmul/coop`.
    Coop(Coop),
}

/// The tiles of `matmul/simd8`.
const SIMD8: [Kernel; 6] = [simd8(8, 1), simd8(16, 1), simd8(16, 2), simd8(16, 4), simd8(8, 2), simd8(8, 4)];
/// Both sizes of `matmul/tiled`, the one to take unmeasured first.
const TILED: [Kernel; 2] = [Kernel::Tiled { side: 64 }, Kernel::Tiled { side: 128 }];

const fn simd8(rows: usize, pairs: usize) -> Kernel {
    Kernel::Simd8 { rows, pairs }
}

/// The numbers of `matmul/coop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coop {
    edge: u32,
    subgroup: u32,
    flat: bool,
    /// Rows and columns of subgroups in a workgroup.
    grid: [u32; 2],
    /// Rows and columns of matrices in a subgroup.
    tiles: [u32; 2],
    /// How much of k is staged at a time.
    depth: u32,
    /// How many matrices of a row a subgroup's scratch holds at a time.
    per: u32,
}

/// What [`Coop::of`] takes: subgroups of a workgroup, matrices of a subgroup, depth, and the most of `per`.
type Numbers = ([u32; 2], [u32; 2], u32, u32);

impl Coop {
    /// Rows and columns of a workgroup.
    fn tile(self) -> [u32; 2] {
        [0, 1].map(|i| self.grid[i] * self.tiles[i] * self.edge)
    }

    fn threads(self) -> u32 {
        self.subgroup * self.grid[0] * self.grid[1]
    }

    /// Workgroup memory: both staged tiles, and for every subgroup its scratch, as the shader lays them out.
    fn bytes(self) -> u32 {
        let [rows, columns] = self.tile();
        let staged = (rows + columns) * (self.depth + 8) * 2;
        staged + self.grid[0] * self.grid[1] * self.edge * (self.per * self.edge + 8) * 4
    }

    /// Eights that each invocation stages of a tile so many rows high.
    fn share(self, rows: u32) -> u32 {
        rows * self.depth / 8 / self.threads()
    }

    fn fits(self, on: &Matrices) -> bool {
        let (threads, eights) = (self.threads(), self.depth / 8);
        threads <= on.invocations
            && self.bytes() <= on.workgroup_bytes
            && threads.is_multiple_of(eights)
            // every invocation stages the same number of whole rows
            && self.tile().into_iter().all(|rows| (rows * eights).is_multiple_of(threads))
    }

    /// What a product of m rows and n columns costs next to others of its kind: how often the device is filled with
    /// workgroups, times what each invocation multiplies and loads. For an order to start from; which is fastest, a
    /// measurement says.
    fn cost(self, m: usize, n: usize) -> usize {
        /// Invocations that a device is thought to run at once.
        const AT_ONCE: usize = 1 << 15;
        let ([rows, columns], threads) = (self.tile().map(|t| t as usize), self.threads() as usize);
        let groups = m.div_ceil(rows) * n.div_ceil(columns);
        (groups * threads).div_ceil(AT_ONCE) * (rows * columns + 64 * (rows + columns)) / threads
    }

    /// With as many matrices in the scratch as there is memory for.
    fn of(on: &Matrices, (grid, tiles, depth, most): Numbers) -> Option<Self> {
        let make = |per| Self { edge: on.edge, subgroup: on.subgroup, flat: on.flat, grid, tiles, depth, per };
        (1..=most).rev().filter(|&per| tiles[1].is_multiple_of(per)).map(make).find(|c| c.fits(on))
    }

    /// Those to choose from unmeasured, all of which the trial tries; on a CPU the one that compiles fastest comes
    /// first, and the others are there for the trial.
    fn known(on: &Matrices) -> Vec<Self> {
        let known: &[Numbers] = match (on.software, on.edge) {
            (true, _) => &[([2, 2], [1, 1], 16, 1), ([2, 1], [1, 2], 32, 2), ([1, 2], [2, 2], 16, 1)],
            (false, 8) => &[([2, 2], [4, 4], 32, 4), ([2, 2], [2, 2], 32, 2), ([4, 1], [2, 2], 32, 2)],
            (false, _) => &[
                ([2, 2], [4, 4], 32, 4),
                ([2, 2], [4, 2], 32, 2),
                ([2, 2], [2, 2], 32, 2),
                // few columns: the last layers of decoders
                ([4, 1], [2, 2], 32, 2),
            ],
        };
        known.iter().filter_map(|&numbers| Self::of(on, numbers)).collect()
    }

    /// More, for a measurement to choose from: deeper, larger, more invocations.
    fn further(on: &Matrices) -> Vec<Self> {
        let further: &[Numbers] = match (on.software, on.edge) {
            (true, _) => &[],
            (false, 8) => &[([2, 2], [8, 4], 32, 4)],
            (false, _) => &[([2, 4], [4, 2], 32, 2), ([4, 2], [4, 4], 32, 4), ([2, 2], [4, 4], 64, 4)],
        };
        further.iter().filter_map(|&numbers| Self::of(on, numbers)).collect()
    }

    /// Loop iterations of an invocation: steps through k, changes of tap, and single numbers of the scratch.
    fn iterations(self, deep: usize, taps: usize) -> usize {
        let scratch = (self.edge * self.per * self.edge).div_ceil(2 * self.subgroup) as usize + 1;
        let trips = (self.tiles[0] * self.tiles[1] / self.per) as usize;
        2 * (deep.div_ceil(self.depth as usize / 8) + 1) + taps + trips * scratch
    }

    fn program(self) -> Program {
        let [rows, columns] = self.tile();
        Program::of(shader::MATMUL_COOP)
            .link(if self.edge == 8 { shader::LIB_MATRIX8 } else { shader::LIB_MATRIX16 })
            .link(if self.flat { shader::MATMUL_STAGE_ONES } else { shader::MATMUL_STAGE_FOURS })
            .define("SG", self.subgroup)
            .define("ROWS", self.grid[0])
            .define("COLUMNS", self.grid[1])
            .define("MT", self.tiles[0])
            .define("TRIPS", self.tiles[1] / self.per)
            .define("PER", self.per)
            .define("BK", self.depth)
            .define("STEPS", self.depth / self.edge)
            .define("XS", self.share(rows))
            .define("WS", self.share(columns))
    }
}

impl Kernel {
    /// What can make a product of m rows and n columns over a depth of k on a device: the best guess first, then what only a
    /// measurement should prefer to it. Never nothing. The trial has seen none of those behind [`Kernel::tried`].
    /// `halves`: weights are halves with channels in whole eights, which matrix kernels ask for.
    pub(super) fn candidates(gpu: &Gpu, [m, n, k]: [usize; 3], halves: bool) -> Vec<Self> {
        let plain = Self::plain(gpu.class(), [m, n, k]);
        let Some(on) = gpu.matrices().filter(|_| halves) else { return plain };
        let mut known = Coop::known(&on);
        if !on.software {
            known.sort_by_key(|c| c.cost(m, n));
        }
        known.into_iter().chain(Coop::further(&on)).map(Kernel::Coop).chain(plain).collect()
    }

    /// The kernels that must pass the trial of a device.
    pub(super) fn tried(gpu: &Gpu) -> Vec<Self> {
        gpu.matrices().iter().flat_map(Coop::known).map(Kernel::Coop).collect()
    }

    /// What a class makes products with where it can make no use of matrices.
    fn plain(class: Class, [m, n, k]: [usize; 3]) -> Vec<Self> {
        match class {
            Class::Simd8 => {
                let work = m * n * k;
                let guess = match n {
                    _ if work < SIMD8_TINY => simd8(8, 1),
                    0..=16 if work < SIMD8_LARGE => simd8(8, 1),
                    _ if work < SIMD8_LARGE => simd8(8, 2),
                    0..=16 => simd8(16, 1),
                    17..=32 => simd8(16, 2),
                    _ => simd8(16, 4),
                };
                let others = SIMD8.into_iter().filter(|&other| other != guess && other.tile()[1] < 2 * n.max(16));
                std::iter::once(guess).chain(others).collect()
            }
            Class::Portable | Class::Coop8 | Class::Coop16 => TILED.to_vec(),
        }
    }

    /// Those of every device, for tests without one: the kernels, and whether each takes halves only.
    pub(super) fn everywhere() -> Vec<(Self, bool)> {
        let devices = Matrices::examples();
        let coop = devices.iter().flat_map(|on| [Coop::known(on), Coop::further(on)].concat());
        let coop = coop.map(|c| (Kernel::Coop(c), true));
        TILED.into_iter().chain(SIMD8).map(|kernel| (kernel, false)).chain(coop).collect()
    }

    /// Loop iterations of an invocation, all loops together; leaving a loop counts as one.
    pub(super) fn iterations(self, taps: usize, c8: usize) -> usize {
        let deep = taps * c8;
        match self {
            Kernel::Tiled { .. } => deep.div_ceil(2) * (2 + 16),
            Kernel::Simd8 { rows, pairs } => deep.div_ceil(8) * (2 + 8) + rows * pairs + 1,
            Kernel::Coop(coop) => coop.iterations(deep, taps),
        }
    }

    /// Rows and columns of a workgroup.
    pub(super) fn tile(self) -> [usize; 2] {
        match self {
            Kernel::Tiled { side } => [side, side],
            Kernel::Simd8 { rows, pairs } => [rows, pairs * 16],
            Kernel::Coop(coop) => coop.tile().map(|t| t as usize),
        }
    }

    /// The kernel file with its numbers.
    pub(super) fn program(self) -> Program {
        match self {
            Kernel::Tiled { side } => {
                // an invocation makes 8 × 8, and 16 of k are staged in eights
                let threads = side * side / 64;
                Program::of(shader::MATMUL_TILED)
                    .define("SIDE", side as u32)
                    .define("SHARE", (2 * side / threads) as u32)
            }
            Kernel::Simd8 { rows, pairs } => {
                Program::of(shader::MATMUL_SIMD8).define("ROWS", rows as u32).define("PAIRS", pairs as u32)
            }
            Kernel::Coop(coop) => coop.program(),
        }
    }

    /// Where the kernel's numbers come from.
    pub(super) fn loaders(self, x: DType, w: DType, whole: bool) -> [Source; 2] {
        if let Kernel::Coop(_) = self {
            let x = if x == DType::F16 { shader::MATMUL_X16_F16 } else { shader::MATMUL_X16_F32 };
            return [x, shader::MATMUL_W16_F16];
        }
        [
            match (x, whole) {
                (DType::F32, true) => shader::MATMUL_X_F32X8,
                (DType::F32, false) => shader::MATMUL_X_F32X1,
                (DType::F16, true) => shader::MATMUL_X_F16X8,
                (DType::F16, false) => shader::MATMUL_X_F16X1,
            },
            match (w, whole) {
                (DType::F32, true) => shader::MATMUL_W_F32X8,
                (DType::F32, false) => shader::MATMUL_W_F32X1,
                (DType::F16, true) => shader::MATMUL_W_F16X8,
                (DType::F16, false) => shader::MATMUL_W_F16X1,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(edge: u32, subgroup: u32, workgroup_bytes: u32) -> Matrices {
        Matrices { edge, subgroup, flat: false, software: false, workgroup_bytes, invocations: 1024 }
    }

    #[test]
    fn every_device_has_a_tile_within_its_limits() {
        for edge in [8, 16] {
            for subgroup in [8, 16, 32, 64] {
                for bytes in [16 << 10, 32 << 10, 48 << 10] {
                    let on = device(edge, subgroup, bytes);
                    let known = Coop::known(&on);
                    assert!(!known.is_empty(), "{on:?}");
                    for coop in [known, Coop::further(&on)].concat() {
                        assert!(coop.bytes() <= bytes && coop.threads() <= 1024, "{coop:?} on {on:?}");
                        let [rows, columns] = coop.tile();
                        for side in [rows, columns] {
                            assert_eq!(coop.share(side) * coop.threads() * 8, side * coop.depth, "{coop:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn large_products_get_large_tiles_and_narrow_ones_narrow_tiles() {
        let on = device(16, 32, 48 << 10);
        let best = |m, n| Coop::known(&on).into_iter().min_by_key(|c| c.cost(m, n)).map(Coop::tile);
        assert_eq!(best(24_300, 1152), Some([128, 128]));
        assert_eq!(best(300, 4608), Some([128, 64]));
        assert_eq!(best(77, 1152), Some([64, 64]));
        assert_eq!(best(100_000, 8), Some([128, 32]));
    }
}
