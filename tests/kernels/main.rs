//! Every kernel against plain f64 loops (`tests/reference`), on each kernel family the adapter has.
//! `RESIDUA_DEVICE` picks the adapter, `RESIDUA_SEED` other shapes and numbers.

#[path = "../reference/mod.rs"]
mod reference;

mod attention;
mod conv;
mod device;
mod elementwise;
mod heads;
mod judge;
mod layout;
mod matmul;
mod norm;
mod random;
mod reduce;
mod step;
