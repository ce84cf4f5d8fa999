//! TCP: the first of several addresses that answers.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::abort::abort;
use super::{Cancel, Deadline, Guard, Reason};

/// Options of every TCP connection, dialled or accepted.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Probes an idle connection after this long, then every ten seconds (60 s).
    pub keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged before the
    /// kernel gives the connection up (20 s, decisions.md §6.3).
    pub user_timeout: Option<Duration>,
    /// The next address is tried beside the earlier ones after this long (250 ms,
    /// RFC 8305 §5).
    pub stagger: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            keepalive: Some(Duration::from_mins(1)),
            user_timeout: Some(Duration::from_secs(20)),
            stagger: Duration::from_millis(250),
        }
    }
}

impl ConnectOptions {
    /// Sets them, and `TCP_NODELAY`, on a socket.
    pub fn apply(&self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        if let Some(time) = self.keepalive {
            let probes = TcpKeepalive::new()
                .with_time(time)
                .with_interval(Duration::from_secs(10));
            socket.set_tcp_keepalive(&probes)?;
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(self.user_timeout)?;
        Ok(())
    }
}

/// Why no address could be connected to.
#[derive(Debug)]
pub enum ConnectError {
    Unreachable(Unreachable),
    Cancelled(Reason),
}

/// Every address that was tried, and what became of it.
#[derive(Debug)]
pub struct Unreachable {
    pub attempts: Vec<(SocketAddr, io::Error)>,
    /// The deadline passed (an address that refuses at once is another matter).
    pub timed_out: bool,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, error)) in self.attempts.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {error}")?;
        }
        if self.attempts.is_empty() {
            f.write_str("no time was left to try")?;
        }
        Ok(())
    }
}

/// A connection under way. It ends at once when the work is cancelled: aborting a
/// connecting socket makes it ready.
struct Attempt {
    address: SocketAddr,
    socket: Arc<Socket>,
    guard: Guard,
}

/// Those under way. What is left when they are dropped is aborted: one that lost, or
/// that was cancelled, may have been accepted, and an end without a byte before it
/// looks like a whole, empty upload. (To a server that doesn't care it is no worse.)
struct Open(Vec<Attempt>);

impl Drop for Open {
    fn drop(&mut self) {
        for attempt in &self.0 {
            abort(&attempt.socket);
        }
    }
}

/// Connects to the first address that answers. The socket is in blocking mode;
/// the guard keeps it registered with `cancel`, which aborts it.
pub fn connect(
    addresses: &[SocketAddr],
    options: &ConnectOptions,
    deadline: Deadline,
    cancel: &Cancel,
) -> Result<(Arc<Socket>, Guard), ConnectError> {
    let addresses = alternate(addresses);
    let mut untried = addresses.iter().take(MAX_ADDRESSES).peekable();
    let mut all = Open(Vec::new());
    let open = &mut all.0;
    let mut attempts = Vec::new();
    let mut next_start = Instant::now();
    loop {
        if let Some(reason) = cancel.reason() {
            return Err(ConnectError::Cancelled(reason));
        }
        let Some(left) = deadline.remaining() else {
            let late = open.iter().map(|attempt| {
                let error = io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
                (attempt.address, error)
            });
            attempts.extend(late);
            return Err(ConnectError::Unreachable(Unreachable {
                attempts,
                timed_out: true,
            }));
        };
        if (open.is_empty() || Instant::now() >= next_start)
            && let Some(&address) = untried.next()
        {
            match start(address, options) {
                Ok(socket) => {
                    let guard = cancel.on_aborted(socket.clone()).map_err(|reason| {
                        // On this machine it is connected already.
                        abort(&socket);
                        ConnectError::Cancelled(reason)
                    })?;
                    open.push(Attempt {
                        address,
                        socket,
                        guard,
                    });
                    next_start = Instant::now() + options.stagger;
                }
                Err(error) => attempts.push((address, error)),
            }
            continue;
        }
        if open.is_empty() {
            return Err(ConnectError::Unreachable(Unreachable {
                attempts,
                timed_out: false,
            }));
        }
        let wait = match untried.peek() {
            Some(_) => left.min(next_start.saturating_duration_since(Instant::now())),
            None => left,
        };
        let Some(index) = first_ready(open, wait) else {
            continue;
        };
        let attempt = open.swap_remove(index);
        match outcome(&attempt.socket) {
            Ok(()) => return Ok((attempt.socket, attempt.guard)),
            Err(error) => {
                attempts.push((attempt.address, error));
                next_start = Instant::now();
            }
        }
    }
}

