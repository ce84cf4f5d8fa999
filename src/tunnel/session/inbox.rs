//! What arrives.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::entry::Entry;
use super::payload::Payload;
use super::shared::Shared;
use super::stream::Stream;
use crate::yamux::{self, Host, Receiver, Session};

/// Gets the streams that the peer opens. Called on the thread that reads the
/// connection: it must not wait. To refuse a stream is to drop it: the peer gets an
/// ACK and an RST.
pub trait Acceptor: Send {
    fn accept(&mut self, stream: Stream);

    /// The session has refused one: as many live as it may have.
    fn refused(&mut self) {}
}

impl Acceptor for Box<dyn Acceptor> {
    fn accept(&mut self, stream: Stream) {
        (**self).accept(stream);
    }

    fn refused(&mut self) {
        (**self).refused();
    }
}

impl<F: FnMut(Stream) + Send> Acceptor for F {
    fn accept(&mut self, stream: Stream) {
        self(stream);
    }
}

/// The receiving end of a session. It never waits. When it is dropped the session
/// is lost ([`Session::lose`](super::Session::lose)), if it hasn't ended before.
pub struct Inbox {
    shared: Arc<Shared>,
    receiver: Receiver<Arc<Entry>>,
    acceptor: Box<dyn Acceptor>,
    /// What comes after a mistake has no meaning.
    over: bool,
    /// The peer opened an id that is ours to open.
    misnumbered: bool,
}

impl Inbox {
    pub(super) fn new(shared: Arc<Shared>, acceptor: Box<dyn Acceptor>) -> Self {
        Self {
            shared,
            receiver: Receiver::new(),
            acceptor,
            over: false,
            misnumbered: false,
        }
    }

    /// Takes in all of `bytes`, which may be cut anywhere. What is against the rules
    /// ends the session, and the line is told.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        let mut desk = Desk {
            shared: &self.shared,
            acceptor: &mut *self.acceptor,
            misnumbered: &mut self.misnumbered,
            fresh: None,
        };
        if let Err(fatal) = self.receiver.receive(bytes, Instant::now(), &mut desk) {
            self.over = true;
            self.shared.end(Some(fatal));
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.shared.end(None);
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

struct Desk<'a> {
    shared: &'a Shared,
    acceptor: &'a mut dyn Acceptor,
    misnumbered: &'a mut bool,
    /// A stream that isn't in the table yet: who gets it could end it before.
    fresh: Option<Arc<Entry>>,
}

impl Host for Desk<'_> {
    type Handle = Arc<Entry>;
    type Payload = Payload;

    fn session<R>(&mut self, f: impl FnOnce(&mut Session<Arc<Entry>>) -> R) -> R {
        self.shared.with(f)
    }

    fn stream<R>(
        &mut self,
        handle: &Arc<Entry>,
        f: impl FnOnce(&mut yamux::Stream<Payload>) -> R,
    ) -> R {
        let result = handle.with(f);
        if let Some(entry) = self.fresh.take() {
            self.acceptor.accept(Stream::new(entry));
        }
        result
    }

    fn accept(&mut self, stream: yamux::Stream<Payload>) -> Option<Arc<Entry>> {
        let entry = Entry::new(stream, self.shared);
        if self.shared.role().opens(entry.id()) && !mem::replace(self.misnumbered, true) {
            log::warn!(
                "the peer opens stream {}, an id of ours (tunnels.md §2.4)",
                entry.id()
            );
        }
        self.fresh = Some(entry.clone());
        Some(entry)
    }

    fn refused(&mut self) {
        self.acceptor.refused();
    }
}
