//! Credit on streams of messages (feature `flow`, decisions.md §6.2), as pure
//! accounting, the same on both ends.
//!
//! A message is sent whole as soon as *any* credit is left, and the credit may go below
//! zero by it; then nothing is sent until grants have made it positive again. So a
//! message larger than the window passes, and nobody waits for ever: a receiver that
//! has passed on all it got has granted all but a quarter of the window at most. What
//! it holds is at most the window and one message. Counted are the bytes of payload,
//! without the type byte.

use super::INITIAL_CREDIT;

/// The sending side of one direction.
#[derive(Clone, Debug)]
pub struct StreamSending {
    /// `None`: the receiver doesn't know credit.
    left: Option<i64>,
}

impl StreamSending {
    pub fn new(metered: bool) -> Self {
        Self {
            left: metered.then_some(INITIAL_CREDIT as i64),
        }
    }

    /// Takes the credit for a message of that size; false: wait for a grant.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> bool {
        match &mut self.left {
            None => true,
            Some(left) if *left > 0 => {
                *left = left.saturating_sub_unsigned(bytes as u64);
                true
            }
            Some(_) => false,
        }
    }

    /// The receiver granted more. A hostile sum stays at the largest number.
    pub fn grant(&mut self, credit: u64) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_add_unsigned(credit);
        }
    }
}

/// The receiving side of one direction.
#[derive(Clone, Debug)]
pub struct StreamReceiving {
    /// Bytes that may still come, as the sender counts them.
    left: i64,
    /// Bytes that were passed on and not granted yet.
    due: u64,
}

/// A message came without any credit left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more came than was granted")]
pub struct Overrun;

impl Default for StreamReceiving {
    fn default() -> Self {
        Self {
            left: INITIAL_CREDIT as i64,
            due: 0,
        }
    }
}

impl StreamReceiving {
    /// A message arrived; called before memory is taken for it.
    pub fn receive(&mut self, bytes: usize) -> Result<(), Overrun> {
        if self.left <= 0 {
            return Err(Overrun);
        }
        self.left = self.left.saturating_sub_unsigned(bytes as u64);
        Ok(())
    }

    /// A message went on to where it belongs. Returns what is to be granted now:
    /// nothing until a quarter of the window has gathered.
    #[must_use]
    pub fn pass_on(&mut self, bytes: usize) -> Option<u64> {
        self.due = self.due.saturating_add(bytes as u64);
        if self.due < INITIAL_CREDIT / 4 {
            return None;
        }
        let due = std::mem::take(&mut self.due);
        self.left = self.left.saturating_add_unsigned(due);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_larger_than_the_window_passes_and_the_next_one_waits() {
        let mut sending = StreamSending::new(true);
        let large = 3 * INITIAL_CREDIT as usize;
        assert!(sending.take(large));
        assert!(!sending.take(0));
        sending.grant(2 * INITIAL_CREDIT);
        assert!(!sending.take(1), "zero is nothing");
        sending.grant(1);
        assert!(sending.take(1));
    }

    #[test]
    fn who_ignores_credit_is_found_out() {
        let mut receiving = StreamReceiving::default();
        assert_eq!(receiving.receive(INITIAL_CREDIT as usize), Ok(()));
        assert_eq!(receiving.receive(1), Err(Overrun));
        assert_eq!(receiving.pass_on(1), None);
        assert_eq!(receiving.receive(1), Err(Overrun));
    }

    #[test]
    fn absurd_grants_and_sizes_do_not_overflow() {
        let mut sending = StreamSending::new(true);
        sending.grant(u64::MAX);
        sending.grant(u64::MAX);
        assert!(sending.take(usize::MAX));
        let mut receiving = StreamReceiving::default();
        assert_eq!(receiving.receive(usize::MAX), Ok(()));
        assert_eq!(receiving.pass_on(usize::MAX), Some(u64::MAX));
    }

    #[test]
    fn without_credit_all_is_sent() {
        let mut sending = StreamSending::new(false);
        assert!(sending.take(usize::MAX) && sending.take(usize::MAX));
    }

    proptest! {
        /// Whatever the order: an honest sender never overruns, and can always send
        /// once everything has been passed on and all grants have come.
        #[test]
        fn honest_peers_never_overrun_and_never_starve(
            steps in prop::collection::vec((0u8..4, 0usize..3_000_000), 1..200),
        ) {
            let mut sending = StreamSending::new(true);
            let mut receiving = StreamReceiving::default();
            let (mut sent, mut held, mut grants) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
            for (step, size) in steps {
                match step {
                    0 => if sending.take(size) { sent.push_back(size) },
                    1 => if let Some(size) = sent.pop_front() {
                        prop_assert_eq!(receiving.receive(size), Ok(()));
                        held.push_back(size);
                    },
                    2 => if let Some(size) = held.pop_front() { grants.extend(receiving.pass_on(size)) },
                    _ => if let Some(credit) = grants.pop_front() { sending.grant(credit) },
                }
            }
            for size in sent {
                prop_assert_eq!(receiving.receive(size), Ok(()));
                held.push_back(size);
            }
            for size in held {
                grants.extend(receiving.pass_on(size));
            }
            for credit in grants {
                sending.grant(credit);
            }
            prop_assert!(sending.take(1));
        }
    }
}
