//! One end of a session on one thread, and a tap that watches what it writes. Used
//! by the tests here and by the fuzz targets.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::turns::Turns;
use crate::yamux::{
    Budget, Common, Config, Fatal, Flags, Header, Host, INITIAL_WINDOW, Kind, OpenError, Pool,
    Receiver, Session, Stream, Unpooled,
};

pub(crate) type Handle = Rc<RefCell<Stream<Vec<u8>>>>;

pub(crate) struct Endpoint {
    receiver: Receiver<Handle>,
    pub(crate) hub: Hub,
    /// Frames of the current turn that aren't written yet.
    turn: VecDeque<(Header, Vec<u8>)>,
}

/// What a shell has behind its locks.
pub(crate) struct Hub {
    pub(crate) session: Session<Handle>,
    /// Who has control frames.
    pub(crate) control: VecDeque<Handle>,
    pub(crate) turns: Turns<Handle>,
    /// Streams of the peer, in order, and not yet looked at.
    pub(crate) accepted: VecDeque<Handle>,
    /// The peer's streams are refused.
    pub(crate) refuse: bool,
    /// The session ends while a stream is accepted.
    pub(crate) ends_meanwhile: bool,
    /// We open one while a stream is accepted.
    pub(crate) opens_meanwhile: bool,
    /// Those.
    pub(crate) opened: Vec<Handle>,
    /// Who of each stream was woken: its reader, its sender.
    pub(crate) woken: HashMap<u32, [bool; 2]>,
}

impl Host for Hub {
    type Handle = Handle;
    type Payload = Vec<u8>;

    fn session<R>(&mut self, f: impl FnOnce(&mut Session<Handle>) -> R) -> R {
        f(&mut self.session)
    }

    fn stream<R>(&mut self, handle: &Handle, f: impl FnOnce(&mut Stream<Vec<u8>>) -> R) -> R {
        let mut stream = handle.borrow_mut();
        let result = f(&mut stream);
        let wakes = stream.wakes();
        if wakes.control {
            self.control.push_back(handle.clone());
        }
        if wakes.turn {
            self.turns.enter(handle.clone());
        }
        let woken = self.woken.entry(stream.id()).or_default();
        woken[0] |= wakes.reader;
        woken[1] |= wakes.sender;
        if wakes.concern_session() {
            self.session.note(stream.id(), wakes);
        }
        result
    }

    fn accept(&mut self, stream: Stream<Vec<u8>>) -> Option<Handle> {
        if self.refuse {
            return None;
        }
        if self.ends_meanwhile {
            self.session.end(None);
        }
        if self.opens_meanwhile {
            let make = |stream| Rc::new(RefCell::new(stream));
            let opened = self.session.open(Instant::now(), make);
            self.opened.extend(opened);
        }
        let handle = Rc::new(RefCell::new(stream));
        self.accepted.push_back(handle.clone());
        Some(handle)
    }
}

impl Endpoint {
    pub(crate) fn with(config: Config, budget: Arc<Budget>) -> Self {
        Self::pooled(config, budget, Arc::new(Unpooled))
    }

    pub(crate) fn pooled(config: Config, budget: Arc<Budget>, pool: Arc<dyn Pool>) -> Self {
        let common = Common::new(config, budget, pool);
        Self {
            receiver: Receiver::new(),
            hub: Hub {
                session: Session::new(Arc::new(common)),
                control: VecDeque::new(),
                turns: Turns::new(),
                accepted: VecDeque::new(),
                refuse: false,
                ends_meanwhile: false,
                opens_meanwhile: false,
                opened: Vec::new(),
                woken: HashMap::new(),
            },
            turn: VecDeque::new(),
        }
    }

    pub(crate) fn open(&mut self, now: Instant) -> Result<Handle, OpenError> {
        let make = |stream| Rc::new(RefCell::new(stream));
        let handle = self.hub.session.open(now, make)?;
        self.with_stream(&handle, |_| ());
        Ok(handle)
    }

    pub(crate) fn with_stream<R>(
        &mut self,
        handle: &Handle,
        f: impl FnOnce(&mut Stream<Vec<u8>>) -> R,
    ) -> R {
        self.hub.stream(handle, f)
    }

    pub(crate) fn receive(&mut self, bytes: &[u8], now: Instant) -> Result<(), Fatal> {
        self.receiver.receive(bytes, now, &mut self.hub)
    }

    pub(crate) fn end(&mut self, why: Option<Fatal>) {
        for handle in self.hub.session.end(why) {
            self.with_stream(&handle, Stream::lose);
        }
    }

    pub(crate) fn tick(&mut self, now: Instant) -> Result<(), Fatal> {
        self.hub.session.tick(now)?;
        let handles: Vec<_> = self.hub.session.streams().cloned().collect();
        for handle in handles {
            self.with_stream(&handle, |stream| stream.tick(now))?;
        }
        Ok(())
    }

