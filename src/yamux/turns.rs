//! Who has something to say, and in which order (design.md, "Fairness").

use std::collections::VecDeque;

/// Lists of streams (or of whatever `H` names) that have frames to write. A stream
/// is in each of them at most once, which [`Wakes`](super::Wakes) see to, so they
/// need no other bound.
///
/// Control frames go first. Then everybody has a turn; who was silent goes before
/// who has a backlog. Silent is who had nothing to say when it was his turn: a
/// stream that is refilled while its frames are written doesn't overtake others.
#[derive(Debug)]
pub struct Turns<H> {
    control: VecDeque<H>,
    silent: VecDeque<H>,
    backlog: VecDeque<H>,
}

impl<H> Turns<H> {
    pub fn new() -> Self {
        Self {
            control: VecDeque::new(),
            silent: VecDeque::new(),
            backlog: VecDeque::new(),
        }
    }

    /// Has control frames ([`Wakes::control`](super::Wakes::control)).
    pub fn control(&mut self, handle: H) {
        self.control.push_back(handle);
    }

    /// Has something in order ([`Wakes::turn`](super::Wakes::turn)).
    pub fn enter(&mut self, handle: H) {
        self.silent.push_back(handle);
    }

    /// Who is to be asked for control frames until there are none
    /// ([`Stream::next_control`](super::Stream::next_control)).
    pub fn next_control(&mut self) -> Option<H> {
        self.control.pop_front()
    }

    /// Whose turn it is ([`Stream::turn`](super::Stream::turn)); to come back with
    /// [`Turns::again`] if he used it.
    pub fn next_turn(&mut self) -> Option<H> {
        self.silent.pop_front().or_else(|| self.backlog.pop_front())
    }

    /// Used his turn.
    pub fn again(&mut self, handle: H) {
        self.backlog.push_back(handle);
    }

    pub fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.silent.is_empty() && self.backlog.is_empty()
    }
}

impl<H> Default for Turns<H> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
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
            turns.again(bulk);
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
        turns.again(bulk);
        assert_eq!(turns.next_turn(), Some("echo"));
        turns.again("echo");
        assert_eq!(turns.next_turn(), Some("bulk"));
        // Said nothing this time, so he left and may come back as a silent one.
        turns.enter("bulk");
        assert_eq!(turns.next_turn(), Some("bulk"));
    }
}
