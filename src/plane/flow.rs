//! Credit for bodies (decisions.md §6.2, feature `flow`), as pure accounting.
//!
//! One side may send as many decoded bytes as the other has granted: [`INITIAL_CREDIT`]
//! to begin with, then what each `proxy_flow` adds. The receiver grants again what
//! it has passed on, so what it holds is never more than the window.

use crate::wire::INITIAL_CREDIT;

/// What is kept of an answer from an agent without `flow`, in decoded bytes.
pub(crate) const UNMETERED_LIMIT: u64 = 8 * 1024 * 1024;

/// More arrived than was granted (or than is kept without credit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

/// The receiving side of one direction. Counts are decoded bytes since the
/// request began; `passed_on ≤ received ≤ granted ≤ passed_on + window`.
#[derive(Clone, Debug)]
pub(crate) struct Receiving {
    metered: bool,
    window: u64,
    granted: u64,
    received: u64,
    passed_on: u64,
}

impl Receiving {
    /// From an agent that knows credit.
    pub(crate) fn metered() -> Self {
        Self::new(true, INITIAL_CREDIT)
    }

    /// From an agent that doesn't: nothing is granted, but no more is kept than
    /// [`UNMETERED_LIMIT`].
    pub(crate) fn unmetered() -> Self {
        Self::new(false, UNMETERED_LIMIT)
    }

    fn new(metered: bool, window: u64) -> Self {
        Self {
            metered,
            window,
            granted: window,
            received: 0,
            passed_on: 0,
        }
    }

    /// Bytes that arrived; called before memory is taken for them.
    pub(crate) fn receive(&mut self, bytes: u64) -> Result<(), Overrun> {
        match self.received.checked_add(bytes) {
            Some(received) if received <= self.granted => {
                self.received = received;
                Ok(())
            }
            _ => Err(Overrun),
        }
    }

    /// Bytes that went on to where they belong. Returns what is to be granted to
    /// the sender now: nothing until a quarter of the window has gathered, so that
    /// a stream of small pieces doesn't cost a message each.
    pub(crate) fn pass_on(&mut self, bytes: u64) -> Option<u64> {
        debug_assert!(bytes <= self.held(), "only what was received is passed on");
        self.passed_on = self.received.min(self.passed_on.saturating_add(bytes));
        let due = self.passed_on + self.window - self.granted;
        if self.metered && due < self.window / 4 {
            return None;
        }
        self.granted += due;
        self.metered.then_some(due)
    }

    /// Bytes received and not passed on yet.
    pub(crate) fn held(&self) -> u64 {
        self.received - self.passed_on
    }
}

/// The sending side of one direction.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    /// `None`: the receiver doesn't know credit, and TCP alone slows us down.
    left: Option<u64>,
}

impl Sending {
    pub(crate) fn metered() -> Self {
        Self {
            left: Some(INITIAL_CREDIT),
        }
    }

    pub(crate) fn unmetered() -> Self {
        Self { left: None }
    }

    /// Takes credit for up to `wanted` bytes; 0 means: wait for a grant.
    pub(crate) fn take(&mut self, wanted: usize) -> usize {
        let Some(left) = &mut self.left else {
            return wanted;
        };
        let taken = wanted.min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= taken as u64;
        taken
    }

    /// The receiver granted more. A hostile sum stays at the largest number.
    pub(crate) fn grant(&mut self, credit: u64) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_add(credit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_sender_that_ignores_credit_is_found_at_its_first_byte_too_many() {
        let mut receiving = Receiving::metered();
        assert_eq!(receiving.receive(INITIAL_CREDIT), Ok(()));
        assert_eq!(receiving.receive(1), Err(Overrun));
        assert_eq!(receiving.receive(u64::MAX), Err(Overrun));
        assert_eq!(receiving.held(), INITIAL_CREDIT);
    }

    #[test]
    fn without_credit_the_limit_is_on_what_is_held() {
        let mut receiving = Receiving::unmetered();
        assert_eq!(receiving.receive(UNMETERED_LIMIT), Ok(()));
        assert_eq!(receiving.receive(1), Err(Overrun));
        assert_eq!(receiving.pass_on(10), None);
        assert_eq!(receiving.receive(10), Ok(()));
        assert_eq!(receiving.receive(1), Err(Overrun));
    }

    #[test]
    fn small_pieces_are_granted_together() {
        let mut receiving = Receiving::metered();
        receiving.receive(INITIAL_CREDIT).expect("granted");
        assert_eq!(receiving.pass_on(INITIAL_CREDIT / 4 - 1), None);
        assert_eq!(receiving.pass_on(1), Some(INITIAL_CREDIT / 4));
    }

    #[test]
    fn absurd_grants_do_not_overflow() {
        let mut sending = Sending::metered();
        sending.grant(u64::MAX);
        sending.grant(u64::MAX);
        assert_eq!(sending.take(usize::MAX), usize::MAX);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send(usize),
        Deliver,
        PassOn(u64),
        Grant,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..600_000).prop_map(Step::Send),
            Just(Step::Deliver),
            (1u64..600_000).prop_map(Step::PassOn),
            Just(Step::Grant),
        ]
    }

    proptest! {
        /// Whatever the order of sending, delivery and grants: an honest sender
        /// never overruns, never more than the window is held, and nobody waits
        /// for ever once everything has been passed on and delivered.
        #[test]
        fn honest_peers_never_overrun_and_never_starve(steps in prop::collection::vec(step(), 1..200)) {
            let (mut sending, mut receiving) = (Sending::metered(), Receiving::metered());
            let (mut data, mut grants) = (VecDeque::new(), VecDeque::new());
            let pass_on = |receiving: &mut Receiving, grants: &mut VecDeque<u64>, bytes| {
                grants.extend(receiving.pass_on(bytes));
            };
            for step in steps {
                match step {
                    Step::Send(wanted) => data.push_back(sending.take(wanted) as u64),
                    Step::Deliver => {
                        if let Some(bytes) = data.pop_front() {
                            prop_assert_eq!(receiving.receive(bytes), Ok(()));
                        }
                    }
                    Step::PassOn(bytes) => {
                        let bytes = bytes.min(receiving.held());
                        pass_on(&mut receiving, &mut grants, bytes);
                    }
                    Step::Grant => {
                        if let Some(credit) = grants.pop_front() {
                            sending.grant(credit);
                        }
                    }
                }
                prop_assert!(receiving.held() <= INITIAL_CREDIT);
            }
            for bytes in data {
                prop_assert_eq!(receiving.receive(bytes), Ok(()));
            }
            let held = receiving.held();
            pass_on(&mut receiving, &mut grants, held);
            for credit in grants {
                sending.grant(credit);
            }
            prop_assert!(sending.take(1) == 1);
        }
    }
}