    /// The next frame to be written: what a link's writer does.
    pub(crate) fn next_frame(&mut self, now: Instant) -> Option<(Header, Vec<u8>)> {
        if let Some(header) = self.hub.session.next_frame(now) {
            return Some((header, Vec::new()));
        }
        while let Some(handle) = self.hub.control.pop_front() {
            if let Some(header) = self.with_stream(&handle, |stream| stream.next_control(now)) {
                self.hub.control.push_back(handle);
                return Some((header, Vec::new()));
            }
        }
        while self.turn.is_empty() {
            let handle = self.hub.turns.next_turn()?;
            let mut frames = VecDeque::new();
            let spoke = self.with_stream(&handle, |stream| {
                stream.turn(now, |header, payload| {
                    frames.push_back((header, payload.unwrap_or_default()));
                })
            });
            assert_eq!(spoke, !frames.is_empty());
            let bytes = frames.iter().map(|(_, payload)| payload.len()).sum();
            self.hub.turns.spent(bytes);
            if spoke {
                self.hub.turns.again(handle, bytes);
            }
            self.turn = frames;
        }
        self.turn.pop_front()
    }

    /// Everything that is to be written.
    pub(crate) fn frames(&mut self, now: Instant) -> Vec<(Header, Vec<u8>)> {
        std::iter::from_fn(|| self.next_frame(now)).collect()
    }
}

pub(crate) fn encode(frames: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (header, payload) in frames {
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// A pool that knows what is out.
#[derive(Debug, Default)]
pub(crate) struct Ledger(AtomicUsize);

impl Ledger {
    pub(crate) fn out(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Pool for Ledger {
    fn take(&self, size: usize) -> Vec<u8> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Vec::with_capacity(size)
    }

    fn give(&self, _buffer: Vec<u8>) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Watches the frames of both ends of a session and knows the rules of
/// tunnels.md §2.14. `side` is 0 or 1, the end that wrote.
#[derive(Default)]
pub(crate) struct Tap {
    streams: HashMap<u32, Watched>,
}

#[derive(Default)]
struct Watched {
    opener: usize,
    sides: [Side; 2],
}

struct Side {
    /// It has written its SYN or ACK.
    greeted: bool,
    fin: bool,
    rst: bool,
    /// Bytes that it may send.
    window: u64,
}

impl Default for Side {
    fn default() -> Self {
        Self {
            greeted: false,
            fin: false,
            rst: false,
            window: u64::from(INITIAL_WINDOW),
        }
    }
}

impl Tap {
    pub(crate) fn watch(&mut self, side: usize, header: &Header) {
        if matches!(header.kind, Kind::Ping | Kind::GoAway) {
            assert_eq!(header.id, 0);
            return;
        }
        assert_ne!(header.id, 0);
        let flags = header.flags;
        if flags == Flags::SYN {
            let fresh = Watched {
                opener: side,
                ..Watched::default()
            };
            let before = self.streams.insert(header.id, fresh);
            assert!(before.is_none(), "a second SYN: {header:?}");
        }
        let watched = self.streams.get_mut(&header.id).expect("begins with a SYN");
        let opener = watched.opener == side;
        let [a, b] = &mut watched.sides;
        let (us, peer) = if side == 0 { (a, b) } else { (b, a) };
        assert!(!us.rst, "behind an RST: {header:?}");
        if header.kind == Kind::Data {
            assert_eq!(
                flags,
                Flags::NONE,
                "flags are on window updates: {header:?}"
            );
            assert!(header.len > 0, "an empty frame");
            assert!(us.greeted && !us.fin, "not yet or no more: {header:?}");
            us.window = us
                .window
                .checked_sub(u64::from(header.len))
                .expect("window overrun");
            return;
        }
        peer.window += u64::from(header.len);
        if flags == Flags::SYN || flags == Flags::ACK {
            assert_eq!(opener, flags == Flags::SYN);
            assert!(!us.greeted, "a second greeting: {header:?}");
            us.greeted = true;
        } else if flags == Flags::FIN {
            assert!(
                us.greeted && !us.fin,
                "a second FIN, or too early: {header:?}"
            );
            us.fin = true;
        } else if flags == Flags::RST {
            assert!(us.greeted || !opener, "an RST without a SYN: {header:?}");
            us.rst = true;
        } else {
            assert_eq!(flags, Flags::NONE, "flags are sent alone: {header:?}");
            assert!(us.greeted && header.len > 0, "{header:?}");
        }
        if flags != Flags::NONE {
            assert_eq!(header.len, 0, "flags are sent alone: {header:?}");
        }
    }
}
