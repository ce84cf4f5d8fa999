//! What belongs to no stream: the table of ids, pings, Go Away, refusals
//! (tunnels.md §2.4, §2.5, §2.8, §2.9).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use super::header::{Flags, Header, Kind};
use super::ping::Pings;
use super::replies::Replies;
use super::stream::{Stream, Wakes};
use super::{Common, Fatal, MAX_UNANSWERED, NORMAL, Role};

/// One session, of either role. `H` is a handle to a stream: cheap to clone, and
/// opaque here.
#[derive(Debug)]
pub struct Session<H> {
    common: Arc<Common>,
    streams: HashMap<u32, H>,
    /// The id that is opened next; beyond the last one: none is left.
    next_id: u32,
    /// SYNs of ours without an answer.
    unanswered: usize,
    replies: Replies,
    pings: Pings,
    /// We take no new streams.
    leaving: bool,
    /// The peer takes none.
    peer_leaving: bool,
    /// A Go Away to be written.
    go_away: Option<u32>,
    /// It is over: nothing but `go_away` is written any more.
    ended: bool,
    ignored: u64,
}

/// Whose a frame is.
#[derive(Debug)]
pub enum Route<H> {
    /// This stream's.
    Stream(H),
    /// A new stream's.
    New,
    /// Nobody's: its payload is dropped.
    Nobody,
    /// Nobody's: as many streams live as may ([`Config`](super::Config)), and this one
    /// is refused.
    Excess,
}

/// Why no stream was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the session is over")]
    Ended,
    #[error("the session takes no new streams")]
    Leaving,
    #[error("the peer takes no new streams")]
    PeerLeaving,
    #[error("too many streams")]
    Limit,
    /// Later there may be room.
    #[error("{MAX_UNANSWERED} streams wait for the peer's answer")]
    Unanswered,
    /// Only a new session has ids again.
    #[error("no stream ids are left")]
    Exhausted,
}

impl<H: Clone> Session<H> {
    pub fn new(common: Arc<Common>) -> Self {
        let config = common.config();
        Self {
            streams: HashMap::new(),
            next_id: match config.role {
                Role::Client => 1,
                Role::Server => 2,
            },
            unanswered: 0,
            replies: Replies::default(),
            pings: Pings::new(config),
            leaving: false,
            peer_leaving: false,
            go_away: None,
            ended: false,
            ignored: 0,
            common,
        }
    }

    pub fn common(&self) -> &Arc<Common> {
        &self.common
    }

    /// Opens a stream; `make` makes its handle. Its SYN is what it has to say first.
    pub fn open<P>(
        &mut self,
        now: Instant,
        make: impl FnOnce(Stream<P>) -> H,
    ) -> Result<H, OpenError> {
        if self.ended {
            return Err(OpenError::Ended);
        }
        if self.leaving {
            return Err(OpenError::Leaving);
        }
        if self.peer_leaving {
            return Err(OpenError::PeerLeaving);
        }
        if self.streams.len() >= self.common.config().max_streams {
            return Err(OpenError::Limit);
        }
        if self.unanswered >= MAX_UNANSWERED {
            return Err(OpenError::Unanswered);
        }
        // A peer that opens ids of ours isn't refused: they are passed over.
        while self.next_id <= LAST_ID && self.streams.contains_key(&self.next_id) {
            self.next_id += 2;
        }
        if self.next_id > LAST_ID {
            return Err(OpenError::Exhausted);
        }
        let id = self.next_id;
        self.next_id += 2;
        self.unanswered += 1;
        let handle = make(Stream::open(id, &self.common, now));
        self.streams.insert(id, handle.clone());
        Ok(handle)
    }

    /// Puts a stream that the peer opened into the table. False: the session has
    /// ended in the meantime. A peer may open an id of ours just when we do: whoever
    /// has it isn't pushed out, or nobody would ever tell him of his end.
    pub(super) fn insert(&mut self, id: u32, handle: H) -> Result<bool, Fatal> {
        if self.ended {
            return Ok(false);
        }
        match self.streams.entry(id) {
            Entry::Occupied(_) => Err(Fatal::DuplicateSyn(id)),
            Entry::Vacant(place) => {
                place.insert(handle);
                Ok(true)
            }
        }
    }

