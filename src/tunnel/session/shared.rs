//! The session and its lock.

use std::iter::Sum;
use std::mem;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::line::{Line, Voice};
use super::memory::{Memory, Tenant};
use crate::link::{Message, Speaker};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::yamux::{
    Budget, Common, Config, Fatal, HEADER, OpenError, Reset, Role, Session, Stream, Wakes, victim,
};

/// What a session has now, of all its streams together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Streams that the wire knows.
    pub streams: usize,
    /// Bytes of their receive windows, as they are tuned.
    pub windows: usize,
    /// What they take of the memory of all sessions, in bytes.
    pub charged: usize,
    /// Bytes that arrived and weren't read.
    pub unread: usize,
    /// Payload bytes that wait for their turn.
    pub queued: usize,
    /// Senders that wait for room.
    pub paused: usize,
    /// Frames that came for no stream, so far.
    pub ignored: u64,
}

impl Sum for Figures {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            streams: sum.streams + one.streams,
            windows: sum.windows + one.windows,
            charged: sum.charged + one.charged,
            unread: sum.unread + one.unread,
            queued: sum.queued + one.queued,
            paused: sum.paused + one.paused,
            ignored: sum.ignored + one.ignored,
        })
    }
}

pub(super) struct Shared {
    me: Weak<Shared>,
    role: Role,
    voice: Arc<Voice>,
    budget: Arc<Budget>,
    table: Mutex<Table>,
    /// A stream was answered or has gone, or the session is over.
    changed: Condvar,
    /// Where its buffers lie while it lives.
    _tenant: Tenant,
}

struct Table {
    session: Session<Arc<Entry>>,
    /// In the line, for control frames.
    listed: bool,
    live: bool,
    /// The line is to be told that, behind the Go Away.
    why: Option<Fatal>,
}

