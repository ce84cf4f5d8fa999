//! Whether a write would have to wait.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

/// True when the system takes some bytes for this socket at once, or the socket has
/// failed, which a write finds out without waiting.
pub fn is_writable(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let now = Timespec::default();
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}
