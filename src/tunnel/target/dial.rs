//! Sockets to targets.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::net::{self, Cancel, ConnectError, ConnectOptions, Deadline, Reason, Unreachable};

/// Why no socket came of it.
#[derive(Debug)]
pub(super) enum Failure {
    Unreachable(Unreachable),
    Io(io::Error),
    TimedOut,
    Cancelled(Reason),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => why.fmt(f),
            Self::Io(why) => why.fmt(f),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Cancelled(why) => why.fmt(f),
        }
    }
}

/// The first address that answers; each next one is tried a little later beside it.
pub(super) fn tcp(
    addresses: &[SocketAddr],
    options: &ConnectOptions,
    deadline: Deadline,
    cancel: &Cancel,
) -> Result<Arc<Socket>, Failure> {
    match net::connect(addresses, options, deadline, cancel) {
        // The kernel may choose the very port that is dialled: nobody listens there.
        Ok((socket, _)) if is_own_echo(&socket) => {
            Err(Failure::Io(io::ErrorKind::ConnectionRefused.into()))
        }
        // Without its guard: from here on an end must be an abort, which a
        // cancelled socket's shutdown is not.
        Ok((socket, _guard)) => Ok(socket),
        Err(ConnectError::Cancelled(reason)) => Err(Failure::Cancelled(reason)),
        Err(ConnectError::Unreachable(why)) => Err(Failure::Unreachable(why)),
    }
}

fn is_own_echo(socket: &Socket) -> bool {
    match (socket.local_addr(), socket.peer_addr()) {
        (Ok(local), Ok(peer)) => local.as_socket() == peer.as_socket(),
        _ => false,
    }
}

/// A socket that hears only its peer. Nobody is asked whether it is there.
pub(super) fn udp(addresses: &[SocketAddr]) -> Result<Arc<Socket>, Failure> {
    let mut attempts = Vec::new();
    for address in addresses {
        let socket = Socket::new(Domain::for_address(*address), Type::DGRAM, None);
        let connected = socket.and_then(|socket| {
            socket.connect(&(*address).into())?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => return Ok(Arc::new(socket)),
            Err(error) => attempts.push((*address, error)),
        }
    }
    Err(Failure::Unreachable(Unreachable {
        attempts,
        timed_out: false,
    }))
}

/// A stream socket of this machine. While its server accepts nobody it is tried
/// again: a connect that waits there could not be ended.
pub(super) fn unix(
    path: &Path,
    deadline: Deadline,
    cancel: &Cancel,
) -> Result<Arc<Socket>, Failure> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(Failure::Io)?;
    let address = SockAddr::unix(path).map_err(Failure::Io)?;
    socket.set_nonblocking(true).map_err(Failure::Io)?;
    let pause = Arc::new((Mutex::new(()), Condvar::new()));
    let waking = pause.clone();
    let _guard = cancel
        .on_wake(Arc::new(move || {
            // The lock orders this after a waiter's look at the reason.
            drop(waking.0.lock());
            waking.1.notify_all();
        }))
        .map_err(Failure::Cancelled)?;
    loop {
        match socket.connect(&address) {
            Ok(()) => break,
            // The server's queue is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Failure::Io(error)),
        }
        let mut held = pause.0.lock();
        if let Some(reason) = cancel.reason() {
            return Err(Failure::Cancelled(reason));
        }
        if deadline.remaining().is_none() {
            return Err(Failure::TimedOut);
        }
        let until = deadline.instant().min(Instant::now() + RETRY);
        pause.1.wait_until(&mut held, until);
    }
    socket.set_nonblocking(false).map_err(Failure::Io)?;
    Ok(Arc::new(socket))
}

/// Between two tries of a socket whose server is busy.
const RETRY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// What a dial of a free port can come to, by a bad coincidence.
    #[test]
    fn a_socket_that_is_connected_to_itself_is_noticed() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).expect("bind");
        let own = socket.local_addr().expect("address");
        socket.connect(&own).expect("to itself");
        assert!(is_own_echo(&socket));
        let (near, _far) = net::testing::tcp_pair();
        assert!(!is_own_echo(&near));
    }
}
