//! Messages on their way to a client: packed, because a million of one byte must not
//! take a million allocations.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::plane::budget::{Budget, Share};
use crate::websocket::Kind;

/// What waits for the client.
pub(super) struct Queue {
    packs: VecDeque<Pack>,
    bytes: usize,
    budget: Arc<Budget>,
}

/// Why a message is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// The client takes too little.
    Full,
    /// It can't be read.
    Malformed(&'static str),
}

/// Some messages, one behind the other: the length of what follows (four bytes), the
/// type (control-channel.md §5.4), the payload. What it holds is taken from the budget
/// that all share until it is dropped: it may be long on its way out.
pub(crate) struct Pack {
    bytes: Vec<u8>,
    /// What was given out already.
    at: usize,
    share: Share,
}

impl Pack {
    /// The next message, to be masked or not where it lies.
    pub(crate) fn next(&mut self) -> Option<(Kind, &mut [u8])> {
        let rest = &mut self.bytes[self.at..];
        let (length, rest) = rest.split_first_chunk_mut::<LENGTH>()?;
        let length = u32::from_ne_bytes(*length) as usize;
        self.at += LENGTH + length;
        let (kind, payload) = rest[..length].split_first_mut()?;
        Some((
            if *kind == TEXT {
                Kind::Text
            } else {
                Kind::Binary
            },
            payload,
        ))
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes.capacity() - self.bytes.len() >= bytes
    }
}

impl Queue {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self {
            packs: VecDeque::new(),
            bytes: 0,
            budget,
        }
    }

    /// Puts in a message, base64 of type and payload, of which
    /// [`payload_size`] says the size.
    pub(super) fn push(&mut self, data: &str) -> Result<(), Unfit> {
        let base64 = base64_simd::STANDARD;
        let Ok(length) = base64.decoded_length(data.as_bytes()) else {
            return Err(NO_BASE64);
        };
        let size = LENGTH + length;
        if self.bytes + size > MAX_QUEUED {
            return Err(Unfit::Full);
        }
        let last = self.packs.back_mut().filter(|pack| pack.has_room(size));
        let mut new = last.is_none().then(|| Pack {
            bytes: Vec::new(),
            at: 0,
            share: Share::of(&self.budget),
        });
        let Some(pack) = last.or(new.as_mut()) else {
            return Err(Unfit::Full);
        };
        if !pack.share.grow(size) {
            return Err(Unfit::Full);
        }
        if pack.bytes.capacity() == 0 {
            pack.bytes.reserve_exact(size.max(SMALL));
        }
        let before = pack.bytes.len();
        pack.bytes.extend_from_slice(&(length as u32).to_ne_bytes());
        let decoded = base64.decode_append(data.as_bytes(), &mut pack.bytes);
        let fit = match pack.bytes.get(before + LENGTH) {
            _ if decoded.is_err() => Err(NO_BASE64),
            None => Err(Unfit::Malformed("the agent sent a message without a type")),
            Some(&(TEXT | BINARY)) => Ok(()),
            Some(_) => Err(Unfit::Malformed("the agent sent a message that is no data")),
        };
        if fit.is_ok() {
            self.bytes += size;
            self.packs.extend(new);
        } else {
            pack.bytes.truncate(before);
            pack.share.shrink(size);
        }
        fit
    }

    pub(super) fn pop(&mut self) -> Option<Pack> {
        let pack = self.packs.pop_front()?;
        self.bytes -= pack.bytes.len();
        Some(pack)
    }
}

/// Bytes of payload in a message, as credit counts them.
pub(super) fn payload_size(data: &str) -> usize {
    let length = base64_simd::STANDARD.decoded_length(data.as_bytes());
    length.map_or(0, |length| length.saturating_sub(1))
}

const NO_BASE64: Unfit = Unfit::Malformed("the agent sent a message that is not base64");

/// Bytes in front of a message.
const LENGTH: usize = size_of::<u32>();

const TEXT: u8 = 1;
const BINARY: u8 = 2;

/// What a pack has room for at least, in bytes.
const SMALL: usize = 2 * 1024;

/// Bytes that wait for one client at most, with what stands around each message. An
/// honest agent stays below with any messages but empty ones: of those it may send as
/// many as it likes.
const MAX_QUEUED: usize = 12 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u8, payload: &[u8]) -> String {
        base64_simd::STANDARD.encode_to_string([&[kind], payload].concat())
    }

    fn drained(queue: &mut Queue) -> Vec<(Kind, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(mut pack) = queue.pop() {
            while let Some((kind, payload)) = pack.next() {
                all.push((kind, payload.to_vec()));
            }
        }
        all
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        let budget = Budget::new(1 << 20);
        let mut queue = Queue::new(budget.clone());
        let large = vec![7; 100_000];
        let messages = [
            (1, &b"text"[..]),
            (2, b""),
            (2, &large),
            (2, b"\x02\xff\x00"),
            (1, b""),
        ];
        for (kind, payload) in messages {
            let data = framed(kind, payload);
            assert_eq!(payload_size(&data), payload.len());
            assert_eq!(queue.push(&data), Ok(()));
        }
        let want = messages.map(|(kind, payload)| {
            let kind = if kind == 1 { Kind::Text } else { Kind::Binary };
            (kind, payload.to_vec())
        });
        assert_eq!(drained(&mut queue), want);
        assert_eq!(queue.bytes, 0);
        assert_eq!(budget.left(), 1 << 20, "all was given back");
    }

    #[test]
    fn small_messages_share_a_buffer() {
        let mut queue = Queue::new(Budget::new(1 << 20));
        for _ in 0..10_000 {
            queue.push(&framed(2, b"x")).expect("taken");
        }
        let memory: usize = queue.packs.iter().map(|p| p.bytes.capacity()).sum();
        assert!(queue.packs.len() <= 31 && memory <= 31 * SMALL);
        assert_eq!(drained(&mut queue).len(), 10_000);
    }

    #[test]
    fn what_is_no_message_is_refused_and_takes_nothing() {
        let budget = Budget::new(1000);
        let mut queue = Queue::new(budget.clone());
        for data in [
            "",
            "A",
            "A*==",
            "!!!!",
            &framed(8, b"\x03\xe8"),
            &framed(0, b""),
        ] {
            let refused = queue.push(data);
            assert!(matches!(refused, Err(Unfit::Malformed(_))), "{data}");
            payload_size(data);
        }
        assert!(queue.pop().is_none());
        assert_eq!(budget.left(), 1000);
    }

    #[test]
    fn one_queue_and_all_together_have_a_limit() {
        let budget = Budget::new(MAX_QUEUED + 100);
        let (mut one, mut two) = (Queue::new(budget.clone()), Queue::new(budget.clone()));
        let large = framed(2, &vec![0; 1 << 20]);
        while one.push(&large) == Ok(()) {}
        let empty = framed(2, b"");
        while one.push(&empty) == Ok(()) {}
        assert!(one.bytes <= MAX_QUEUED);
        assert_eq!(two.push(&framed(2, &[0; 100])), Err(Unfit::Full));
        drop(one);
        assert_eq!(two.push(&large), Ok(()));
        // Long on its way out: held until it is there.
        let pack = two.pop().expect("queued");
        assert!(budget.left() < MAX_QUEUED);
        drop((two, pack));
        assert_eq!(budget.left(), MAX_QUEUED + 100);
    }
}
