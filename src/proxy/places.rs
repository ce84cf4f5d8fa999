//! Who may run now, who waits, who is turned away (decisions.md §6.2 "At once").
//!
//! Short requests and long ones (watches, followed logs, streamed answers that
//! have become old) have places of their own, so that 256 watches don't keep
//! anybody from asking anything.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
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
    /// The same, of those that share a target: one that hangs doesn't take all places
    /// (50, 256, 256).
    pub crowd: Crowd,
}

/// Those with one target. As limits, or as what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    pub short: usize,
    pub long: usize,
    pub waiting: usize,
}

impl Default for PlaceLimits {
    fn default() -> Self {
        Self {
            short: 256,
            long: 1024,
            waiting: 1024,
            crowd: Crowd {
                short: 50, // connections of the original (control-channel.md §8.5)
                long: 256,
                waiting: 256,
            },
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
    /// Those with the same share the limits of a crowd.
    fn crowd(&self) -> Option<&Arc<str>>;
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
    /// Who runs and waits, by target; nobody's isn't there.
    crowds: HashMap<Arc<str>, Crowd>,
    closed: bool,
}

struct Running {
    kind: Kind,
    crowd: Option<Arc<str>>,
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
    Refused(J, NoPlace),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
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
                crowds: HashMap::new(),
                closed: false,
            }),
            left: Condvar::new(),
        }
    }

    pub(super) fn apply(&self, job: J) -> Admission<J> {
        let mut state = self.state.lock();
        if state.closed {
            return Admission::Refused(job, NoPlace::Closed);
        }
        let kind = job.kind();
        if state.has_room(kind, job.crowd(), &self.limits) {
            state.enter(&job, kind);
            return Admission::Run(job);
        }
        let waiting = state.waiting_short.len() + state.waiting_long.len();
        let beside = state.crowd(job.crowd()).waiting;
        if waiting >= self.limits.waiting || beside >= self.limits.crowd.waiting {
            return Admission::Refused(job, NoPlace::Busy);
        }
        state.change(job.crowd(), |crowd| crowd.waiting += 1);
        state.waiting(kind).insert(job.serial(), job);
        Admission::Waits
    }

    /// Keeps one that can't run yet until it is taken out. A connection has at most
    /// one, so they are not counted among those who may wait.
    pub(super) fn park(&self, job: J) -> Result<(), (J, NoPlace)> {
        let mut state = self.state.lock();
        if state.closed {
            return Err((job, NoPlace::Closed));
        }
        state.parked.insert(job.serial(), job);
        Ok(())
    }

    /// Gives a place back; whoever gets it must run.
    pub(super) fn leave(&self, serial: u64) -> Option<J> {
        let mut state = self.state.lock();
        let next = match state.running.remove(&serial) {
            Some(Running { kind, crowd, .. }) => {
                *state.count(kind) -= 1;
                state.change(crowd.as_ref(), |crowd| *crowd.count(kind) -= 1);
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
        let waiting = state.waiting_short.remove(&serial);
        match waiting.or_else(|| state.waiting_long.remove(&serial)) {
            Some(job) => {
                state.change(job.crowd(), |crowd| crowd.waiting -= 1);
                Some(job)
            }
            None => state.parked.remove(&serial),
        }
    }

    /// Takes nothing new; yields what waits, and what ends the long ones, which
    /// would never end by themselves.
    pub(super) fn close(&self) -> (Vec<J>, Vec<Cancel>) {
        let mut state = self.state.lock();
        state.closed = true;
        state
            .crowds
            .values_mut()
            .for_each(|crowd| crowd.waiting = 0);
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
    fn has_room(&self, kind: Kind, crowd: Option<&Arc<str>>, limits: &PlaceLimits) -> bool {
        let there = self.crowd(crowd);
        match kind {
            Kind::Short => self.short < limits.short && there.short < limits.crowd.short,
            Kind::Long => self.long < limits.long && there.long < limits.crowd.long,
        }
    }

    fn crowd(&self, of: Option<&Arc<str>>) -> Crowd {
        let crowd = of.and_then(|of| self.crowds.get(of));
        crowd.copied().unwrap_or_default()
    }

    fn change(&mut self, of: Option<&Arc<str>>, change: impl FnOnce(&mut Crowd)) {
        let Some(of) = of else {
            return;
        };
        let crowd = self.crowds.entry(of.clone()).or_default();
        change(crowd);
        if *crowd == Crowd::default() {
            self.crowds.remove(of);
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
        self.change(job.crowd(), |crowd| *crowd.count(kind) += 1);
        let cancel = job.cancel().clone();
        let running = Running {
            kind,
            crowd: job.crowd().cloned(),
            cancel,
            old: false,
        };
        self.running.insert(job.serial(), running);
    }

    fn move_an_old_one(&mut self, limits: &PlaceLimits) -> Option<J> {
        let may = |one: &Running| one.old && self.has_room(Kind::Long, one.crowd.as_ref(), limits);
        let serial = self.running.iter().find(|(_, one)| may(one))?.0;
        let serial = *serial;
        let one = self.running.get_mut(&serial)?;
        one.old = false;
        one.kind = Kind::Long;
        let crowd = one.crowd.clone();
        self.short -= 1;
        self.long += 1;
        self.change(crowd.as_ref(), |crowd| {
            crowd.short -= 1;
            crowd.long += 1;
        });
        self.admit_next(Kind::Short, limits)
    }

    /// The first that waits and whose target isn't crowded.
    fn admit_next(&mut self, kind: Kind, limits: &PlaceLimits) -> Option<J> {
        let waiting = match kind {
            Kind::Short => &self.waiting_short,
            Kind::Long => &self.waiting_long,
        };
        let may = |job: &J| self.has_room(kind, job.crowd(), limits);
        let serial = waiting.iter().find(|(_, job)| may(job))?.0;
        let serial = *serial;
        let next = self.waiting(kind).remove(&serial)?;
        self.change(next.crowd(), |crowd| crowd.waiting -= 1);
        self.enter(&next, kind);
        Some(next)
    }
}

impl Crowd {
    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Short => &mut self.short,
            Kind::Long => &mut self.long,
        }
    }
}

#[cfg(test)]
mod tests;
