//! A request in flight, seen from the client's side: what it sends to the agent.

use std::sync::Arc;

use super::agent_connection::AgentConnection;
use super::exchange::{Exchange, Failure};
use crate::net::{Cancel, Reason};
use crate::wire::to_agent;

/// A request in flight, as long as it lives. Dropped before the agent has ended it,
/// it sends `proxy_cancel`.
pub(crate) struct InFlight {
    sender: RequestSender,
}

/// Sends the messages of one request to the agent; clones may go to other threads.
#[derive(Clone)]
pub(crate) struct RequestSender {
    connection: Arc<AgentConnection>,
    exchange: Arc<Exchange>,
}

impl InFlight {
    pub(super) fn new(sender: RequestSender) -> Self {
        Self { sender }
    }

    pub(crate) fn exchange(&self) -> &Arc<Exchange> {
        &self.sender.exchange
    }

    pub(crate) fn sender(&self) -> &RequestSender {
        &self.sender
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let exchange = &self.sender.exchange;
        let needs_cancel = exchange.needs_cancel();
        // An upload that still runs stops here.
        exchange.end(Reason::Failed);
        self.sender.connection.forget(exchange.id());
        if needs_cancel {
            // In its slot like all messages of a request: the control lane would
            // let it overtake the `proxy_request`, and the agent would begin what it
            // has just been told to end. So this may wait for room, as long as the
            // link lives: the cancellation of the exchange must not stop it. A link
            // that is gone needs none.
            let connection = &self.sender.connection;
            let _ = connection.send(exchange.id(), &Cancel::new(), 128, to_agent::proxy_cancel);
        }
    }
}

impl RequestSender {
    pub(super) fn new(connection: Arc<AgentConnection>, exchange: Arc<Exchange>) -> Self {
        Self {
            connection,
            exchange,
        }
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Queues a message of this request; waits for room until the exchange ends.
    /// `expected` is a guess of its size in bytes.
    pub(crate) fn send(
        &self,
        expected: usize,
        encode: impl FnOnce(&mut Vec<u8>, &str),
    ) -> Result<(), Failure> {
        let (id, cancel) = (self.exchange.id(), self.exchange.cancel());
        self.connection.send(id, cancel, expected, encode)
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::link::{Lane, Message, SendError, Slot};
    use crate::plane::agent_connection::Channel;
    use crate::plane::budget::Budget;

    /// Remembers the lanes and the types of messages.
    #[derive(Clone, Default)]
    struct Sent(Arc<Mutex<Vec<(Lane, String)>>>);

    impl Channel for Sent {
        fn send(&self, lane: Lane, message: Message, cancel: &Cancel) -> Result<(), SendError> {
            if let Some(reason) = cancel.reason() {
                return Err(SendError::Cancelled(reason));
            }
            let message: serde_json::Value =
                serde_json::from_slice(message.payload()).expect("JSON");
            let kind = message["type"].as_str().expect("a type").to_owned();
            self.0.lock().push((lane, kind));
            Ok(())
        }

        fn close(&self, _: u16, _: &str) {}

        fn abort(&self, _: &str) {}
    }

    #[test]
    fn a_cancel_follows_its_request_in_the_same_lane() {
        let connection = Arc::new(AgentConnection::new("a".into(), 0, Budget::new(0)));
        let sent = Sent::default();
        connection.connect(Box::new(sent.clone()));
        let in_flight = connection.open("u".into()).expect("open");
        in_flight.exchange().announce();
        let request = in_flight
            .sender()
            .send(64, to_agent::proxy_request_stream_end);
        request.expect("sent");
        // Its own end doesn't keep the agent from hearing of it.
        in_flight.exchange().end(Reason::Cancelled);
        assert_eq!(connection.load(), 1);
        let slot = Slot::of(in_flight.exchange().id());
        drop(in_flight);
        assert_eq!(connection.load(), 0);
        let want = ["proxy_request_stream_end", "proxy_cancel"];
        let want = want.map(|kind| (Lane::Bulk(slot), kind.to_owned()));
        assert_eq!(*sent.0.lock(), want);
    }
}