    /// A stream says that the session is concerned ([`Wakes::concern_session`]).
    /// What it returns is to be dropped when no lock is held.
    pub fn note(&mut self, id: u32, wakes: Wakes) -> Option<H> {
        if wakes.answered {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        if wakes.forget {
            self.streams.remove(&id)
        } else {
            None
        }
    }

    /// Takes no new streams any more and tells the peer so; those that live go on.
    pub fn leave(&mut self) {
        if !self.leaving && !self.ended {
            self.leaving = true;
            self.go_away = Some(NORMAL);
        }
    }

    /// Ends the session. Each of the streams returned is to be told
    /// ([`Stream::lose`]); a Go Away, if there is one for `why`, is still to be
    /// written.
    pub fn end(&mut self, why: Option<Fatal>) -> Vec<H> {
        if !self.ended {
            self.ended = true;
            self.leaving = true;
            self.go_away = why.and_then(Fatal::go_away);
        }
        self.streams.drain().map(|(_, handle)| handle).collect()
    }

    /// Something arrived.
    pub(super) fn heard(&mut self, now: Instant) {
        self.pings.heard(now);
    }

    /// Takes a frame that concerns the session, or says whose it is.
    pub(super) fn route(&mut self, header: &Header, now: Instant) -> Result<Route<H>, Fatal> {
        match header.kind {
            Kind::Data | Kind::WindowUpdate => return self.route_stream(header),
            Kind::Ping if header.flags.has(Flags::SYN) => self.replies.pong(header.len)?,
            Kind::Ping => {
                if let Some(round_trip) = self.pings.answered(header.len, now) {
                    self.common.set_round_trip(round_trip);
                }
            }
            Kind::GoAway if header.len == NORMAL => self.peer_leaving = true,
            Kind::GoAway => return Err(Fatal::PeerGoAway(header.len)),
        }
        Ok(Route::Nobody)
    }

    fn route_stream(&mut self, header: &Header) -> Result<Route<H>, Fatal> {
        let id = header.id;
        if id == 0 {
            return Err(Fatal::StreamZero);
        }
        let known = self.streams.get(&id);
        if !header.flags.has(Flags::SYN) {
            let Some(handle) = known else {
                // Late frames of a stream that is gone are no mistake. A window update
                // may cross our FIN at any time: it isn't even worth counting.
                if header.kind != Kind::WindowUpdate || header.flags != Flags::NONE {
                    self.ignored += 1;
                }
                return Ok(Route::Nobody);
            };
            return Ok(Route::Stream(handle.clone()));
        }
        if known.is_some() {
            return Err(Fatal::DuplicateSyn(id));
        }
        if self.leaving {
            self.refuse(id)?;
            return Ok(Route::Nobody);
        }
        if self.streams.len() >= self.common.config().max_streams {
            self.refuse(id)?;
            return Ok(Route::Excess);
        }
        Ok(Route::New)
    }

    /// A stream that the peer wants isn't made.
    pub(super) fn refuse(&mut self, id: u32) -> Result<(), Fatal> {
        self.replies.refuse(id)
    }

    /// Time has passed; once a second will do. The streams have to be told as well
    /// ([`Stream::tick`]).
    pub fn tick(&mut self, now: Instant) -> Result<(), Fatal> {
        self.pings.tick(now)
    }

    /// The next frame of the session itself; these go before those of streams.
    pub fn next_frame(&mut self, now: Instant) -> Option<Header> {
        if let Some(code) = self.go_away.take() {
            return Some(Header::go_away(code));
        }
        if self.ended {
            return None;
        }
        self.replies
            .next()
            .or_else(|| Some(Header::ping(Flags::SYN, self.pings.take(now)?)))
    }

    /// [`Session::next_frame`] has something.
    pub fn has_frames(&self) -> bool {
        let live = !self.replies.is_empty() || self.pings.is_due();
        self.go_away.is_some() || (live && !self.ended)
    }

    /// The peer has said that it takes no new streams.
    pub fn peer_is_leaving(&self) -> bool {
        self.peer_leaving
    }

    /// Streams that the wire knows.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    pub fn streams(&self) -> impl Iterator<Item = &H> {
        self.streams.values()
    }

    /// Frames that came for no stream, but for window updates, which may be late.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }
}

/// hashicorp's library opens none beyond it.
const LAST_ID: u32 = 0xffff_fffd;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yamux::{Budget, Config, Unpooled};

    #[test]
    fn when_the_peer_holds_our_last_ids_none_is_left() {
        let budget = Arc::new(Budget::new(1 << 20));
        for role in [Role::Client, Role::Server] {
            let common = Common::new(Config::new(role), budget.clone(), Arc::new(Unpooled));
            let mut session: Session<()> = Session::new(Arc::new(common));
            let last = LAST_ID - u32::from(role == Role::Server);
            session.next_id = last;
            for id in last - 2..=u32::MAX {
                assert_eq!(session.insert(id, ()), Ok(true));
            }
            let opened = session.open(Instant::now(), |_: Stream<()>| ());
            assert_eq!(opened, Err(OpenError::Exhausted));
        }
    }
}