fn start(address: SocketAddr, options: &ConnectOptions) -> io::Result<Arc<Socket>> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    options.apply(&socket)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(Arc::new(socket)),
    }
}

/// The place of one that is connected or has failed, within `wait`.
fn first_ready(open: &[Attempt], wait: Duration) -> Option<usize> {
    let mut fds: Vec<PollFd<'_>> = open
        .iter()
        .map(|attempt| PollFd::new(&*attempt.socket, PollFlags::OUT))
        .collect();
    // A poll that fails or is interrupted is like one that saw nothing: the
    // deadline ends the loop.
    poll(&mut fds, Timespec::try_from(wait).ok().as_ref()).ok()?;
    fds.iter().position(|fd| !fd.revents().is_empty())
}

fn outcome(socket: &Socket) -> io::Result<()> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    // Ready without an error and without a peer: it was aborted.
    socket.peer_addr()?;
    socket.set_nonblocking(false)
}

/// The families in turns (RFC 8305 §4), so that a broken IPv6 route with many
/// addresses doesn't stand before the one that works.
fn alternate(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else {
        return Vec::new();
    };
    let (mut same, mut other): (Vec<SocketAddr>, Vec<SocketAddr>) = addresses
        .iter()
        .partition(|address| address.is_ipv6() == first.is_ipv6());
    same.reverse();
    other.reverse();
    let mut sorted = Vec::with_capacity(addresses.len());
    while !(same.is_empty() && other.is_empty()) {
        sorted.extend(same.pop());
        sorted.extend(other.pop());
    }
    sorted
}

/// Addresses tried for one dial; names with more are for load balancing, and the
/// first dozen says whether the service is up.
const MAX_ADDRESSES: usize = 16;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::net::testing::{far_deadline, listen};

    #[test]
    fn families_take_turns_and_nothing_is_lost() {
        let addresses: Vec<SocketAddr> = [
            "[2001:db8::1]:1",
            "[2001:db8::2]:1",
            "[2001:db8::3]:1",
            "192.0.2.1:1",
        ]
        .iter()
        .map(|text| text.parse().expect("address"))
        .collect();
        let sorted = alternate(&addresses);
        assert_eq!(sorted[0], addresses[0]);
        assert_eq!(sorted[1], addresses[3]);
        assert_eq!(sorted[2..], addresses[1..3]);
        assert!(alternate(&[]).is_empty());
    }

    fn assert_reset(listener: &TcpListener) {
        let (mut accepted, _) = listener.accept().expect("accepted");
        let error = accepted.read(&mut [0; 1]).expect_err("a clean end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }

    #[test]
    fn tt09_an_address_that_loses_sees_a_reset() {
        let [(first, near), (second, far)] = [listen(), listen()];
        let at_once = ConnectOptions {
            stagger: Duration::ZERO,
            ..ConnectOptions::default()
        };
        let connected = connect(&[near, far], &at_once, far_deadline(), &Cancel::new());
        let (socket, _guard) = connected.expect("connected");
        let winner = socket.peer_addr().expect("peer").as_socket();
        assert_reset(if winner == Some(near) {
            &second
        } else {
            &first
        });
    }

    /// Cancelled at whatever moment, the other end sees nothing, or a reset.
    #[test]
    fn tt09_a_connection_that_is_cancelled_is_never_a_clean_end() {
        let (listener, address) = listen();
        listener.set_nonblocking(true).expect("option");
        for round in 0..500 {
            let cancel = Cancel::new();
            let canceller = cancel.clone();
            let thread = std::thread::spawn(move || {
                for _ in 0..round * 20 {
                    std::hint::spin_loop();
                }
                canceller.cancel(Reason::Cancelled);
            });
            let connected = connect(
                &[address],
                &ConnectOptions::default(),
                far_deadline(),
                &cancel,
            );
            thread.join().expect("thread");
            if let Ok((socket, _)) = connected {
                // It was there first, and is its caller's.
                abort(&socket);
            }
            if let Ok((mut accepted, _)) = listener.accept() {
                accepted.set_nonblocking(false).expect("option");
                let error = accepted.read(&mut [0; 1]).expect_err("a clean end");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            }
        }
    }
}
