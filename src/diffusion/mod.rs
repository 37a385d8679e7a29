//! Schedules, start noise and the sampling loop: a network is only ever a denoiser here.

pub mod noise;
pub mod sampler;
pub mod schedule;
