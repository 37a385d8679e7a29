//! Seeded shapes and numbers.

/// SplitMix64.
pub struct Random(u64);

/// The seed of all cases: `RESIDUA_SEED`, or 1.
pub fn seed() -> u64 {
    std::env::var("RESIDUA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

impl Random {
    /// A stream of its own for each test, so that adding a case to one changes no other.
    pub fn new(stream: &str) -> Self {
        let start = stream.bytes().fold(seed(), |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Self(start)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// About normal: mean 0, variance 1 (the sum of three uniform numbers).
    pub fn normal(&mut self) -> f32 {
        let uniform = |z: u64| (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
        uniform(self.next()) + uniform(self.next()) + uniform(self.next())
    }

    pub fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }

    /// Any 32 bits that are no signalling NaN (which a processor may quieten on the way).
    pub fn bits(&mut self, count: usize) -> Vec<f32> {
        let quiet = |v: f32| if v.is_nan() { f32::from_bits(v.to_bits() | 0x0040_0000) } else { v };
        (0..count).map(|_| quiet(f32::from_bits(self.next() as u32))).collect()
    }
}
