//! The half that reads.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::writer::Shared;
use super::{Data, End, Keepalive, Kind, Limits, Take};
use crate::net::{Deadline, ReadHalf};
use crate::websocket::Role;
use crate::websocket::frame::{CloseFrame, Event, FrameReader, Listener};

/// Reads a leg. When it is dropped, whoever closes the leg has nothing to wait for.
pub struct Reader {
    read: ReadHalf,
    frames: FrameReader,
    watch: Option<Watch>,
    shared: Arc<Shared>,
}

impl Reader {
    pub(super) fn new(read: ReadHalf, role: Role, limits: Limits, shared: Arc<Shared>) -> Self {
        Self {
            read,
            frames: FrameReader::new(role, limits.max_message),
            watch: limits.keepalive.map(Watch::new),
            shared,
        }
    }

    /// Reads to the end and hands each message to `take`, which may wait and says
    /// whether it wants more.
    pub fn run(self, take: impl FnMut(Data<'_>) -> ControlFlow<()>) -> End {
        struct Freely<F>(F);
        impl<F: FnMut(Data<'_>) -> ControlFlow<()>> Take for Freely<F> {
            fn take(&mut self, data: Data<'_>) -> ControlFlow<()> {
                (self.0)(data)
            }

            fn keeps(&mut self, _: usize) -> bool {
                true
            }
        }
        self.run_for(&mut Freely(take))
    }

    /// As [`run`](Self::run), for somebody who also has a say in memory.
    pub fn run_for(mut self, take: &mut dyn Take) -> End {
        loop {
            match self.step(take) {
                ControlFlow::Continue(()) => self.shared.attend(),
                ControlFlow::Break(end) => {
                    if matches!(end, End::Refused(_)) {
                        self.linger();
                    }
                    return end;
                }
            }
        }
    }

    /// Throws away what a refused peer still sends: a connection that is closed with
    /// bytes unread is reset, and the peer would never read why.
    fn linger(&mut self) {
        self.read.set_deadline(Some(Deadline::after(LINGER)));
        let mut left = LINGER_BYTES;
        while let Ok(bytes) = self.read.fill() {
            let count = bytes.len();
            if count == 0 || count > left {
                return;
            }
            left -= count;
            self.read.consume(count);
        }
    }

    fn step(&mut self, take: &mut dyn Take) -> ControlFlow<End> {
        if let Some(watch) = &mut self.watch {
            match watch.tick(Instant::now()) {
                Tick::Wait => {}
                Tick::Ping => {
                    self.shared.owe(|owed| owed.ping = true);
                    self.shared.attend();
                }
                Tick::Dead => {
                    self.shared
                        .close_now(&CloseFrame::new(1001, "ping timeout"));
                    return ControlFlow::Break(End::Silent);
                }
            }
            self.read.set_deadline(Some(Deadline::at(watch.next)));
        }
        let bytes = match self.read.fill() {
            Ok([]) => return ControlFlow::Break(End::Lost(None)),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::TimedOut && self.watch.is_some() => {
                return ControlFlow::Continue(());
            }
            Err(error) => return ControlFlow::Break(End::Lost(Some(error))),
        };
        let count = bytes.len();
        if let Some(watch) = &mut self.watch {
            watch.heard(Instant::now());
        }
        let mut ear = Ear {
            shared: &self.shared,
            take,
            end: None,
        };
        let read = self.frames.read(bytes, &mut ear);
        let end = ear.end;
        self.read.consume(count);
        if self.read.wants_flush() {
            self.shared.owe(|owed| owed.flush = true);
        }
        if let Some(end) = end {
            return ControlFlow::Break(end);
        }
        if let Err(refusal) = read {
            let text = refusal.to_string();
            let close = CloseFrame::new(refusal.code(), &text);
            self.shared.close_now(&close);
            return ControlFlow::Break(End::Refused(text));
        }
        ControlFlow::Continue(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.reading_ended();
    }
}

/// What the leg does with what a peer sent.
struct Ear<'a> {
    shared: &'a Shared,
    take: &'a mut dyn Take,
    /// What comes behind it is ignored.
    end: Option<End>,
}

impl Ear<'_> {
    fn data(&mut self, kind: Kind, payload: &[u8]) {
        if self.take.take(Data { kind, payload }).is_break() {
            self.end = Some(End::Stopped);
        }
    }
}

impl Listener for Ear<'_> {
    fn takes_pieces(&self) -> bool {
        false
    }

    fn keeps(&mut self, bytes: usize) -> bool {
        self.take.keeps(bytes)
    }

    fn hear(&mut self, event: Event<'_>) {
        if self.end.is_some() {
            return;
        }
        match event {
            Event::Text(text) => self.data(Kind::Text, text.as_bytes()),
            Event::Binary(payload) => self.data(Kind::Binary, payload),
            // The last one is enough of an answer (RFC 6455 §5.5.3).
            Event::Ping(payload) => {
                let payload = payload.to_vec();
                self.shared.owe(|owed| owed.pong = Some(payload));
            }
            // That it arrived is all it says.
            Event::Pong(_) => {}
            Event::Piece { .. } => unreachable!("nobody takes pieces"),
            Event::Close(CloseFrame { code, reason }) => {
                let echo = code.map_or_else(CloseFrame::default, |code| CloseFrame::new(code, ""));
                self.shared.close_now(&echo);
                self.end = Some(End::Closed { code, reason });
            }
        }
    }
}

/// Counts the silence of a peer.
struct Watch {
    keepalive: Keepalive,
    /// When the next ping is due.
    next: Instant,
    heard: Instant,
    misses: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Tick {
    Wait,
    Ping,
    Dead,
}

impl Watch {
    fn new(keepalive: Keepalive) -> Self {
        let now = Instant::now();
        Self {
            keepalive,
            next: now + keepalive.every,
            heard: now,
            misses: 0,
        }
    }

    fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.misses = 0;
    }

    fn tick(&mut self, now: Instant) -> Tick {
        if now < self.next {
            return Tick::Wait;
        }
        self.next = now + self.keepalive.every;
        if now.saturating_duration_since(self.heard) >= self.keepalive.silence {
            self.misses += 1;
            if self.misses >= self.keepalive.misses {
                return Tick::Dead;
            }
        }
        Tick::Ping
    }
}

/// How long what a refused peer sends is thrown away, and how much of it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_in_pings_and_any_sign_of_life_starts_anew() {
        let second = Duration::from_secs(1);
        let mut watch = Watch::new(Keepalive {
            every: 30 * second,
            silence: 90 * second,
            misses: 3,
        });
        let start = watch.heard;
        let at = |seconds| start + second * seconds;
        assert_eq!(watch.tick(at(29)), Tick::Wait);
        for seconds in [30, 60, 90, 120] {
            assert_eq!(watch.tick(at(seconds)), Tick::Ping, "{seconds}");
        }
        watch.heard(at(130));
        for seconds in [150, 180, 210, 240, 270] {
            assert_eq!(watch.tick(at(seconds)), Tick::Ping, "{seconds}");
        }
        assert_eq!(watch.tick(at(300)), Tick::Dead);
    }
}
