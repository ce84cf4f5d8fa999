//! The two things that bulk clients do.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

/// Takes all that comes, until the end.
pub(crate) fn take(mut socket: &TcpStream, bytes: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Sends without end.
pub(crate) fn give(mut socket: &TcpStream) -> io::Result<()> {
    let buffer = vec![7; PIECE];
    loop {
        socket.write_all(&buffer)?;
    }
}

/// What is read or written at once.
const PIECE: usize = 256 * 1024;
