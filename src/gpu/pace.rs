//! How long work takes, roughly: so that no submission keeps a device so long that its driver takes it back.

use std::time::Instant;

/// Recorded work is handed over once this many seconds of it are expected.
const SUBMIT: f64 = 0.5;
/// What was measured over less than this is mostly the cost of handing work over.
const TELLS: f64 = 0.01;

/// A guess at the speed of a device, corrected by what waiting for it showed.
pub(super) struct Pace {
    /// Seconds for an operation and for a byte.
    flop: f64,
    byte: f64,
    /// Measured over guessed.
    correction: f64,
    /// Guessed seconds that are recorded, and those handed over since the last wait.
    recorded: f64,
    running: f64,
    since: Option<Instant>,
    /// Operations recorded since somebody began to count.
    pub(super) flops: f64,
}

impl Pace {
    /// The first guess: what modest devices of this kind reach.
    pub(super) fn of(kind: wgpu::DeviceType) -> Self {
        let (flops, bytes) = match kind {
            wgpu::DeviceType::Cpu => (1e10, 2e9),
            wgpu::DeviceType::DiscreteGpu => (2e12, 2e11),
            _ => (2e11, 2e10),
        };
        Self {
            flop: 1.0 / flops,
            byte: 1.0 / bytes,
            correction: 1.0,
            recorded: 0.0,
            running: 0.0,
            since: None,
            flops: 0.0,
        }
    }

    fn guess(&self, flops: f64, bytes: f64) -> f64 {
        (flops * self.flop).max(bytes * self.byte)
    }

    pub(super) fn expected(&self, flops: f64, bytes: f64) -> f64 {
        self.correction * self.guess(flops, bytes)
    }

    /// Counts recorded work. Whether it is time to hand it over.
    pub(super) fn recorded(&mut self, flops: f64, bytes: f64) -> bool {
        self.flops += flops;
        self.recorded += self.guess(flops, bytes);
        self.recorded * self.correction > SUBMIT
    }

    pub(super) fn submitted(&mut self) {
        self.running += std::mem::take(&mut self.recorded);
        self.since.get_or_insert_with(Instant::now);
    }

    /// The device has done everything: the time since the first submission says how good the guess was. Half of what
    /// it says is believed, since the host may have been slow, and a first run compiles.
    pub(super) fn waited(&mut self) {
        let took = self.since.take().map_or(0.0, |since| since.elapsed().as_secs_f64());
        let guessed = std::mem::take(&mut self.running);
        if took > TELLS && guessed > 0.0 {
            let told = (took / (guessed * self.correction)).clamp(0.1, 10.0);
            self.correction = (self.correction * told.sqrt()).clamp(1e-3, 1e3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_device_gets_less_at_a_time() {
        let mut pace = Pace::of(wgpu::DeviceType::Cpu);
        assert!(!pace.recorded(0.4e10, 0.0) && pace.recorded(0.2e10, 0.0), "half a second is enough");
        let before = pace.expected(1e10, 0.0);
        pace.submitted();
        pace.running = 1e-3; // as if far less had been guessed
        std::thread::sleep(std::time::Duration::from_millis(20));
        pace.waited();
        assert!(pace.expected(1e10, 0.0) > 2.0 * before);
        let slow = pace.expected(1e10, 0.0);
        pace.waited();
        assert_eq!(pace.expected(1e10, 0.0), slow, "nothing ran, nothing is learnt");
    }
}
