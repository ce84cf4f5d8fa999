//! Whose turn it is to write (design.md, "Fairness"). Pure.

use std::collections::VecDeque;

/// The parties (streams, requests: whatever `H` names) that have something to write.
/// Each is in here at most once, which whoever enters it sees to, so the lists need
/// no other bound.
///
/// Everybody has a turn of [`TURN`] bytes; who was silent goes before who has a
/// backlog. Silent is who had nothing to say when it was his turn, or little: a bulk
/// stream that is refilled while its frames are written doesn't overtake others, and
/// the second message of a small request needn't wait for all bulk streams. Those
/// with a backlog don't starve: when silent ones have written the bytes of four turns
/// before them, one of them has his.
#[derive(Debug)]
pub struct Turns<H> {
    silent: VecDeque<H>,
    backlog: VecDeque<H>,
    /// Bytes that silent ones wrote since somebody with a backlog waits or had a turn.
    passed: usize,
    /// Whose turn it is came from the silent ones.
    was_silent: bool,
}

impl<H> Turns<H> {
    pub const fn new() -> Self {
        Self {
            silent: VecDeque::new(),
            backlog: VecDeque::new(),
            passed: 0,
            was_silent: false,
        }
    }

    /// Has something to say.
    pub fn enter(&mut self, party: H) {
        self.silent.push_back(party);
    }

    /// Whose turn it is; to come back with [`Turns::again`] if he used it.
    pub fn next_turn(&mut self) -> Option<H> {
        let patient = self.passed < PATIENCE || self.backlog.is_empty();
        if patient && let Some(party) = self.silent.pop_front() {
            self.was_silent = true;
            return Some(party);
        }
        self.was_silent = false;
        self.passed = 0;
        self.backlog.pop_front()
    }

    /// Whose turn it was has written so many bytes.
    pub fn spent(&mut self, bytes: usize) {
        if self.backlog.is_empty() {
            self.passed = 0;
        } else if self.was_silent {
            self.passed = self.passed.saturating_add(bytes);
        }
    }

    /// Has written so many bytes in his turn, and may have more to say.
    pub fn again(&mut self, party: H, bytes: usize) {
        if bytes <= LITTLE {
            self.silent.push_back(party);
        } else {
            self.backlog.push_back(party);
        }
    }

    /// Takes out whoever isn't to `stay`.
    pub fn retain(&mut self, mut stay: impl FnMut(&H) -> bool) {
        self.silent.retain(&mut stay);
        self.backlog.retain(stay);
    }

    pub fn is_empty(&self) -> bool {
        self.silent.is_empty() && self.backlog.is_empty()
    }
}

impl<H> Default for Turns<H> {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes of one turn: two frames of 32 KiB. A longer message is a turn of its own.
pub const TURN: usize = 64 * 1024;

/// Bytes that silent ones may write before those with a backlog.
const PATIENCE: usize = 4 * TURN;

/// Who writes no more than this in his turn has no backlog, even if he comes again.
const LITTLE: usize = TURN / 4;

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_was_silent_goes_before_who_has_a_backlog() {
        let mut turns = Turns::new();
        for bulk in 0..3 {
            turns.enter(bulk);
        }
        let mut order = Vec::new();
        for _ in 0..3 {
            let bulk = turns.next_turn().expect("one of them");
            order.push(bulk);
            turns.spent(TURN);
            turns.again(bulk, TURN);
        }
        turns.enter(99);
        while let Some(next) = turns.next_turn() {
            order.push(next);
        }
        assert_eq!(order, [0, 1, 2, 99, 0, 1, 2]);
        assert!(turns.is_empty());
    }

    #[test]
    fn a_used_turn_is_the_end_of_silence() {
        let mut turns = Turns::new();
        turns.enter("bulk");
        turns.enter("echo");
        let bulk = turns.next_turn().expect("bulk");
        // Its frames are written; it has new ones before the next turn.
        turns.again(bulk, TURN);
        assert_eq!(turns.next_turn(), Some("echo"));
        turns.again("echo", TURN);
        assert_eq!(turns.next_turn(), Some("bulk"));
        // Said nothing this time, so he left and may come back as a silent one.
        turns.enter("bulk");
        assert_eq!(turns.next_turn(), Some("bulk"));
    }

    #[test]
    fn who_says_little_stays_a_silent_one() {
        let mut turns = Turns::new();
        turns.enter("bulk");
        let bulk = turns.next_turn().expect("bulk");
        turns.again(bulk, TURN);
        turns.enter("request");
        for _ in 0..3 {
            let request = turns.next_turn().expect("the request");
            assert_eq!(request, "request");
            turns.spent(100);
            turns.again(request, 100);
        }
    }

    #[test]
    fn a_crowd_of_silent_ones_lets_a_backlog_through() {
        let mut turns = Turns::new();
        turns.again(0, TURN);
        let mut order = Vec::new();
        for silent in 1..10 {
            turns.enter(silent);
        }
        for _ in 0..10 {
            let party = turns.next_turn().expect("somebody");
            turns.spent(PATIENCE / 2);
            order.push(party);
        }
        assert_eq!(order, [1, 2, 0, 3, 4, 5, 6, 7, 8, 9]);
    }

    proptest! {
        /// Nobody is lost or doubled, nobody waits for ever, and within each list it
        /// is first come, first served.
        #[test]
        fn everybody_comes_to_his_turn(
            steps in prop::collection::vec((any::<bool>(), 0..20_u32, 0..2 * TURN), 1..400),
        ) {
            let mut turns = Turns::new();
            let mut inside = HashSet::new();
            // Since when somebody with a backlog waits, in bytes of silent ones.
            let mut backlog: VecDeque<u32> = VecDeque::new();
            let mut silent: VecDeque<u32> = VecDeque::new();
            let mut passed: HashMap<u32, usize> = HashMap::new();
            for (enters, who, bytes) in steps {
                if enters {
                    if inside.insert(who) {
                        turns.enter(who);
                        silent.push_back(who);
                    }
                    continue;
                }
                let Some(party) = turns.next_turn() else {
                    prop_assert!(inside.is_empty());
                    continue;
                };
                if silent.front() == Some(&party) {
                    silent.pop_front();
                    if let Some(first) = backlog.front() {
                        let passed = passed.entry(*first).or_default();
                        prop_assert!(*passed < PATIENCE, "{first} starves");
                        *passed += bytes;
                    }
                } else {
                    prop_assert_eq!(backlog.pop_front(), Some(party));
                    let patience = passed.remove(&party).unwrap_or_default();
                    prop_assert!(silent.is_empty() || patience >= PATIENCE);
                }
                turns.spent(bytes);
                if bytes == 0 {
                    inside.remove(&party);
                } else {
                    turns.again(party, bytes);
                    let list = if bytes <= LITTLE { &mut silent } else { &mut backlog };
                    list.push_back(party);
                }
            }
            let mut rest = HashSet::new();
            while let Some(party) = turns.next_turn() {
                prop_assert!(rest.insert(party), "{} is there twice", party);
            }
            prop_assert_eq!(rest, inside);
        }
    }
}
