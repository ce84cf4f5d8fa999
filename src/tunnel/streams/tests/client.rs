//! A client of the gateway.

use std::time::{Duration, Instant};

use super::stage::soon;
use crate::tunnel::session::{Payload, Stream};
use crate::yamux::{Cut, Input, MAX_PAYLOAD};

/// The gateway's end of a stream.
#[derive(Clone)]
pub(super) struct Client(pub(super) Stream);

impl Client {
    /// Sends all of it.
    pub(super) fn send(&self, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_PAYLOAD) {
            self.0
                .send(Payload::from(piece), Some(soon()))
                .expect("sent");
        }
    }

    /// Sends for as long as there is room; how much that was.
    pub(super) fn fill(&self) -> usize {
        let mut sent = 0;
        let piece = vec![7; MAX_PAYLOAD];
        let patience = Duration::from_millis(400);
        while let Ok(room) = self.0.room(Some(Instant::now() + patience)) {
            // It may be cut at any time.
            if self.0.send(piece[..room].into(), Some(soon())).is_err() {
                break;
            }
            sent += room;
        }
        sent
    }

    /// Up to the end, and what that was.
    pub(super) fn read_to_end(&self) -> (Vec<u8>, Result<(), Cut>) {
        let mut read = Vec::new();
        loop {
            match self.0.read(Some(soon())) {
                Ok(Input::Some(chunk)) => {
                    read.extend_from_slice(&chunk);
                    self.0.give_back(chunk);
                }
                Ok(Input::End) => return (read, Ok(())),
                Ok(Input::Wait) => panic!("never: an end"),
                Err(cut) => return (read, Err(cut)),
            }
        }
    }

    /// Exactly so many bytes.
    pub(super) fn read(&self, count: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < count {
            let input = self.0.parse(Some(soon()), |bytes| {
                let (ours, rest) = bytes.split_at(bytes.len().min(count - read.len()));
                read.extend_from_slice(ours);
                *bytes = rest;
            });
            assert_eq!(input, Ok(Input::Some(())), "after {} bytes", read.len());
        }
        read
    }

    pub(super) fn datagram(&self) -> Vec<u8> {
        let mut datagram = Vec::new();
        let input = self.0.read_datagram(65_535, &mut datagram, Some(soon()));
        assert!(matches!(input, Ok(Input::Some(_))), "{input:?}");
        datagram
    }

    #[track_caller]
    pub(super) fn assert_end(&self) {
        let (rest, end) = self.read_to_end();
        assert_eq!((rest.len(), end), (0, Ok(())));
    }

    #[track_caller]
    pub(super) fn assert_reset(&self) {
        assert_eq!(self.read_to_end().1, Err(Cut::ByPeer));
    }
}
