//! Who may run now, who waits, who is turned away (decisions.md §6.2 "At once").
//!
//! Short requests and long ones (watches, followed logs, streamed answers that
//! have become old) have places of their own, so that 256 watches don't keep
//! anybody from asking anything.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::net::Cancel;

/// How many.
#[derive(Clone, Copy, Debug)]
pub struct PlaceLimits {
    /// Short requests at once (256).
    pub short: usize,
    /// Long ones beside them (1,024).
    pub long: usize,
    /// Requests that wait for a place (1,024).
    pub waiting: usize,
}

impl Default for PlaceLimits {
    fn default() -> Self {
        Self {
            short: 256,
            long: 1024,
            waiting: 1024,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Short,
    Long,
}

/// A request that wants a place. Serials grow.
pub(super) trait Applicant {
    fn serial(&self) -> u64;
    fn kind(&self) -> Kind;
    fn cancel(&self) -> &Cancel;
}

pub(super) struct Places<J> {
    limits: PlaceLimits,
    state: Mutex<State<J>>,
    left: Condvar,
}

struct State<J> {
    running: HashMap<u64, Running>,
    short: usize,
    long: usize,
    waiting_short: BTreeMap<u64, J>,
    waiting_long: BTreeMap<u64, J>,
    /// Those that can't run yet: something of them is missing.
    parked: BTreeMap<u64, J>,
    closed: bool,
}

struct Running {
    kind: Kind,
    cancel: Cancel,
    /// A short one that would be a long one if there were a place.
    old: bool,
}

/// What became of an applicant.
pub(super) enum Admission<J> {
    /// It has a place, which must be left.
    Run(J),
    Waits,
    /// Too many wait already, or nothing new is taken.
    Refused(J, Refused),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("agent busy")]
    Busy,
    #[error("agent is shutting down")]
    Closed,
}

impl<J: Applicant> Places<J> {
    pub(super) fn new(limits: PlaceLimits) -> Self {
        Self {
            limits,
            state: Mutex::new(State {
                running: HashMap::new(),
                short: 0,
                long: 0,
                waiting_short: BTreeMap::new(),
                waiting_long: BTreeMap::new(),
                parked: BTreeMap::new(),
                closed: false,
            }),
            left: Condvar::new(),
        }
    }

    pub(super) fn apply(&self, job: J) -> Admission<J> {
        let mut state = self.state.lock();
        if state.closed {
            return Admission::Refused(job, Refused::Closed);
        }
        let kind = job.kind();
        if state.has_room(kind, &self.limits) {
            state.enter(&job, kind);
            return Admission::Run(job);
        }
        if state.waiting_short.len() + state.waiting_long.len() >= self.limits.waiting {
            return Admission::Refused(job, Refused::Busy);
        }
        state.waiting(kind).insert(job.serial(), job);
        Admission::Waits
    }

    /// Keeps one that can't run yet until it is taken out. A connection has at most
    /// one, so they are not counted among those who may wait.
    pub(super) fn park(&self, job: J) -> Result<(), (J, Refused)> {
        let mut state = self.state.lock();
        if state.closed {
            return Err((job, Refused::Closed));
        }
        state.parked.insert(job.serial(), job);
        Ok(())
    }

    /// Gives a place back; whoever gets it must run.
    pub(super) fn leave(&self, serial: u64) -> Option<J> {
        let mut state = self.state.lock();
        let next = match state.running.remove(&serial) {
            Some(Running { kind, .. }) => {
                *state.count(kind) -= 1;
                state
                    .admit_next(kind, &self.limits)
                    .or_else(|| state.move_an_old_one(&self.limits))
            }
            None => None,
        };
        drop(state);
        self.left.notify_all();
        next
    }

    /// A short one that runs has become a long one; it moves over as soon as there
    /// is a place. Whoever gets its old one must run.
    pub(super) fn move_over(&self, serial: u64) -> Option<J> {
        let mut state = self.state.lock();
        let running = state.running.get_mut(&serial)?;
        running.old = running.kind == Kind::Short;
        state.move_an_old_one(&self.limits)
    }

    /// Takes one out that waits or is parked.
    pub(super) fn give_up(&self, serial: u64) -> Option<J> {
        let mut state = self.state.lock();
        state
            .waiting_short
            .remove(&serial)
            .or_else(|| state.waiting_long.remove(&serial))
            .or_else(|| state.parked.remove(&serial))
    }

    /// Takes nothing new; yields what waits, and what ends the long ones, which
    /// would never end by themselves.
    pub(super) fn close(&self) -> (Vec<J>, Vec<Cancel>) {
        let mut state = self.state.lock();
        state.closed = true;
        let mut waiting: Vec<J> = std::mem::take(&mut state.waiting_short)
            .into_values()
            .collect();
        waiting.extend(std::mem::take(&mut state.waiting_long).into_values());
        waiting.extend(std::mem::take(&mut state.parked).into_values());
        let long = state.running.values().filter(|one| one.kind == Kind::Long);
        let long = long.map(|one| one.cancel.clone()).collect();
        (waiting, long)
    }

    /// Waits until nobody runs any more; false when `until` came first.
    pub(super) fn wait_until_empty(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.running.is_empty() {
            if self.left.wait_until(&mut state, until).timed_out() {
                return state.running.is_empty();
            }
        }
        true
    }

    /// Short ones, long ones, waiting and parked ones.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let state = self.state.lock();
        let waiting = state.waiting_short.len() + state.waiting_long.len();
        (state.short, state.long, waiting + state.parked.len())
    }
}

