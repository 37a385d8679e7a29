//! Traps of the engine, one test each: limits, faults, order, large grids, borrowed devices, broken checkpoints.

#[path = "engine/checkpoints.rs"]
mod checkpoints;
#[path = "engine/device.rs"]
mod device;
#[path = "engine/traps.rs"]
mod traps;
#[path = "engine/tune.rs"]
mod tune;
