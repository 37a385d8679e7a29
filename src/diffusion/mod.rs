//! Schedules, start noise and the sampling loops: a network is only ever a denoiser here.
//!
//! [`sampler`] and [`schedule`] are rectified flow; [`guided`] is the loop of networks that predict noise, over the
//! schedulers in [`ddim`] and [`pndm`].

pub mod ddim;
pub mod guided;
pub mod levels;
pub mod noise;
pub mod pndm;
pub mod sampler;
pub mod schedule;
