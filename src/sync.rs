//! The locks of what is proven with loom: `tests/loom` compiles those rooms with
//! its own `sync`, which has the same names.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
pub(crate) use std::thread::{Thread, current, park};

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
