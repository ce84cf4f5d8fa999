//! What the models have in common: a line, an agent's session on it, what its peer writes.

use std::sync::Arc;

use rooms::link::Speaker;
use rooms::session::{Inbox, Line, Memory, Payload, SendError, Session, Stream};
use rooms::sync::{Condvar, Mutex};
use rooms::yamux::{Config, Decoder, Event, Fatal, Flags, Header, Role};

/// Who is in line. The test is the thread that writes.
pub(crate) struct Wire(pub(crate) Mutex<Queue>);

#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) control: Vec<Arc<dyn Speaker>>,
    pub(crate) turns: Vec<Arc<dyn Speaker>>,
    pub(crate) dead: usize,
}

impl Wire {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Queue::default())))
    }

    /// What the next speaker says; none: nobody is in line.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        let (control, turn) = {
            let mut queue = self.0.lock();
            if queue.control.is_empty() {
                let turn = (!queue.turns.is_empty()).then(|| queue.turns.remove(0));
                (None, turn)
            } else {
                (Some(queue.control.remove(0)), None)
            }
        };
        let mut bytes = Vec::new();
        if let Some(speaker) = control {
            speaker.control(&mut bytes);
            return Some(bytes);
        }
        let speaker = turn?;
        let mut messages = Vec::new();
        let spoke = speaker.turn(&mut messages);
        assert_eq!(spoke, !messages.is_empty());
        for message in &messages {
            bytes.extend_from_slice(message.payload());
        }
        if spoke {
            enter(&mut self.0.lock().turns, speaker);
        }
        Some(bytes)
    }

    /// All that is left to be said.
    pub(crate) fn frames(&self) -> Vec<Header> {
        std::iter::from_fn(|| self.next())
            .flat_map(|bytes| frames(&bytes))
            .collect()
    }
}

impl Line for Wire {
    fn enter(&self, speaker: Arc<dyn Speaker>) {
        enter(&mut self.0.lock().turns, speaker);
    }

    fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        enter(&mut self.0.lock().control, speaker);
    }

    fn dead(&self, _why: Fatal) {
        self.0.lock().dead += 1;
    }
}

/// Everybody is in line once.
pub(crate) fn enter(line: &mut Vec<Arc<dyn Speaker>>, speaker: Arc<dyn Speaker>) {
    let twice = line.iter().any(|other| Arc::ptr_eq(other, &speaker));
    assert!(!twice, "twice in line");
    line.push(speaker);
}

pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Header> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    while let Some(event) = decoder.next(&mut bytes).expect("frames") {
        if let Event::Frame(header) = event {
            frames.push(header);
        }
    }
    frames
}

/// An agent's session with a stream that the peer opened, whose ACK is written.
pub(crate) struct Ours {
    pub(crate) session: Session,
    pub(crate) inbox: Inbox,
    pub(crate) wire: Arc<Wire>,
    pub(crate) stream: Stream,
    pub(crate) memory: Memory,
}

impl Ours {
    pub(crate) fn new() -> Self {
        Self::with_limit(1 << 20)
    }

    /// With this limit of memory.
    pub(crate) fn with_limit(limit: usize) -> Self {
        let wire = Wire::new();
        let memory = Memory::new(limit);
        let accepted = Arc::new(std::sync::Mutex::new(None));
        let to = accepted.clone();
        let accept = move |stream: Stream| *to.lock().expect("alone") = Some(stream);
        let config = Config::new(Role::Client);
        let (session, mut inbox) = Session::start(config, &memory, wire.clone(), accept);
        peer(&mut inbox, Flags::SYN);
        assert_eq!(wire.frames(), [window(Flags::ACK)]);
        let stream = accepted.lock().expect("alone").take();
        Self {
            session,
            inbox,
            wire,
            stream: stream.expect("accepted"),
            memory,
        }
    }
}

/// From the thread that accepts to one that waits.
pub(crate) struct Handover(Mutex<Option<Stream>>, Condvar);

impl Handover {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None), Condvar::new())
    }

    pub(crate) fn put(&self, stream: Stream) {
        *self.0.lock() = Some(stream);
        self.1.notify_all();
    }

    pub(crate) fn take(&self) -> Stream {
        let mut place = self.0.lock();
        loop {
            if let Some(stream) = place.take() {
                return stream;
            }
            self.1.wait(&mut place);
        }
    }
}

pub(crate) fn window(flags: Flags) -> Header {
    Header::window(ID, flags, 0)
}

pub(crate) fn peer(inbox: &mut Inbox, flags: Flags) {
    inbox.receive(&window(flags).encode());
}

pub(crate) fn peer_data(inbox: &mut Inbox) {
    inbox.receive(&Header::data(ID, DATA.len() as u32).encode());
    inbox.receive(&DATA);
}

pub(crate) fn data() -> Header {
    Header::data(ID, DATA.len() as u32)
}

pub(crate) fn send(stream: &Stream) -> Result<(), SendError> {
    stream.send(Payload::from(&DATA[..]), None)
}

pub(crate) const ID: u32 = 2;
pub(crate) const DATA: [u8; 3] = [1, 2, 3];
pub(crate) static HALF: [u8; 128 * 1024] = [0; 128 * 1024];