impl Shared {
    pub(super) fn new(config: Config, memory: &Memory, line: Arc<dyn Line>) -> Arc<Self> {
        let tenant = memory.tenant();
        let common = Common::new(config, memory.budget().clone(), tenant.shelf().clone());
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            role: config.role,
            voice: Arc::new(Voice::new(line)),
            budget: memory.budget().clone(),
            table: Mutex::new(Table {
                session: Session::new(Arc::new(common)),
                listed: false,
                live: true,
                why: None,
            }),
            changed: Condvar::new(),
            _tenant: tenant,
        })
    }

    pub(super) fn me(&self) -> Weak<Self> {
        self.me.clone()
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn voice(&self) -> &Arc<Voice> {
        &self.voice
    }

    /// Calls `f` with the session; what it has to say then gets in line.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Session<Arc<Entry>>) -> R) -> R {
        let mut table = self.table.lock();
        let result = f(&mut table.session);
        self.settle(table);
        result
    }

    pub(super) fn open(&self, until: Instant) -> Result<Arc<Entry>, OpenError> {
        let mut table = self.table.lock();
        let make = |stream| Entry::new(stream, self);
        let opened = loop {
            match table.session.open(Instant::now(), make) {
                Err(OpenError::Unanswered) if Instant::now() < until => {
                    self.changed.wait_until(&mut table, until);
                }
                opened => break opened,
            }
        };
        drop(table);
        let entry = opened?;
        // Its SYN.
        entry.with(|_| ());
        Ok(entry)
    }

    /// A stream says that the session is concerned.
    pub(super) fn note(&self, id: u32, wakes: Wakes) {
        let gone = self.with(|session| session.note(id, wakes));
        self.changed.notify_all();
        drop(gone);
    }

    pub(super) fn leave(&self) {
        self.with(Session::leave);
    }

    pub(super) fn drain(&self, until: Instant) -> usize {
        self.leave();
        self.wait_for_streams(until);
        let rest = self.entries();
        for entry in &rest {
            entry.with(|stream| stream.reset(Reset::AtOnce));
        }
        if !rest.is_empty() {
            self.wait_for_streams(Instant::now() + FLUSH);
        }
        rest.len()
    }

    /// Ends it: by a mistake of the peer, or without a word. Only the first call
    /// counts.
    pub(super) fn end(&self, why: Option<Fatal>) {
        // Before there is a Go Away: nothing of a stream may follow it.
        self.voice.silence();
        let mut table = self.table.lock();
        if !mem::take(&mut table.live) {
            return;
        }
        let streams = table.session.end(why);
        let goes_away = table.session.has_frames();
        table.why = why.filter(|_| goes_away);
        drop(table);
        for entry in &streams {
            entry.with(Stream::lose);
        }
        self.changed.notify_all();
        self.settle(self.table.lock());
        if let Some(why) = why
            && !goes_away
        {
            self.voice.line().dead(why);
        }
    }

    pub(super) fn tick(&self, now: Instant) {
        let entries = self.entries();
        let ticked = self.with(|session| session.tick(now)).and_then(|()| {
            entries
                .iter()
                .try_for_each(|entry| entry.with(|stream| stream.tick(now)))
        });
        if let Err(fatal) = ticked {
            self.end(Some(fatal));
            return;
        }
        self.relieve(&entries, now);
    }

    pub(super) fn figures(&self) -> Figures {
        let mut figures = Figures {
            ignored: self.table.lock().session.ignored(),
            ..Figures::default()
        };
        for sight in self.entries().iter().map(|entry| entry.look()) {
            figures.streams += 1;
            figures.windows += sight.window;
            figures.charged += sight.charged;
            figures.unread += sight.unread.map_or(0, |unread| unread.bytes);
            figures.queued += sight.queued;
            figures.paused += sight.paused;
        }
        figures
    }

    pub(super) fn is_live(&self) -> bool {
        self.table.lock().live
    }

    // Private.

    /// While memory is full: resets streams that nobody reads.
    fn relieve(&self, entries: &[Arc<Entry>], now: Instant) {
        if !self.budget.is_full() {
            return;
        }
        let mut unread: Vec<_> = entries
            .iter()
            .map(|entry| (entry, entry.look().unread))
            .collect();
        let mut victims = Vec::new();
        while self.budget.is_full() {
            let places = unread.iter().enumerate();
            let Some(place) = victim(places.map(|(n, (_, unread))| (n, *unread)), now) else {
                break;
            };
            let (entry, _) = unread.swap_remove(place);
            entry.with(|stream| stream.reset(Reset::AtOnce));
            victims.push(entry.id());
        }
        // One line, however many a peer has brought it to.
        if let Some(first) = victims.first() {
            log::warn!(
                "the memory for tunnels is full: {} streams whose bytes nobody reads are reset, \
                 beginning with {first}",
                victims.len()
            );
        }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.table.lock().session.streams().cloned().collect()
    }

    /// Until there is none, or the session is over.
    fn wait_for_streams(&self, until: Instant) {
        let mut table = self.table.lock();
        while !table.session.is_empty() && Instant::now() < until {
            self.changed.wait_until(&mut table, until);
        }
    }

    /// Lets go of the lock, and gets in line if there is something to be said.
    fn settle(&self, mut table: MutexGuard<'_, Table>) {
        let speaks = table.session.has_frames() && !mem::replace(&mut table.listed, true);
        drop(table);
        if speaks && let Some(me) = self.me.upgrade() {
            self.voice.line().enter_control(me);
        }
    }
}

impl Speaker for Shared {
    fn control(&self, out: &mut Vec<u8>) {
        let now = Instant::now();
        let mut table = self.table.lock();
        table.listed = false;
        for _ in 0..FRAMES {
            let Some(header) = table.session.next_frame(now) else {
                break;
            };
            out.extend_from_slice(&header.encode());
        }
        // A Go Away is the first that is said.
        let why = table.why.take();
        self.settle(table);
        if let Some(why) = why {
            self.voice.line().dead(why);
        }
    }

    fn turn(&self, _out: &mut Vec<Message>) -> bool {
        false
    }
}

/// Frames of the session in one go: 4 KiB. Then the streams' come, and data, too.
const FRAMES: usize = 4096 / HEADER;

/// How long the last RSTs of a session may take to be written.
const FLUSH: Duration = Duration::from_secs(1);
