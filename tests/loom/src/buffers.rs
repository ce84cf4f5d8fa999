//! What sessions see of the pool of buffers: here none is used again.

pub type Buffer = Vec<u8>;

pub const FRAME: usize = 32 * 1024 - 8 + 14;

pub const LITTLE: usize = 4 * 1024;

pub fn little() -> Buffer {
    Vec::with_capacity(LITTLE)
}
