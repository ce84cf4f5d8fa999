//! Two sessions in memory, and one whose wire is the test.

mod ending;
mod links;
mod memory;
mod pair;
mod traffic;
mod waiting;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::{Inbox, Memory, Session, Stream};
use crate::tunnel::testing::Wire;
use crate::yamux::{Config, Decoder, Event, Flags, Header, Role};

/// Long enough for whatever has to happen.
const LONG: Duration = Duration::from_secs(60);

fn soon() -> Instant {
    Instant::now() + LONG
}

/// An agent's session; the other end is what the test says.
struct Ours {
    session: Session,
    inbox: Inbox,
    wire: Arc<Wire>,
    memory: Memory,
    accepted: Receiver<Stream>,
}

impl Ours {
    fn new() -> Self {
        Self::with(&Memory::new(64 << 20))
    }

    fn with(memory: &Memory) -> Self {
        let wire = Arc::new(Wire::default());
        let (to, accepted) = channel();
        let config = Config::new(Role::Client);
        let (session, inbox) =
            Session::start(config, memory, wire.clone(), move |stream: Stream| {
                to.send(stream).expect("the test waits");
            });
        Self {
            session,
            inbox,
            wire,
            memory: memory.clone(),
            accepted,
        }
    }

    fn peer(&mut self, header: Header) {
        self.inbox.receive(&header.encode());
    }

    fn peer_data(&mut self, id: u32, payload: &[u8]) {
        self.peer(Header::data(id, payload.len() as u32));
        self.inbox.receive(payload);
    }

    /// The peer opens a stream; its ACK is taken off the wire.
    fn open(&mut self, id: u32) -> Stream {
        self.peer(Header::window(id, Flags::SYN, 0));
        assert_eq!(self.frames(), [Header::window(id, Flags::ACK, 0)]);
        self.accepted.try_recv().expect("accepted")
    }

    /// The peer opens a stream, and nothing of it is written yet.
    fn open_unread(&mut self, id: u32) -> Stream {
        self.peer(Header::window(id, Flags::SYN, 0));
        self.accepted.try_recv().expect("accepted")
    }

    /// The frames that are to be written now.
    fn frames(&self) -> Vec<Header> {
        frames(&self.wire.all())
    }
}

fn frames(mut bytes: &[u8]) -> Vec<Header> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    while let Some(event) = decoder.next(&mut bytes).expect("frames") {
        if let Event::Frame(header) = event {
            frames.push(header);
        }
    }
    frames
}
