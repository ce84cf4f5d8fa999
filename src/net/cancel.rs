//! Work is ended early by closing or waking what it blocks on.
//!
//! A piece of work that may have to end early owns a [`Cancel`]. Whatever the
//! work blocks on is registered there for as long as it blocks: a socket, which
//! is shut down, or a waker, which makes a waiting queue look again. So nothing
//! polls a flag in a loop, and the first reason given is the one that counts.

use std::fmt;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::Socket;

use super::abort::abort;

/// Why a piece of work was ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The peer asked for it (`proxy_cancel`), or the client behind it left.
    Cancelled,
    /// The work's own time limit passed.
    Deadline,
    /// The connection that the work belonged to was lost.
    ConnectionLost,
    /// The process is shutting down.
    Shutdown,
    /// The work failed elsewhere (another thread of the same request, say).
    Failed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "cancelled by the peer",
            Self::Deadline => "deadline exceeded",
            Self::ConnectionLost => "connection to the control plane lost",
            Self::Shutdown => "shutting down",
            Self::Failed => "failed",
        })
    }
}

/// A handle by which any thread can end a piece of work. Clones share the work.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    reason: Option<Reason>,
    next: u64,
    registered: Vec<(u64, Registered)>,
}

enum Registered {
    Socket(Arc<Socket>),
    Aborted(Arc<Socket>),
    Waker(Arc<dyn Fn() + Send + Sync>),
}

impl Cancel {
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the work: remembers the reason, shuts registered sockets down and
    /// calls registered wakers. Only the first call has an effect; it returns true.
    pub fn cancel(&self, reason: Reason) -> bool {
        let wakers = {
            let mut state = self.0.lock();
            if state.reason.is_some() {
                return false;
            }
            state.reason = Some(reason);
            let mut wakers = Vec::new();
            for (_, registered) in state.registered.drain(..) {
                match registered {
                    // Under the lock, so that a socket whose guard was dropped
                    // (and which now serves somebody else) is never shut down.
                    Registered::Socket(socket) => {
                        // So that closing it resets it: an end behind unsent data
                        // would never reach a peer that doesn't read.
                        let _ = socket.set_linger(Some(Duration::ZERO));
                        let _ = socket.shutdown(Shutdown::Both);
                    }
                    Registered::Aborted(socket) => abort(&socket),
                    Registered::Waker(waker) => wakers.push(waker),
                }
            }
            wakers
        };
        // Outside the lock: a waker takes locks of its own.
        for waker in wakers {
            waker();
        }
        true
    }

    /// The reason, once cancelled.
    pub fn reason(&self) -> Option<Reason> {
        self.0.lock().reason
    }

    /// Shuts `socket` down if the work is cancelled while the guard lives; fails
    /// when it already is.
    pub fn on_socket(&self, socket: Arc<Socket>) -> Result<Guard, Reason> {
        self.register(Registered::Socket(socket))
    }

    /// Like [`on_socket`](Self::on_socket), but the other end sees a reset and no end
    /// ([`abort`]).
    pub fn on_aborted(&self, socket: Arc<Socket>) -> Result<Guard, Reason> {
        self.register(Registered::Aborted(socket))
    }

    /// Calls `waker` if the work is cancelled while the guard lives; fails when it
    /// already is. The waker may still run once while the guard is being dropped.
    pub fn on_wake(&self, waker: Arc<dyn Fn() + Send + Sync>) -> Result<Guard, Reason> {
        self.register(Registered::Waker(waker))
    }

    /// How many things are registered now.
    #[cfg(test)]
    pub(crate) fn registered(&self) -> usize {
        self.0.lock().registered.len()
    }

    fn register(&self, what: Registered) -> Result<Guard, Reason> {
        let mut state = self.0.lock();
        if let Some(reason) = state.reason {
            return Err(reason);
        }
        let key = state.next;
        state.next += 1;
        state.registered.push((key, what));
        Ok(Guard {
            cancel: self.clone(),
            key,
        })
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.reason()).finish()
    }
}

/// Keeps something registered with a [`Cancel`]; dropping it takes it out again.
#[derive(Debug)]
#[must_use = "what is registered is taken out when the guard is dropped"]
pub struct Guard {
    cancel: Cancel,
    key: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.cancel
            .0
            .lock()
            .registered
            .retain(|(key, _)| *key != self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn connected() -> (Arc<Socket>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        (Arc::new(Socket::from(near)), far)
    }

    #[test]
    fn the_first_reason_counts() {
        let cancel = Cancel::new();
        assert!(cancel.cancel(Reason::Deadline));
        assert!(!cancel.cancel(Reason::Cancelled));
        assert_eq!(cancel.reason(), Some(Reason::Deadline));
    }

    #[test]
    fn a_registered_socket_is_shut_down() {
        let cancel = Cancel::new();
        let (near, mut far) = connected();
        let _guard = cancel.on_socket(near).expect("not cancelled");
        cancel.cancel(Reason::Cancelled);
        assert_eq!(far.read(&mut [0; 8]).expect("read"), 0);
    }

    #[test]
    fn a_socket_that_is_to_be_aborted_ends_with_a_reset() {
        let cancel = Cancel::new();
        let (near, mut far) = connected();
        let _guard = cancel.on_aborted(near).expect("not cancelled");
        cancel.cancel(Reason::Cancelled);
        let error = far.read(&mut [0; 8]).expect_err("a clean end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_socket_whose_guard_is_gone_is_left_alone() {
        let cancel = Cancel::new();
        let (near, mut far) = connected();
        drop(cancel.on_socket(near.clone()).expect("not cancelled"));
        cancel.cancel(Reason::Cancelled);
        near.send(b"x").expect("still open");
        assert_eq!(far.read(&mut [0; 8]).expect("read"), 1);
    }

    #[test]
    fn registering_after_the_end_fails_with_the_reason() {
        let cancel = Cancel::new();
        cancel.cancel(Reason::Shutdown);
        let (near, _far) = connected();
        assert_eq!(
            cancel.on_socket(near).expect_err("cancelled"),
            Reason::Shutdown
        );
    }

    #[test]
    fn wakers_run_once() {
        let cancel = Cancel::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let waker = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let _guard = cancel.on_wake(waker).expect("not cancelled");
        cancel.cancel(Reason::Failed);
        cancel.cancel(Reason::Failed);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
}
