//! Notices clients that leave while nobody reads from them.
//!
//! A handler that waits for something else (an answer from far away, the next
//! event of a watch) doesn't touch the client's socket, so it would never learn
//! that the client has left. One thread per server waits in `epoll` for the end
//! of all of them.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use socket2::Socket;

use crate::net::{Cancel, Reason};
use crate::threads::{self, Stack};

/// Watches sockets for a server. The thread starts with the first one.
pub(super) struct ClientWatcher {
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    epoll: Option<Arc<Epoll>>,
    waiting: HashMap<u64, Cancel>,
    next: u64,
    stopped: bool,
}

struct Epoll {
    fd: OwnedFd,
    /// Readable once the thread shall end.
    stop: OwnedFd,
}

/// While it lives, the client's leaving cancels what was given to
/// [`on_client_gone`](super::Responder::on_client_gone).
#[must_use = "watches only while it lives"]
pub struct ClientWatch {
    watcher: Arc<ClientWatcher>,
    epoll: Arc<Epoll>,
    socket: Arc<Socket>,
    key: u64,
}

impl ClientWatcher {
    pub(super) fn new(name: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            state: Mutex::default(),
        })
    }

    /// Fires `cancel` with [`Reason::Cancelled`] when the peer of `socket` closes
    /// its side or the connection breaks. One watch per socket at a time.
    pub(super) fn watch(
        self: &Arc<Self>,
        socket: Arc<Socket>,
        cancel: &Cancel,
    ) -> io::Result<ClientWatch> {
        let mut state = self.state.lock();
        if state.stopped {
            return Err(io::Error::other("the server is stopping"));
        }
        let epoll = if let Some(epoll) = &state.epoll {
            epoll.clone()
        } else {
            let epoll = self.start()?;
            state.epoll.insert(epoll).clone()
        };
        let key = state.next;
        state.next += 1;
        let what = epoll::EventFlags::RDHUP | epoll::EventFlags::ONESHOT;
        epoll::add(&epoll.fd, &*socket, epoll::EventData::new_u64(key), what)?;
        state.waiting.insert(key, cancel.clone());
        drop(state);
        Ok(ClientWatch {
            watcher: self.clone(),
            epoll,
            socket,
            key,
        })
    }

    /// Ends the thread; what is watched now isn't any more.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        state.waiting.clear();
        if let Some(epoll) = state.epoll.take() {
            let _ = rustix::io::write(&epoll.stop, &1u64.to_ne_bytes());
        }
    }

    fn start(self: &Arc<Self>) -> io::Result<Arc<Epoll>> {
        let epoll = Arc::new(Epoll {
            fd: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
        });
        let stop = epoll::EventData::new_u64(STOP);
        epoll::add(&epoll.fd, &epoll.stop, stop, epoll::EventFlags::IN)?;
        let watcher = self.clone();
        let waits_on = epoll.clone();
        threads::spawn(format!("{}-watch", self.name), Stack::Work, move || {
            watcher.run(&waits_on);
        })
        .map_err(io::Error::other)?;
        Ok(epoll)
    }

    fn run(&self, epoll: &Epoll) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&epoll.fd, buffer, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    log::error!("clients that leave are not noticed any more: {error}");
                    return;
                }
            }
            for event in &events {
                let key = event.data.u64();
                if key == STOP {
                    return;
                }
                let cancel = self.state.lock().waiting.remove(&key);
                if let Some(cancel) = cancel {
                    cancel.cancel(Reason::Cancelled);
                }
            }
        }
    }
}

impl Drop for ClientWatch {
    fn drop(&mut self) {
        self.watcher.state.lock().waiting.remove(&self.key);
        // Fails only when it isn't there any more.
        let _ = epoll::delete(&self.epoll.fd, &*self.socket);
    }
}

const STOP: u64 = u64::MAX;

/// Events taken in one call.
const EVENTS: usize = 64;
