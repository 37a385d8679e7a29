//! Schedules, start noise and (to come) the sampling loop: a network is only ever a denoiser here.

pub mod noise;
pub mod schedule;
