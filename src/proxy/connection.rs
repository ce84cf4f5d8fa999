//! What the requests of one connection share.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError, bounded};
use parking_lot::Mutex;

use super::Outlet;
use super::streams::Streams;
use super::ticket::Ticket;
use crate::http::Headers;
use crate::link::Message;
use crate::net::{Cancel, Reason};
use crate::threads::{self, SpawnError, Stack};
use crate::wire::from_agent;

/// How an answer is wanted (control-channel.md §8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Form B: as a whole.
    Buffered,
    /// Form S: as it comes.
    Streamed,
}

/// One connection, as its requests see it.
pub(super) struct Connection {
    pub(super) outlet: Arc<dyn Outlet>,
    /// Fires when it is lost.
    pub(super) lost: Cancel,
    live: Mutex<HashMap<Arc<str>, Arc<Ticket>>>,
    pub(super) streams: Streams,
    refusals: Mutex<Option<Sender<Refusal>>>,
}

struct Refusal {
    id: Arc<str>,
    text: String,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    As(Form),
    /// The same, of a WebSocket to a Service.
    Upgrade(Form),
    /// `proxy_error`, and never on another connection.
    Duplicate,
    /// That of a stream, unless there is no text, and a close behind it.
    Stream {
        close: bool,
    },
}

impl Connection {
    pub(super) fn new(outlet: Arc<dyn Outlet>) -> Arc<Self> {
        Arc::new(Self {
            outlet,
            lost: Cancel::new(),
            live: Mutex::default(),
            streams: Streams::default(),
            refusals: Mutex::default(),
        })
    }

    /// The request that lives under this id. One that the peer has cancelled, or
    /// that has only its last message to send, makes room for the next.
    pub(super) fn live(&self, id: &str) -> Option<Arc<Ticket>> {
        let live = self.live.lock();
        live.get(id).filter(|ticket| ticket.is_live()).cloned()
    }

    /// A request or a stream lives under this id.
    pub(super) fn is_taken(&self, id: &str) -> bool {
        self.live(id).is_some() || self.streams.find(id).is_some_and(|stream| stream.is_live())
    }

