//! The locks of what is proven with loom: `tests/loom` compiles those rooms with
//! its own `sync`, which has the same names.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
