//! Rules of tunnels.md §2, one test each, seen from the wire: one end is ours, the
//! other is what the test says.

mod captured;
mod closing;
pub(crate) mod endpoint;
mod hostile;
mod limits;
mod opening;
mod play;
mod properties;
mod script;
mod session;
mod windows;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Budget, Config, Cut, Fatal, Flags, Header, INITIAL_WINDOW, Input, Reset, Role, Stream,
};
use endpoint::{Endpoint, Handle, encode};

const SECOND: Duration = Duration::from_secs(1);

/// Our end, on the wire.
struct Ours {
    end: Endpoint,
    now: Instant,
}

impl Ours {
    /// The agent's end: the peer opens streams.
    fn agent() -> Self {
        Self::with(Config::new(Role::Client))
    }

    /// The plane's end: it opens streams.
    fn plane() -> Self {
        Self::with(Config::new(Role::Server))
    }

    fn with(config: Config) -> Self {
        Self::sharing(config, &Arc::new(Budget::new(64 << 20)))
    }

    fn sharing(config: Config, budget: &Arc<Budget>) -> Self {
        Self {
            end: Endpoint::with(config, budget.clone()),
            now: Instant::now(),
        }
    }

    /// The peer writes a frame without payload.
    fn peer(&mut self, header: Header) -> Result<(), Fatal> {
        self.end.receive(&header.encode(), self.now)
    }

    fn peer_window(&mut self, id: u32, flags: Flags, delta: u32) {
        let frame = Header::window(id, flags, delta);
        self.peer(frame).expect("allowed");
    }

    fn peer_data(&mut self, id: u32, bytes: &[u8]) -> Result<(), Fatal> {
        let frame = (Header::data(id, bytes.len() as u32), bytes.to_vec());
        self.end.receive(&encode(&[frame]), self.now)
    }

    /// The peer opens a stream, and our ACK has been written.
    fn accepted(&mut self, id: u32) -> Handle {
        self.peer_window(id, Flags::SYN, 0);
        assert_eq!(self.written(), [ack(id)]);
        self.end.hub.accepted.pop_back().expect("accepted")
    }

    /// We open a stream, and the peer has accepted it.
    fn opened(&mut self) -> Handle {
        let stream = self.end.open(self.now).expect("opens");
        let id = stream.borrow().id();
        assert_eq!(self.written(), [syn(id)]);
        self.peer_window(id, Flags::ACK, 0);
        stream
    }

    fn queue(&mut self, stream: &Handle, bytes: &[u8]) {
        self.end
            .with_stream(stream, |stream| stream.queue(bytes.to_vec(), bytes.len()))
            .expect("there is room");
    }

    fn finish(&mut self, stream: &Handle) {
        self.end.with_stream(stream, Stream::finish);
    }

    fn reset(&mut self, stream: &Handle, how: Reset) {
        self.end.with_stream(stream, |stream| stream.reset(how));
    }

    /// Reads one chunk and gives it back.
    fn read(&mut self, stream: &Handle) -> Result<Input<Vec<u8>>, Cut> {
        let now = self.now;
        self.end.with_stream(stream, |stream| {
            Ok(match stream.read()? {
                Input::Some(chunk) => {
                    let bytes = chunk.to_vec();
                    stream.give_back(chunk, now);
                    Input::Some(bytes)
                }
                Input::Wait => Input::Wait,
                Input::End => Input::End,
            })
        })
    }

    /// Reads all there is.
    fn read_all(&mut self, stream: &Handle) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(Input::Some(bytes)) = self.read(stream) {
            all.extend(bytes);
        }
        all
    }

    /// The headers of everything that we write.
    fn written(&mut self) -> Vec<Header> {
        let frames = self.end.frames(self.now);
        frames.into_iter().map(|(header, _)| header).collect()
    }

    /// Ids that our table knows.
    fn streams(&self) -> usize {
        self.end.hub.session.len()
    }
}

fn syn(id: u32) -> Header {
    Header::window(id, Flags::SYN, 0)
}

fn ack(id: u32) -> Header {
    Header::window(id, Flags::ACK, 0)
}

fn fin(id: u32) -> Header {
    Header::window(id, Flags::FIN, 0)
}

fn rst(id: u32) -> Header {
    Header::window(id, Flags::RST, 0)
}

fn update(id: u32, delta: u32) -> Header {
    Header::window(id, Flags::NONE, delta)
}

/// A whole initial window.
fn full_window() -> Vec<u8> {
    vec![7; INITIAL_WINDOW as usize]
}
