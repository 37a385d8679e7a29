//! The kernels that make products, and which of them suits a shape on a device.

use crate::gpu::shader::{self, Source};
use crate::gpu::{Class, Gpu, Matrices, Program};
use crate::tensor::DType;

/// One algorithm with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// `matmul/tiled`.
    Tiled,
    /// `matmul/simd8`: rows of a workgroup, and pairs of columns a lane.
    Simd8 { rows: usize, pairs: usize },
    /// `matmul/coop`.
    Coop(Coop),
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
}

impl Coop {
    /// Rows and columns of a workgroup.
    fn tile(self) -> [u32; 2] {
        [0, 1].map(|i| self.grid[i] * self.tiles[i] * self.edge)
    }

    fn threads(self) -> u32 {
        self.subgroup * self.grid[0] * self.grid[1]
    }

    /// Workgroup memory: both staged tiles, and for every subgroup a row of its sums, as the shader lays them out.
    fn bytes(self) -> u32 {
        let [rows, columns] = self.tile();
        let staged = (rows + columns) * (self.depth + 8) * 2;
        staged + self.grid[0] * self.grid[1] * self.edge * (self.tiles[1] * self.edge + 8) * 4
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

    /// What a product of m rows and n columns costs next to others of its kind: the groups that run one after the
    /// other, times what each of them does and moves. Guesses to start from; which is fastest, a measurement says.
    fn cost(self, m: usize, n: usize) -> usize {
        /// Workgroups that a device is thought to run at once.
        const AT_ONCE: usize = 256;
        let [rows, columns] = self.tile().map(|t| t as usize);
        let groups = m.div_ceil(rows) * n.div_ceil(columns);
        groups.div_ceil(AT_ONCE) * (rows * columns + 64 * (rows + columns))
    }

    /// Everything that can run, in no order; on a CPU the one that compiles fastest comes first, and the others are
    /// there for the trial to try.
    fn all(on: &Matrices) -> Vec<Self> {
        let make =
            |(grid, tiles, depth)| Self { edge: on.edge, subgroup: on.subgroup, flat: on.flat, grid, tiles, depth };
        let known: &[([u32; 2], [u32; 2], u32)] = match (on.software, on.edge) {
            (true, _) => &[([2, 2], [1, 1], 16), ([2, 1], [1, 2], 32), ([1, 2], [2, 3], 16)],
            (false, 8) => &[([2, 2], [4, 4], 32), ([2, 2], [2, 2], 32), ([2, 2], [8, 4], 16)],
            (false, _) => &[
                ([2, 2], [4, 4], 32),
                ([2, 4], [4, 2], 32),
                ([2, 2], [4, 4], 16),
                ([4, 2], [4, 4], 32),
                ([2, 2], [4, 2], 32),
                ([2, 2], [2, 2], 32),
            ],
        };
        known.iter().copied().map(make).filter(|c| c.fits(on)).collect()
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
            .define("NT", self.tiles[1])
            .define("BK", self.depth)
            .define("STEPS", self.depth / self.edge)
            .define("XS", self.share(rows))
            .define("WS", self.share(columns))
    }
}

impl Kernel {
    /// What can make a product of m rows and n columns on a device, the best guess first and never nothing.
    /// `halves`: weights are halves with channels in whole eights, which matrix kernels ask for.
    pub(super) fn candidates(gpu: &Gpu, [m, n]: [usize; 2], halves: bool) -> Vec<Self> {
        match gpu.matrices() {
            Some(on) if halves => {
                let mut all = Coop::all(&on);
                if !on.software {
                    all.sort_by_key(|c| c.cost(m, n));
                }
                all.into_iter().map(Kernel::Coop).chain([Kernel::Tiled]).collect()
            }
            _ => vec![Self::plain(gpu.class())],
        }
    }

    /// What a class makes products with where it can make no use of matrices.
    fn plain(class: Class) -> Self {
        match class {
            Class::Simd8 => Kernel::Simd8 { rows: 16, pairs: 2 },
            Class::Portable | Class::Coop8 | Class::Coop16 => Kernel::Tiled,
        }
    }

    /// Those of every device, for tests without one: the kernels, and whether each takes halves only.
    pub(super) fn everywhere() -> Vec<(Self, bool)> {
        let device = |edge, subgroup, flat, software| Matrices {
            edge,
            subgroup,
            flat,
            software,
            workgroup_bytes: 48 << 10,
            invocations: 1024,
        };
        // NVIDIA, AMD, Intel; Apple; both imitations
        let devices = [
            device(16, 32, false, false),
            device(16, 64, false, false),
            device(16, 16, false, false),
            device(8, 32, true, false),
            device(8, 8, false, true),
            device(16, 8, false, true),
        ];
        let coop = devices.iter().flat_map(Coop::all).map(|c| (Kernel::Coop(c), true));
        [Class::Portable, Class::Simd8].into_iter().map(|c| (Self::plain(c), false)).chain(coop).collect()
    }

    /// Rows and columns of a workgroup.
    pub(super) fn tile(self) -> [usize; 2] {
        match self {
            Kernel::Tiled => [64, 64],
            Kernel::Simd8 { rows, pairs } => [rows, pairs * 16],
            Kernel::Coop(coop) => coop.tile().map(|t| t as usize),
        }
    }

    /// The kernel file with its numbers.
    pub(super) fn program(self) -> Program {
        match self {
            Kernel::Tiled => Program::of(shader::MATMUL_TILED),
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
