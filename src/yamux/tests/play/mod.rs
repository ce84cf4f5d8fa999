//! Two ends back to back, and a script that says who does what when. Whatever it
//! says, all bytes arrive in order, no window is overrun, and nothing gets stuck.

mod checks;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::{Endpoint, Handle, Ledger, Tap, encode};
use super::script::{Script, pattern};
use crate::yamux::{Budget, Chunk, Config, Fatal, Input, QueueError, Reset, Role, Stream};

/// Plays `script`; panics when a rule is broken.
pub(crate) fn play(script: &[u8]) {
    let mut world = World::new();
    let mut script = Script(script);
    while world.step(&mut script).is_some() {
        world.check_sleepers();
    }
    world.settle();
    world.check_sleepers();
    world.check();
    world.finish_all();
    world.settle();
    world.check();
    world.leave_nothing();
}

struct World {
    ends: [Endpoint; 2],
    /// What each end has written and the other hasn't got.
    pipes: [VecDeque<u8>; 2],
    tap: Tap,
    streams: Vec<Pair>,
    budgets: [Arc<Budget>; 2],
    pools: [Arc<Ledger>; 2],
    now: Instant,
}

/// One stream, at both ends.
struct Pair {
    id: u32,
    halves: [Half; 2],
}

/// What one end did with a stream.
#[derive(Default)]
struct Half {
    /// None: it hasn't heard of it.
    handle: Option<Handle>,
    sent: usize,
    read: usize,
    finished: bool,
    reset: bool,
    discards: bool,
    /// Chunks that were read and not given back.
    held: Vec<Chunk>,
    /// There was nothing to read, no room to send: it sleeps until it is woken.
    sleeps: [bool; 2],
}

impl World {
    fn new() -> Self {
        let budgets = [(); 2].map(|()| Arc::new(Budget::new(4 << 20)));
        let pools = [(); 2].map(|()| Arc::new(Ledger::default()));
        let end = |role, side: usize| {
            let mut config = Config::new(role);
            config.max_window = 1 << 20;
            config.max_streams = 20;
            config.close_timeout = Duration::from_secs(20);
            Endpoint::pooled(config, budgets[side].clone(), pools[side].clone())
        };
        Self {
            ends: [end(Role::Server, 0), end(Role::Client, 1)],
            pipes: [VecDeque::new(), VecDeque::new()],
            tap: Tap::default(),
            streams: Vec::new(),
            budgets,
            pools,
            now: Instant::now(),
        }
    }

