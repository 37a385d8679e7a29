//! Traps of the engine, one test each: limits, faults, order, large grids, borrowed devices, broken checkpoints, the
//! seam of the cache.

#[path = "engine/cache.rs"]
mod cache;
#[path = "engine/checkpoints.rs"]
mod checkpoints;
#[path = "engine/device.rs"]
mod device;
#[path = "engine/hostile.rs"]
mod hostile;
#[path = "engine/int8.rs"]
mod int8;
#[path = "engine/measures.rs"]
mod measures;
#[path = "torch_file/mod.rs"]
mod torch_file;
#[path = "engine/torch_files.rs"]
mod torch_files;
#[path = "engine/traps.rs"]
mod traps;
#[path = "engine/tune.rs"]
mod tune;
