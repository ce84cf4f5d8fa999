//! A line in memory: a thread has the speakers speak, and hands what they say to
//! the other end in pieces of any size.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use super::soon;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::link::{Carrier, Message, Speaker};
use crate::threads::{self, Stack};
use crate::tunnel::session::{Acceptor, Inbox, Line, Memory, Session, Stream};
use crate::turns::Turns;
use crate::yamux::tests::endpoint::Tap;
use crate::yamux::{Config, Decoder, Event, Fatal, Role};

/// Who is in line.
#[derive(Default)]
pub(super) struct Wire {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    control: VecDeque<Arc<dyn Speaker>>,
    turns: Turns<Arc<dyn Speaker>>,
    dead: Option<Fatal>,
    closed: bool,
}

impl Line for Wire {
    fn enter(&self, speaker: Arc<dyn Speaker>) {
        self.queue.lock().turns.enter(speaker);
        self.more.notify_one();
    }

    fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        self.queue.lock().control.push_back(speaker);
        self.more.notify_one();
    }

    fn dead(&self, why: Fatal) {
        let before = self.queue.lock().dead.replace(why);
        assert_eq!(before, None, "told twice");
    }
}

impl Wire {
    /// What the next speaker says; none: nobody is in line.
    pub(super) fn next(&self) -> Option<Vec<u8>> {
        let mut queue = self.queue.lock();
        Self::speak(&mut queue)
    }

    /// All that there is to be said now.
    pub(super) fn all(&self) -> Vec<u8> {
        std::iter::from_fn(|| self.next()).flatten().collect()
    }

    pub(super) fn dead_because(&self) -> Option<Fatal> {
        self.queue.lock().dead
    }

    /// Ends the writing thread, when all is said.
    fn close(&self) {
        self.queue.lock().closed = true;
        self.more.notify_all();
    }

    /// What the next speaker says; it waits for one. None: closed.
    fn wait(&self) -> Option<Vec<u8>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(bytes) = Self::speak(&mut queue) {
                return Some(bytes);
            }
            if queue.closed || queue.dead.is_some() {
                // As a link does: what is in line is dropped with it.
                *queue = Queue {
                    closed: true,
                    ..Queue::default()
                };
                return None;
            }
            self.more.wait(&mut queue);
        }
    }

    fn speak(queue: &mut MutexGuard<'_, Queue>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(speaker) = queue.control.pop_front() {
            MutexGuard::unlocked(queue, || speaker.control(&mut bytes));
            return Some(bytes);
        }
        let speaker = queue.turns.next_turn()?;
        let mut messages: Vec<Message> = Vec::new();
        let spoke = MutexGuard::unlocked(queue, || speaker.turn(&mut messages));
        assert_eq!(spoke, !messages.is_empty());
        for message in &messages {
            bytes.extend_from_slice(message.payload());
        }
        queue.turns.spent(bytes.len());
        if spoke {
            queue.turns.again(speaker, bytes.len());
        }
        Some(bytes)
    }
}

/// Two sessions, each with a thread that reads and one that writes.
pub(super) struct Pair {
    pub(super) agent: Session,
    pub(super) plane: Session,
    pub(super) memory: Memory,
    wires: [Arc<Wire>; 2],
    threads: Vec<JoinHandle<Option<()>>>,
}

impl Pair {
    /// The plane's streams go to `acceptor`.
    pub(super) fn new(acceptor: impl Acceptor + 'static) -> Self {
        let memory = Memory::new(64 << 20);
        let wires = [Arc::new(Wire::default()), Arc::new(Wire::default())];
        let (agent, agent_inbox) = Session::start(
            Config::new(Role::Client),
            &memory,
            wires[0].clone(),
            acceptor,
        );
        let (plane, plane_inbox) = Session::start(
            Config::new(Role::Server),
            &memory,
            wires[1].clone(),
            |stream: Stream| drop(stream),
        );
        let tap = Arc::new(Mutex::new(Tap::default()));
        let mut threads = Vec::new();
        for (side, inbox) in [plane_inbox, agent_inbox].into_iter().enumerate() {
            let (send, receive) = sync_channel(4);
            let (wire, tap) = (wires[side].clone(), tap.clone());
            threads.push(start("writer", move || write(&wire, side, &tap, &send)));
            threads.push(start("reader", move || read(inbox, &receive)));
        }
        Self {
            agent,
            plane,
            memory,
            wires,
            threads,
        }
    }

    /// Cuts the connection; everything has ended when it returns. Whether anything
    /// of the sessions is left.
    pub(super) fn end(self) -> Leftover {
        for wire in &self.wires {
            wire.close();
        }
        for thread in self.threads {
            thread
                .join()
                .expect("caught at its root")
                .expect("no panic");
        }
        Leftover {
            sessions: [self.agent.weak(), self.plane.weak()],
            memory: self.memory,
        }
    }
}

pub(super) struct Leftover {
    sessions: [Weak<dyn Carrier>; 2],
    memory: Memory,
}

impl Leftover {
    /// Threads that hold streams end by themselves.
    pub(super) fn assert_none(&self) {
        let until = soon();
        let left = || self.sessions.iter().map(Weak::strong_count).sum::<usize>();
        while left() + self.memory.budget().charged() > 0 {
            assert!(
                Instant::now() < until,
                "{} of sessions, {:?}",
                left(),
                self.memory
            );
            std::thread::yield_now();
        }
        assert_eq!(self.memory.shelf().kept(), 0);
    }
}

fn write(wire: &Wire, side: usize, tap: &Mutex<Tap>, to: &SyncSender<Vec<u8>>) {
    let mut decoder = Decoder::default();
    while let Some(bytes) = wire.wait() {
        let mut rest = &bytes[..];
        while let Some(event) = decoder.next(&mut rest).expect("frames") {
            if let Event::Frame(header) = event {
                tap.lock().watch(side, &header);
            }
        }
        if to.send(bytes).is_err() {
            return;
        }
    }
}

fn read(mut inbox: Inbox, from: &Receiver<Vec<u8>>) {
    while let Ok(bytes) = from.recv() {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = if fastrand::bool() { 50 } else { 20_000 };
            let (piece, more) = rest.split_at(fastrand::usize(1..=most).min(rest.len()));
            inbox.receive(piece);
            rest = more;
        }
    }
}

pub(super) fn start(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<Option<()>> {
    threads::spawn(name, Stack::Work, body).expect("a thread")
}
