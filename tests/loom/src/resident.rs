//! Memory is given back to nobody here.

use std::sync::Weak;

pub trait Store: Send + Sync {
    fn sweep(&self) -> bool;
}

pub fn look_after(_store: Weak<dyn Store>) {}

pub fn left_behind(_bytes: usize) {}