    /// One decision; None at the end of the script.
    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        let what = script.choose(18)?;
        let side = script.choose(2)?;
        let which = script.choose(256)?;
        let arg = script.choose(256)?;
        match what {
            0 => self.open(side),
            1..=3 => self.write(side, which, SIZES[arg % SIZES.len()]),
            4 | 5 => self.read(side, which, arg % 4 == 0),
            6 => self.give_back(side, which),
            7 => self.finish(side, which),
            8 if arg % 4 == 0 => self.reset(side, which, Reset::AtOnce),
            8 if arg % 4 == 1 => self.reset(side, which, Reset::AfterData),
            8 if arg % 4 == 2 => self.discard(side, which),
            8 => self.leave(side, arg),
            9..=12 => self.emit(side, arg / 16),
            13..=16 => self.transfer(side, arg * arg * 16 + which),
            _ => self.wait(Duration::from_millis(4 * arg as u64)),
        }
        Some(())
    }

    fn open(&mut self, side: usize) {
        let Ok(handle) = self.ends[side].open(self.now) else {
            return;
        };
        let id = handle.borrow().id();
        let mut halves = [Half::default(), Half::default()];
        halves[side].handle = Some(handle);
        self.streams.push(Pair { id, halves });
    }

    /// A stream that `side` knows.
    fn pick(&mut self, side: usize, which: usize) -> Option<(usize, Handle)> {
        let known = |pair: &Pair| pair.halves[side].handle.clone();
        let mut streams = self.streams.iter().enumerate();
        let mut live: Vec<_> = streams
            .by_ref()
            .filter_map(|(n, pair)| Some((n, known(pair)?)))
            .collect();
        if live.is_empty() {
            return None;
        }
        // The younger ones, mostly: the others are over.
        let at = live.len() - 1 - which % live.len().min(4);
        Some(live.swap_remove(at))
    }

    fn write(&mut self, side: usize, which: usize, len: usize) {
        let Some((n, handle)) = self.pick(side, which) else {
            return;
        };
        let Pair { id, halves } = &mut self.streams[n];
        let half = &mut halves[side];
        let bytes = pattern(*id, side, half.sent, len).to_vec();
        match self.ends[side].with_stream(&handle, |stream| stream.queue(bytes, len)) {
            Ok(()) => {
                assert!(!half.finished);
                half.sent += len;
            }
            Err((QueueError::NoRoom, _)) => {
                if handle.borrow().room() == Ok(0) {
                    self.sleep(n, side, SENDER);
                }
            }
            Err((QueueError::Finished, _)) => assert!(half.finished),
            Err((QueueError::Cut(cut), _)) => self.check_cut(n, side, cut),
        }
    }

    fn read(&mut self, side: usize, which: usize, hold: bool) {
        if let Some((n, _)) = self.pick(side, which) {
            self.read_from(n, side, hold);
        }
    }

    /// Reads a chunk; true if there was one.
    fn read_from(&mut self, n: usize, side: usize, hold: bool) -> bool {
        let Pair { id, halves } = &mut self.streams[n];
        let [a, b] = halves;
        let (half, peer) = if side == 0 { (a, b) } else { (b, a) };
        let Some(handle) = half.handle.clone() else {
            return false;
        };
        let read = handle.borrow_mut().read();
        match read {
            Ok(Input::Some(chunk)) => {
                assert!(!half.discards);
                assert!(!chunk.is_empty());
                assert!(half.read + chunk.len() <= peer.sent);
                assert!(*chunk == *pattern(*id, 1 - side, half.read, chunk.len()));
                half.read += chunk.len();
                half.held.push(chunk);
                if !hold {
                    self.give_back_all(n, side);
                }
                true
            }
            Ok(Input::Wait) => {
                self.sleep(n, side, READER);
                false
            }
            Ok(Input::End) => {
                assert!(peer.finished, "the end of what goes on");
                assert!(half.discards || half.read == peer.sent, "an end too early");
                false
            }
            Err(cut) => {
                self.check_cut(n, side, cut);
                false
            }
        }
    }

    fn give_back(&mut self, side: usize, which: usize) {
        if let Some((n, _)) = self.pick(side, which) {
            self.give_back_all(n, side);
        }
    }

    fn give_back_all(&mut self, n: usize, side: usize) {
        let half = &mut self.streams[n].halves[side];
        let Some(handle) = half.handle.clone() else {
            return;
        };
        for chunk in half.held.drain(..) {
            self.ends[side].with_stream(&handle, |stream| stream.give_back(chunk, self.now));
        }
    }

    fn finish(&mut self, side: usize, which: usize) {
        if let Some((n, handle)) = self.pick(side, which) {
            self.streams[n].halves[side].finished = true;
            self.ends[side].with_stream(&handle, Stream::finish);
        }
    }

    fn reset(&mut self, side: usize, which: usize, how: Reset) {
        if let Some((n, handle)) = self.pick(side, which) {
            self.streams[n].halves[side].reset = true;
            self.ends[side].with_stream(&handle, |stream| stream.reset(how));
        }
    }

    fn discard(&mut self, side: usize, which: usize) {
        if let Some((n, handle)) = self.pick(side, which) {
            self.streams[n].halves[side].discards = true;
            self.ends[side].with_stream(&handle, |stream| stream.discard(self.now));
        }
    }

    fn leave(&mut self, side: usize, arg: usize) {
        if arg == 255 {
            self.ends[side].hub.session.leave();
        }
    }

    /// Writes up to `count` frames.
    fn emit(&mut self, side: usize, count: usize) {
        for _ in 0..count {
            let Some(frame) = self.ends[side].next_frame(self.now) else {
                return;
            };
            self.tap.watch(side, &frame.0);
            assert_eq!(frame.0.payload() as usize, frame.1.len());
            self.pipes[side].extend(encode(&[frame]));
        }
    }

    /// Carries up to `count` bytes to the other end.
    fn transfer(&mut self, side: usize, count: usize) {
        let count = count.min(self.pipes[side].len());
        let bytes: Vec<u8> = self.pipes[side].drain(..count).collect();
        let peer = 1 - side;
        self.ends[peer]
            .receive(&bytes, self.now)
            .expect("no rule is broken");
        for handle in self.ends[peer].hub.accepted.drain(..) {
            let id = handle.borrow().id();
            let pair = self
                .streams
                .iter_mut()
                .find(|pair| pair.id == id)
                .expect("opened");
            assert!(pair.halves[peer].handle.is_none());
            pair.halves[peer].handle = Some(handle);
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for end in &mut self.ends {
            match end.tick(self.now) {
                // A script may let nothing arrive for any time.
                Ok(()) | Err(Fatal::Keepalive | Fatal::OpenTimeout(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }

    fn sleep(&mut self, n: usize, side: usize, who: usize) {
        let pair = &mut self.streams[n];
        pair.halves[side].sleeps[who] = true;
        let woken = &mut self.ends[side].hub.woken;
        woken.entry(pair.id).or_default()[who] = false;
    }

    /// Both ends read, write and carry all there is, until nothing moves.
    fn settle(&mut self) {
        let mut rounds = 0;
        loop {
            let mut moved = false;
            for side in 0..2 {
                self.emit(side, usize::MAX);
                moved |= !self.pipes[side].is_empty();
                self.transfer(side, usize::MAX);
                for n in 0..self.streams.len() {
                    self.give_back_all(n, side);
                    while self.read_from(n, side, false) {
                        moved = true;
                    }
                }
            }
            if !moved {
                return;
            }
            rounds += 1;
            assert!(rounds < 1000, "it never ends");
        }
    }

    fn finish_all(&mut self) {
        for n in 0..self.streams.len() {
            for side in 0..2 {
                if let Some(handle) = self.streams[n].halves[side].handle.clone() {
                    self.streams[n].halves[side].finished = true;
                    self.ends[side].with_stream(&handle, Stream::finish);
                }
            }
        }
    }
}

const READER: usize = 0;
const SENDER: usize = 1;

const SIZES: [usize; 8] = [1, 13, 100, 2000, 32_748, 65_507, 131_072, 262_144];
