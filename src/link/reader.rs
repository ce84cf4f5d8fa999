//! `link-reader`: the only thread that reads from a connection. It never waits
//! for anything but the connection.

use super::shared::Shared;
use super::{EndedBy, Receiver};
use crate::net::ReadHalf;
use crate::threads;
use crate::websocket::frame::{Event, FrameReader, Listener};

/// Reads until the stream ends; what arrives once the link is closing is read and
/// dropped, so that a reset doesn't take our close frame from the peer.
pub(super) fn run(shared: &Shared, mut read: ReadHalf, receiver: impl Receiver) {
    let mut frames = FrameReader::new(shared.settings.role, shared.settings.max_message);
    let mut receiver = Some(receiver);
    let mut refused = false;
    threads::prompt();
    loop {
        let bytes = match read.fill() {
            Ok([]) => return shared.input_ended(None),
            Ok(bytes) => bytes,
            Err(error) => return shared.input_ended(Some(&error)),
        };
        let count = bytes.len();
        shared.traffic.received(count);
        if !refused {
            let mut ear = Ear {
                shared,
                receiver: &mut receiver,
            };
            let result = frames.read(bytes, &mut ear);
            if let Err(refusal) = result {
                shared.refuse(refusal);
                refused = true;
            }
        }
        if shared.is_cut() {
            return;
        }
        if shared.is_closing() {
            // Whoever hangs on this connection learns that it is over.
            receiver = None;
        }
        read.consume(count);
        if read.wants_flush() {
            shared.outbox.flush();
        }
    }
}

/// What the link does with what a peer sent.
struct Ear<'a, R> {
    shared: &'a Shared,
    /// Gone once nothing is of interest any more.
    receiver: &'a mut Option<R>,
}

impl<R: Receiver> Ear<'_, R> {
    fn receiver(&mut self) -> Option<&mut R> {
        let closing = self.shared.is_closing();
        self.receiver.as_mut().filter(|_| !closing)
    }
}

impl<R: Receiver> Listener for Ear<'_, R> {
    fn takes_pieces(&self) -> bool {
        // What nobody receives needn't be kept.
        self.receiver.as_ref().is_none_or(Receiver::takes_pieces)
    }

    fn hear(&mut self, event: Event<'_>) {
        let shared = self.shared;
        match event {
            Event::Text(text) => {
                shared.traffic.received_message();
                if let Some(receiver) = self.receiver() {
                    receiver.text(text);
                }
            }
            Event::Binary(bytes) => {
                shared.traffic.received_message();
                if let Some(receiver) = self.receiver() {
                    receiver.binary(bytes);
                }
            }
            Event::Piece { bytes, last } => {
                if last {
                    shared.traffic.received_message();
                }
                if let Some(receiver) = self.receiver() {
                    receiver.binary_piece(bytes, last);
                }
            }
            Event::Ping(payload) => {
                if shared.outbox.pong(payload).is_err() {
                    shared.end(EndedBy::Us, "the peer sends pings and takes no pongs");
                }
            }
            // That it arrived is all it says.
            Event::Pong(_) => {}
            Event::Close(close) => shared.peer_closed(&close),
        }
    }
}
