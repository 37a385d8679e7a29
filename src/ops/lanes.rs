//! How many neighbouring numbers a kernel takes at a time. On software Vulkan a load costs the same whatever its width,
//! and on a GPU wide ones keep more of memory busy, so it is four wherever the lengths allow.

use super::{Class, Gpu, Program, Source, shader};

/// Numbers in one load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lanes {
    Ones,
    Pairs,
    Fours,
}

impl Lanes {
    pub(super) const ALL: [Lanes; 3] = [Lanes::Ones, Lanes::Pairs, Lanes::Fours];

    /// The most that divides all of these lengths and places.
    pub(super) fn of(lengths: &[usize]) -> Self {
        let by = |n: usize| lengths.iter().all(|l| l.is_multiple_of(n));
        match () {
            () if by(4) => Lanes::Fours,
            () if by(2) => Lanes::Pairs,
            () => Lanes::Ones,
        }
    }

    pub(super) fn count(self) -> usize {
        match self {
            Lanes::Ones => 1,
            Lanes::Pairs => 2,
            Lanes::Fours => 4,
        }
    }

    /// A length or place in steps of these, for a kernel's parameters.
    pub(super) fn steps(self, numbers: usize) -> u32 {
        (numbers / self.count()) as u32
    }

    /// The file that defines `Num`, `Word` and what belongs to them.
    pub(super) fn file(self) -> Source {
        match self {
            Lanes::Ones => shader::LIB_ONES,
            Lanes::Pairs => shader::LIB_PAIRS,
            Lanes::Fours => shader::LIB_FOURS,
        }
    }
}

/// How the invocations of a row kernel add up what each of them has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Across {
    /// The workgroup is one subgroup of 8: no barrier, which costs as much on a CPU as the rest of a row.
    Subgroup,
    /// 64 invocations and a barrier: right on every adapter.
    Group,
}

impl Across {
    pub(super) const ALL: [Across; 2] = [Across::Subgroup, Across::Group];

    pub(super) fn on(gpu: &Gpu) -> Self {
        match gpu.class() {
            Class::Simd8 => Across::Subgroup,
            _ => Across::Group,
        }
    }

    /// Invocations of a workgroup.
    pub(super) fn width(self) -> usize {
        match self {
            Across::Subgroup => 8,
            Across::Group => 64,
        }
    }

    /// A row kernel with its `WIDTH` and, if it sums `across` the workgroup, what does that.
    pub(super) fn program(self, main: Source) -> Program {
        let file = match self {
            Across::Subgroup => shader::LIB_ACROSS_SUBGROUP,
            Across::Group => shader::LIB_ACROSS_GROUP,
        };
        Program::of(main).define("WIDTH", self.width() as u32).link(file)
    }

    /// Loop iterations of an invocation that looks at a row `looks` times and adds up across the row `sums` times.
    pub(super) fn iterations(self, row: usize, looks: usize, sums: usize) -> usize {
        looks * row.div_ceil(self.width()) + if self == Across::Group { sums * self.width() } else { 0 }
    }
}
