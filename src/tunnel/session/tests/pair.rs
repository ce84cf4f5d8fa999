//! Two sessions, connected in memory: what one says arrives in pieces of any size.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use super::soon;
use parking_lot::Mutex;

use crate::link::Carrier;
use crate::threads::{self, Stack};
use crate::tunnel::session::{Acceptor, Inbox, Memory, Session, Stream};
use crate::tunnel::testing::Wire;
use crate::yamux::tests::endpoint::Tap;
use crate::yamux::{Config, Decoder, Event, Role};

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
