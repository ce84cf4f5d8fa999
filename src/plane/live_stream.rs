//! A raw WebSocket stream, seen from the client's side: what it sends to the agent.

use std::sync::Arc;

use super::agent_connection::AgentConnection;
use super::exchange::Failure;
use super::stream::{Farewell, Stream};
use crate::net::{Cancel, Reason};
use crate::websocket::Kind;
use crate::wire::stream::{FrameKind, data_size};
use crate::wire::to_agent::{self, RawStart};

/// A stream, as long as it lives. Dropped before the agent has ended it, it sends
/// `proxy_websocket_close`.
pub(crate) struct LiveStream {
    sender: StreamSender,
}

/// Sends the messages of one stream to the agent; clones may go to other threads.
#[derive(Clone)]
pub(crate) struct StreamSender {
    connection: Arc<AgentConnection>,
    stream: Arc<Stream>,
}

/// Why a stream can't be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoStream {
    /// The agent's connection has ended.
    Closed,
    /// The agent doesn't know `raw-streams`.
    Unknown,
}

impl LiveStream {
    pub(super) fn new(connection: Arc<AgentConnection>, stream: Arc<Stream>) -> Self {
        let sender = StreamSender { connection, stream };
        Self { sender }
    }

    pub(crate) fn stream(&self) -> &Arc<Stream> {
        &self.sender.stream
    }

    pub(crate) fn sender(&self) -> &StreamSender {
        &self.sender
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        let stream = &self.sender.stream;
        let farewell = stream.farewell();
        stream.end(Reason::Failed);
        self.sender.connection.forget(stream.id());
        if let Some(Farewell { said }) = farewell {
            // In its slot, so that it doesn't overtake the start or data; it may wait for
            // room as long as the link lives (`InFlight` says why).
            let connection = &self.sender.connection;
            let _ = connection.send(stream.id(), &Cancel::new(), 256, |buf, id| {
                to_agent::raw_stream_close(buf, id, said.as_ref());
            });
        }
    }
}

impl StreamSender {
    pub(crate) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    pub(crate) fn start(&self, start: &RawStart<'_>) -> Result<(), Failure> {
        self.stream.announce();
        self.send(1024, |buf, id| {
            to_agent::proxy_websocket_start(buf, id, start);
        })
    }

    /// A message, for which there is credit; waits for room until the stream ends.
    pub(crate) fn data(&self, kind: Kind, payload: &[u8]) -> Result<(), Failure> {
        let kind = match kind {
            Kind::Text => FrameKind::Text,
            Kind::Binary => FrameKind::Binary,
        };
        self.send(data_size(payload.len()), |buf, id| {
            to_agent::proxy_websocket_data(buf, id, kind, payload);
        })
    }

    pub(crate) fn grant(&self, credit: u64) -> Result<(), Failure> {
        self.send(192, |buf, id| to_agent::proxy_flow(buf, id, credit))
    }

    fn send(
        &self,
        expected: usize,
        encode: impl FnOnce(&mut Vec<u8>, &str),
    ) -> Result<(), Failure> {
        let (id, cancel) = (self.stream.id(), self.stream.cancel());
        self.connection.send(id, cancel, expected, encode)
    }
}