impl<J: Applicant> State<J> {
    fn has_room(&self, kind: Kind, limits: &PlaceLimits) -> bool {
        match kind {
            Kind::Short => self.short < limits.short,
            Kind::Long => self.long < limits.long,
        }
    }

    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Short => &mut self.short,
            Kind::Long => &mut self.long,
        }
    }

    fn waiting(&mut self, kind: Kind) -> &mut BTreeMap<u64, J> {
        match kind {
            Kind::Short => &mut self.waiting_short,
            Kind::Long => &mut self.waiting_long,
        }
    }

    fn enter(&mut self, job: &J, kind: Kind) {
        *self.count(kind) += 1;
        let cancel = job.cancel().clone();
        let running = Running {
            kind,
            cancel,
            old: false,
        };
        self.running.insert(job.serial(), running);
    }

    fn move_an_old_one(&mut self, limits: &PlaceLimits) -> Option<J> {
        if !self.has_room(Kind::Long, limits) {
            return None;
        }
        let old = self.running.values_mut().find(|one| one.old)?;
        old.old = false;
        old.kind = Kind::Long;
        self.short -= 1;
        self.long += 1;
        self.admit_next(Kind::Short, limits)
    }

    fn admit_next(&mut self, kind: Kind, limits: &PlaceLimits) -> Option<J> {
        if !self.has_room(kind, limits) {
            return None;
        }
        let (_, next) = self.waiting(kind).pop_first()?;
        self.enter(&next, kind);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug)]
    struct Job(u64, Kind, Cancel);

    impl Applicant for Job {
        fn serial(&self) -> u64 {
            self.0
        }
        fn kind(&self) -> Kind {
            self.1
        }
        fn cancel(&self) -> &Cancel {
            &self.2
        }
    }

    fn places(short: usize, long: usize, waiting: usize) -> Places<Job> {
        Places::new(PlaceLimits {
            short,
            long,
            waiting,
        })
    }

    fn apply(places: &Places<Job>, serial: u64, kind: Kind) -> &'static str {
        match places.apply(Job(serial, kind, Cancel::new())) {
            Admission::Run(_) => "runs",
            Admission::Waits => "waits",
            Admission::Refused(_, Refused::Busy) => "busy",
            Admission::Refused(_, Refused::Closed) => "closed",
        }
    }

    #[test]
    fn short_and_long_ones_have_places_of_their_own() {
        let places = places(1, 1, 2);
        assert_eq!(apply(&places, 1, Kind::Long), "runs");
        assert_eq!(apply(&places, 2, Kind::Short), "runs");
        assert_eq!(apply(&places, 3, Kind::Long), "waits");
        assert_eq!(apply(&places, 4, Kind::Short), "waits");
        assert_eq!(apply(&places, 5, Kind::Short), "busy");
        assert_eq!(places.leave(2).map(|job| job.0), Some(4));
        assert_eq!(places.leave(1).map(|job| job.0), Some(3));
        assert!(places.leave(3).is_none());
        assert!(places.leave(4).is_none());
        assert_eq!(places.counts(), (0, 0, 0));
    }

    #[test]
    fn the_one_that_came_first_goes_first_and_some_give_up() {
        let places = places(1, 1, 10);
        for serial in 1..=4 {
            apply(&places, serial, Kind::Short);
        }
        assert_eq!(places.give_up(2).map(|job| job.0), Some(2));
        assert!(places.give_up(1).is_none());
        assert_eq!(places.leave(1).map(|job| job.0), Some(3));
        assert_eq!(places.leave(3).map(|job| job.0), Some(4));
    }

    #[test]
    fn an_old_answer_moves_over_and_makes_room() {
        let places = places(1, 1, 10);
        apply(&places, 1, Kind::Short);
        apply(&places, 2, Kind::Short);
        assert_eq!(places.move_over(1).map(|job| job.0), Some(2));
        assert_eq!(places.counts(), (1, 1, 0));
        // The second finds no place, and gets it when the first leaves.
        assert!(places.move_over(2).is_none());
        apply(&places, 3, Kind::Short);
        assert_eq!(places.counts(), (1, 1, 1));
        assert_eq!(places.leave(1).map(|job| job.0), Some(3));
        assert_eq!(places.counts(), (1, 1, 0));
    }

    #[test]
    fn a_closed_house_takes_nobody() {
        let places = places(1, 1, 10);
        apply(&places, 1, Kind::Long);
        apply(&places, 2, Kind::Long);
        let (waiting, long) = places.close();
        assert_eq!((waiting.len(), long.len()), (1, 1));
        assert_eq!(apply(&places, 3, Kind::Short), "closed");
        assert!(!places.wait_until_empty(Instant::now()));
        assert!(places.leave(1).is_none());
        assert!(places.wait_until_empty(Instant::now()));
    }

    proptest! {
        #[test]
        fn the_books_are_always_right(
            operations in prop::collection::vec((0u8..5, 0u64..30, any::<bool>()), 0..200),
        ) {
            let places = places(3, 2, 4);
            let (mut serial, mut running) = (100, Vec::new());
            for (what, which, long) in operations {
                let kind = if long { Kind::Long } else { Kind::Short };
                let pick = |running: &Vec<u64>| {
                    running.get(which as usize % running.len().max(1)).copied()
                };
                match (what, pick(&running)) {
                    (0 | 1, _) => {
                        serial += 1;
                        if apply(&places, serial, kind) == "runs" {
                            running.push(serial);
                        }
                    }
                    (2, Some(one)) => {
                        running.retain(|other| *other != one);
                        running.extend(places.leave(one).map(|job| job.0));
                    }
                    (3, Some(one)) => running.extend(places.move_over(one).map(|job| job.0)),
                    _ => drop(places.give_up(100 + which)),
                }
                let (short, long, waiting) = places.counts();
                prop_assert!(short <= 3 && long <= 2 && waiting <= 4);
                prop_assert_eq!(short + long, running.len());
            }
        }
    }
}
