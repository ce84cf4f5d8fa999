//! What an exchange knows, without its lock: the answer as it comes in, how it
//! ended, and the credit of both directions.

use std::collections::VecDeque;
use std::io::Read;
use std::ops::Deref;
use std::sync::Arc;

use super::{Failure, Head};
use crate::http::Headers;
use crate::plane::budget::{Budget, Share};
use crate::plane::flow::{Receiving, Sending, UNMETERED_LIMIT};
use crate::wire::from_agent::ResponseBody;

pub(crate) struct State {
    /// Until it is taken.
    pub(super) head: Option<Head>,
    head_came: bool,
    queue: VecDeque<Piece>,
    /// The queue is one gzipped body (form B).
    pub(super) gzipped: bool,
    /// What all exchanges together may hold.
    budget: Arc<Budget>,
    pub(super) receiving: Receiving,
    pub(super) sending: Sending,
    /// The agent has been told of the request.
    pub(super) announced: bool,
    /// The answer is over; what is queued is still to be taken.
    pub(super) end: Option<Result<(), Failure>>,
    /// It is, because more came than may be kept for the client.
    pub(super) overrun: bool,
    /// The agent has ended it, or is gone: it needs no `proxy_cancel`.
    pub(super) agent_done: bool,
}

/// Some bytes of an answer's body. Until it is dropped they count as held for the
/// client, in the queue or on their way out.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Vec<u8>,
    share: Share,
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl State {
    /// `metered`: the agent knows credit.
    pub(super) fn new(metered: bool, budget: Arc<Budget>) -> Self {
        let (receiving, sending) = if metered {
            (Receiving::metered(), Sending::metered())
        } else {
            (Receiving::unmetered(), Sending::unmetered())
        };
        Self {
            head: None,
            head_came: false,
            queue: VecDeque::new(),
            gzipped: false,
            budget,
            receiving,
            sending,
            announced: false,
            end: None,
            overrun: false,
            agent_done: false,
        }
    }

    // What the agent says. After the end of the answer it changes nothing any more.

    pub(super) fn on_head(&mut self, status: u16, headers: Headers) {
        if self.is_over() {
            return;
        }
        if is_oversized(&headers) {
            self.break_off("the agent sent more than 256 KiB of headers");
        } else if self.head_came {
            self.break_off("the agent sent two headers for one request");
        } else {
            self.head_came = true;
            self.head = Some(Head { status, headers });
        }
    }

    /// Base64, decoded straight into the queue.
    pub(super) fn on_chunk(&mut self, data: &str) {
        if self.is_over() {
            return;
        }
        if self.head_came {
            self.append(data);
        } else {
            self.break_off("the agent sent a body before its header");
        }
    }

    pub(super) fn on_end(&mut self) {
        self.agent_done = true;
        if self.is_over() {
            return;
        }
        self.end = Some(if self.head_came {
            Ok(())
        } else {
            // An original agent's handler that wrote nothing (control-channel.md §8.6).
            Err(Failure::Protocol("the agent ended without an answer"))
        });
    }

    /// Form B: head, body and end in one.
    pub(super) fn on_response(&mut self, status: u16, headers: Headers, body: &ResponseBody<'_>) {
        self.on_head(status, headers);
        if !self.is_over() {
            self.gzipped = matches!(body, ResponseBody::Gzip(_));
            match body {
                ResponseBody::Empty => {}
                ResponseBody::Base64(data) | ResponseBody::Gzip(data) => self.append(data),
            }
        }
        self.on_end();
    }

    /// The agent has failed it, or is gone.
    pub(super) fn on_failure(&mut self, failure: Failure) {
        self.agent_done = true;
        self.fail(failure);
    }

    /// The first end counts; but when the client is gone, nobody is left to take
    /// what came before.
    pub(super) fn fail(&mut self, failure: Failure) {
        if !self.is_over() || matches!(failure, Failure::Ended(_)) {
            self.end = Some(Err(failure));
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// What is queued next.
    pub(super) fn pop(&mut self) -> Option<Piece> {
        self.queue.pop_front()
    }

    fn break_off(&mut self, why: &'static str) {
        self.end = Some(Err(Failure::Protocol(why)));
    }

    fn append(&mut self, data: &str) {
        let base64 = base64_simd::STANDARD;
        let Ok(length) = base64.decoded_length(data.as_bytes()) else {
            return self.break_off("the agent sent a body that is not base64");
        };
        if self.receiving.receive(length as u64).is_err() {
            self.overrun = true;
            return self.break_off("the agent sent more than the client could take");
        }
        // Small pieces share a buffer: a million of one byte must not take a
        // million allocations.
        let needs_new = self
            .queue
            .back()
            .is_none_or(|last| last.bytes.capacity() - last.len() < length);
        let mut new = needs_new.then(|| Piece {
            bytes: Vec::new(),
            share: Share::of(&self.budget),
        });
        let Some(piece) = new.as_mut().or(self.queue.back_mut()) else {
            return;
        };
        if !piece.share.grow(length) {
            self.overrun = true;
            return self.break_off(FULL);
        }
        if needs_new {
            piece.bytes.reserve_exact(length.max(SMALL));
        }
        let before = piece.len();
        if base64
            .decode_append(data.as_bytes(), &mut piece.bytes)
            .is_err()
        {
            piece.bytes.truncate(before);
            piece.share.shrink(length);
            return self.break_off("the agent sent a body that is not base64");
        }
        self.queue.extend(new);
    }

    /// The lengths and the capacities of the queued pieces.
    #[cfg(test)]
    pub(super) fn queued(&self) -> Vec<(usize, usize)> {
        let sizes = self
            .queue
            .iter()
            .map(|piece| (piece.len(), piece.bytes.capacity()));
        sizes.collect()
    }
}

impl Piece {
    /// Of a whole gzipped body what is in it, 8 MiB at most; perhaps nothing.
    pub(super) fn inflated(mut self) -> Result<Self, Failure> {
        let mut body = Vec::new();
        let unpacked = flate2::read::MultiGzDecoder::new(&*self)
            .take(UNMETERED_LIMIT + 1)
            .read_to_end(&mut body);
        match unpacked {
            Err(_) => Err(Failure::Protocol("the agent's answer is no valid gzip")),
            Ok(length) if length as u64 > UNMETERED_LIMIT => Err(Failure::Protocol(
                "the agent's answer is larger than 8 MiB and was not streamed",
            )),
            Ok(length) => {
                self.share.shrink(self.bytes.len());
                self.bytes = body;
                let fits = self.share.grow(length);
                fits.then_some(self).ok_or(Failure::Protocol(FULL))
            }
        }
    }
}

/// More fields than any API server sends.
pub(in crate::plane) fn is_oversized(headers: &Headers) -> bool {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 64);
    sizes.sum::<usize>() > MAX_HEADERS
}

const FULL: &str = "the plane holds as many answers for slow clients as it may";

/// Headers of an answer, in bytes.
const MAX_HEADERS: usize = 256 * 1024;

/// What a buffer of the queue has room for at least, in bytes: about two watch
/// events.
pub(super) const SMALL: usize = 2 * 1024;
