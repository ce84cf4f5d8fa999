//! Whether the other end of a connection is near: on this machine, or beside it.

use std::ffi::{c_int, c_void};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::Socket;

/// Keeps what waits for us in the kernel small, where the other end is [`near`](is_near).
///
/// There the way is faster than we read, and what is read late lies here: the kernel
/// lets it grow to megabytes, 4 ms at a GB/s, behind which everything small waits too.
/// Where the way is longer nothing is done: there the kernel finds out how much must be
/// under way, and setting the size would put an end to that.
pub(crate) fn bound_backlog(socket: &Socket) {
    if is_near(socket) {
        // Refused: it is large then, and all the same right.
        let _ = socket.set_recv_buffer_size(BACKLOG);
    }
}

/// The shortest round trip until now is at most [`NEAR`].
fn is_near(socket: &Socket) -> bool {
    shortest_round_trip(socket).is_some_and(|took| took <= NEAR)
}

/// As the kernel has measured it, of a TCP connection.
fn shortest_round_trip(socket: &Socket) -> Option<Duration> {
    unsafe extern "C" {
        fn getsockopt(
            socket: c_int,
            level: c_int,
            name: c_int,
            value: *mut c_void,
            length: *mut u32,
        ) -> c_int;
    }
    let mut info = [0_u32; MIN_RTT + 1];
    let mut length = size_of_val(&info) as u32;
    let value = info.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `length` bytes, which is what `info` has room
    // for, and every pattern of bits is a `u32`.
    let result = unsafe {
        getsockopt(
            socket.as_raw_fd(),
            IPPROTO_TCP,
            TCP_INFO,
            value,
            &raw mut length,
        )
    };
    // An old kernel has less to say; one without a measurement says all ones.
    let told = result == 0 && length as usize == size_of_val(&info);
    let micros = info[MIN_RTT];
    (told && micros != u32::MAX).then(|| Duration::from_micros(micros.into()))
}

/// Loopback has 5 to 50 µs. At 100 µs [`BACKLOG`] still carries 1.3 GB/s.
const NEAR: Duration = Duration::from_micros(100);

/// In bytes of data, about: the kernel doubles it for its own part.
const BACKLOG: usize = 128 * 1024;

const IPPROTO_TCP: c_int = 6;
const TCP_INFO: c_int = 11;

/// Where `tcpi_min_rtt`, in microseconds, stands in `struct tcp_info`.
const MIN_RTT: usize = 37;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use socket2::{Domain, Type};

    use super::*;
    use crate::net::testing::tcp_pair;

    #[test]
    fn little_waits_for_an_end_on_the_same_machine_and_stays_little() {
        // On a busy machine a handshake may take its time.
        let mut pairs = (0..100).map(|_| tcp_pair());
        let (mut near, mut far) = pairs.find(|(_, far)| is_near(far)).expect("one is near");
        bound_backlog(&far);
        let bounded = far.recv_buffer_size().expect("told");
        assert_eq!(bounded, 2 * BACKLOG);
        let piece = vec![7; 1 << 20];
        let sender = std::thread::spawn(move || {
            for _ in 0..32 {
                near.write_all(&piece).expect("taken");
            }
        });
        let mut piece = vec![0; 1 << 20];
        for _ in 0..32 {
            far.read_exact(&mut piece).expect("it comes");
        }
        sender.join().expect("sender");
        assert_eq!(far.recv_buffer_size().expect("told"), bounded);
    }

    #[test]
    fn who_is_no_tcp_connection_is_not_near() {
        let (one, _other) = Socket::pair(Domain::UNIX, Type::STREAM, None).expect("pair");
        assert_eq!(shortest_round_trip(&one), None);
        let closed = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        assert!(!is_near(&closed));
    }
}