    /// The request under this id, whatever its state.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Ticket>> {
        self.live.lock().get(id).cloned()
    }

    pub(super) fn enter(&self, ticket: &Arc<Ticket>) {
        let before = self.live.lock().insert(ticket.id.clone(), ticket.clone());
        if let Some(before) = before
            && before.cancel.reason() == Some(Reason::Cancelled)
        {
            before.silence.cancel(Reason::Cancelled);
        }
    }

    /// Its last message is sent.
    pub(super) fn leave(&self, ticket: &Ticket) {
        let mut live = self.live.lock();
        let known = live.get(&ticket.id);
        if known.is_some_and(|known| known.serial == ticket.serial) {
            live.remove(&ticket.id);
        }
    }

    /// All requests, which are none of this connection's from now on.
    pub(super) fn take_all(&self) -> Vec<Arc<Ticket>> {
        let live = std::mem::take(&mut *self.live.lock());
        live.into_values().collect()
    }

    /// Sends the bad end of a request that isn't executed. Never waits: the lane
    /// may have to be waited for, so a small thread does it, if it ever comes to
    /// that. A peer that provokes more than it takes loses the connection.
    pub(super) fn refuse(&self, id: &Arc<str>, form: Form, text: &str) {
        self.queue(id, text, How::As(form));
    }

    /// As [`refuse`](Self::refuse), under an id that a live request has (T42): an
    /// abort would be taken for that one's.
    pub(super) fn refuse_duplicate(&self, id: &Arc<str>) {
        let text = "a request with this id is still being executed";
        self.queue(id, text, How::Duplicate);
    }

    /// As [`refuse`](Self::refuse), for a WebSocket to a Service that isn't opened: form S
    /// has a head as if the dial had failed (control-channel.md §9.2).
    pub(super) fn refuse_upgrade(&self, id: &Arc<str>, form: Form, text: &str) {
        self.queue(id, text, How::Upgrade(form));
    }

    /// As [`refuse`](Self::refuse), for a request that would have become a stream to the
    /// Kubernetes API: form B has the error of those (control-channel.md §8.7).
    pub(super) fn refuse_exec(&self, id: &Arc<str>, form: Form, text: &str) {
        match form {
            Form::Buffered => self.refuse_stream(id, text, false),
            Form::Streamed => self.refuse(id, form, text),
        }
    }

    /// As [`refuse`](Self::refuse), for a stream that isn't opened; without a text only
    /// the close.
    pub(super) fn refuse_stream(&self, id: &Arc<str>, text: &str, close: bool) {
        self.queue(id, text, How::Stream { close });
    }

    fn queue(&self, id: &Arc<str>, text: &str, how: How) {
        let refusal = Refusal {
            id: id.clone(),
            text: text.to_owned(),
            how,
        };
        let mut refusals = self.refusals.lock();
        let queue = match &*refusals {
            Some(queue) => queue.clone(),
            None => match self.start_refusing() {
                Ok(queue) => refusals.insert(queue).clone(),
                Err(error) => {
                    log::error!("{error}");
                    self.outlet.abort("a refusal can't be sent");
                    return;
                }
            },
        };
        drop(refusals);
        if let Err(TrySendError::Full(_)) = queue.try_send(refusal) {
            let why = "the peer provokes refusals and does not take them";
            self.outlet.abort(why);
        }
    }

    fn start_refusing(&self) -> Result<Sender<Refusal>, SpawnError> {
        let (queue, refusals) = bounded::<Refusal>(MAX_REFUSALS);
        let (outlet, lost) = (self.outlet.clone(), self.lost.clone());
        threads::spawn("proxy-refusals", Stack::Work, move || {
            for Refusal { id, text, how } in refusals {
                if let How::Upgrade(Form::Streamed) = how {
                    let message = Message::text(160 + id.len(), |buf| {
                        from_agent::proxy_response_header(buf, &id, 502, &Headers::new());
                    });
                    let _ = outlet.send(&id, message, &lost);
                }
                match how {
                    How::As(form) | How::Upgrade(form) => {
                        send_failure(&*outlet, &id, form, &text, &lost);
                    }
                    How::Duplicate => {
                        let message = Message::text(192 + id.len(), |buf| {
                            from_agent::proxy_error(buf, &id, &text);
                        });
                        let _ = outlet.send(&id, message, &lost);
                    }
                    How::Stream { close } => {
                        let size = 192 + 2 * id.len() + text.len();
                        let error = (!text.is_empty()).then(|| {
                            Message::text(size, |buf| {
                                from_agent::proxy_stream_error(buf, &id, &text);
                            })
                        });
                        let close = close.then(|| {
                            Message::text(size, |buf| from_agent::proxy_websocket_close(buf, &id))
                        });
                        for message in error.into_iter().chain(close) {
                            let _ = outlet.send(&id, message, &lost);
                        }
                    }
                }
            }
        })?;
        Ok(queue)
    }
}

/// Sends the bad end of a request, in its form (control-channel.md §8.7); waits
/// for room.
pub(super) fn send_failure(
    outlet: &dyn Outlet,
    id: &str,
    form: Form,
    text: &str,
    silence: &Cancel,
) {
    let expected = 192 + id.len() + text.len();
    // An error says only that the connection is gone.
    let _ = match form {
        Form::Buffered => {
            let message = Message::text(expected, |buf| from_agent::proxy_error(buf, id, text));
            outlet.send_late(id, message, &Cancel::new())
        }
        Form::Streamed => {
            let message = Message::text(expected, |buf| {
                from_agent::proxy_response_abort(buf, id, text);
            });
            outlet.send(id, message, silence)
        }
    };
}

/// Refusals that may wait for the lane.
const MAX_REFUSALS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::SendError;
    use crate::proxy::places::Kind;
    use crate::proxy::{Executor, Settings};

    struct Nowhere;

    impl Outlet for Nowhere {
        fn send(&self, _: &str, _: Message, _: &Cancel) -> Result<(), SendError> {
            Err(SendError::Closed)
        }
        fn send_late(&self, _: &str, _: Message, _: &Cancel) -> Result<(), SendError> {
            Ok(())
        }
        fn abort(&self, _: &str) {}
    }

    #[test]
    fn a_request_that_ends_while_its_connection_is_lost_is_nobodys_orphan() {
        let executor = Executor::new(Settings::default(), None);
        let connection = Connection::new(Arc::new(Nowhere));
        let (form, kind) = (Form::Buffered, Kind::Short);
        let ticket = Ticket::new(
            "r".into(),
            executor.next_serial(),
            form,
            kind,
            connection.clone(),
            Cancel::new(),
            None,
            None,
            None,
            "",
            &executor,
        );
        connection.enter(&ticket);
        // The reader takes it from the connection; its worker is faster than what
        // the reader does next.
        let all = connection.take_all();
        ticket.retire();
        for ticket in all {
            executor.adopt(&ticket);
        }
        assert!(executor.orphans.lock().is_empty());
    }
}
