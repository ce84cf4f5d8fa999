//! What is known of one request, from its receipt to its last message: its limits
//! and how it is ended early.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Executor;
use super::connection::{Connection, Form};
use super::credit::Credit;
use super::inbound::Inbound;
use super::places::Kind;
use super::timer::Alarm;
use super::times::Timeout;
use crate::net::{Cancel, Reason};
use crate::threads::SpawnError;

/// One request, from its receipt to its last message.
pub(super) struct Ticket {
    pub(super) id: Arc<str>,
    /// Of all requests of the process: what tells two under one id apart.
    pub(super) serial: u64,
    pub(super) form: Form,
    pub(super) kind: Kind,
    pub(super) cancel: Cancel,
    pub(super) connection: Arc<Connection>,
    pub(super) inbound: Option<Arc<Inbound>>,
    /// With feature `flow`: what of the answer may be sent.
    pub(super) credit: Option<Arc<Credit>>,
    pub(super) executor: Weak<Executor>,
    pub(super) received: Instant,
    /// Begins when nothing of the request is missing.
    timeout: Option<Timeout>,
    /// What the text of a failed call begins with (control-channel.md §8.7).
    pub(super) failure_prefix: &'static str,
    body_complete: AtomicBool,
    /// Only the last message is left to be sent.
    finishing: AtomicBool,
    /// Fires when nothing more may be sent for it, not even its end: the peer has
    /// cancelled it and used its id again, or is gone.
    pub(super) silence: Cancel,
    /// Its last message is sent.
    retired: AtomicBool,
    alarms: Mutex<Alarms>,
    /// Why the request was ended with [`Reason::Failed`].
    failure: Mutex<Option<String>>,
}

#[derive(Default)]
struct Alarms {
    total: Option<Alarm>,
    timeout: Option<Alarm>,
    /// When somebody looks whether its body still makes progress.
    body: Option<Alarm>,
    /// When a streamed answer is old enough to move to the long ones.
    age: Option<Alarm>,
    header_sent: bool,
    over: bool,
}

impl Ticket {
    #[allow(clippy::too_many_arguments)] // made in one place
    pub(super) fn new(
        id: Arc<str>,
        serial: u64,
        form: Form,
        kind: Kind,
        connection: Arc<Connection>,
        cancel: Cancel,
        inbound: Option<Arc<Inbound>>,
        credit: Option<Arc<Credit>>,
        timeout: Option<Timeout>,
        failure_prefix: &'static str,
        executor: &Arc<Executor>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            serial,
            form,
            kind,
            cancel,
            connection,
            inbound,
            credit,
            executor: Arc::downgrade(executor),
            received: Instant::now(),
            timeout,
            failure_prefix,
            body_complete: AtomicBool::new(false),
            finishing: AtomicBool::new(false),
            silence: Cancel::new(),
            retired: AtomicBool::new(false),
            alarms: Mutex::default(),
            failure: Mutex::default(),
        })
    }

    /// False when its id may be used again.
    pub(super) fn is_live(&self) -> bool {
        !self.finishing.load(Ordering::Acquire) && self.cancel.reason() != Some(Reason::Cancelled)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.silence.reason().is_some()
    }

    /// Limits the whole request.
    pub(super) fn limit_total(&self, limit: Duration) -> Result<(), SpawnError> {
        let alarm = self.deadline_in(limit)?;
        let mut alarms = self.alarms.lock();
        if !alarms.over {
            alarms.total = alarm;
        }
        Ok(())
    }

    /// Fails the request when its body makes no progress for `limit` before it is
    /// complete: nothing of it comes, and nothing of it is taken.
    pub(super) fn limit_body(self: &Arc<Self>, limit: Duration) -> Result<(), SpawnError> {
        self.look_at_body(limit, limit)
    }

    /// Looks after `wait`. The pieces themselves only note the time: they are many.
    fn look_at_body(self: &Arc<Self>, wait: Duration, limit: Duration) -> Result<(), SpawnError> {
        let Some(executor) = self.executor.upgrade() else {
            return Ok(());
        };
        let weak = Arc::downgrade(self);
        let when = crate::net::Deadline::after(wait).instant();
        let alarm = executor.timer.at(when, move || {
            if let Some(ticket) = weak.upgrade() {
                ticket.judge_body(limit);
            }
        })?;
        let mut alarms = self.alarms.lock();
        let before = if alarms.over || self.is_complete() {
            Some(alarm)
        } else {
            alarms.body.replace(alarm)
        };
        drop(alarms);
        drop(before);
        Ok(())
    }

    fn judge_body(self: &Arc<Self>, limit: Duration) {
        if self.is_complete() {
            return;
        }
        let inbound = self.inbound.as_ref();
        if inbound.is_some_and(|inbound| inbound.is_stopped()) {
            // Its answer is on the way; what of the body still comes is dropped.
            return;
        }
        let moved = inbound.map_or(self.received, |inbound| inbound.moved());
        let left = limit.saturating_sub(moved.elapsed());
        if left.is_zero() {
            self.fail(if inbound.is_some() {
                STALLED
            } else {
                NO_BINARY_BODY
            });
        } else if let Err(error) = self.look_at_body(left, limit) {
            self.fail(&error.to_string());
        }
    }

    /// Nothing of the request is missing any more.
    pub(super) fn body_complete(&self) -> Result<(), SpawnError> {
        self.body_complete.store(true, Ordering::Release);
        let looking = self.alarms.lock().body.take();
        drop(looking);
        let (limit, only_head) = match self.timeout {
            Some(Timeout::ToHeader(limit)) => (limit, true),
            Some(Timeout::ToEnd(limit)) => (limit, false),
            None => return Ok(()),
        };
        let alarm = self.deadline_in(limit)?;
        let mut alarms = self.alarms.lock();
        let too_late = alarms.over || (only_head && alarms.header_sent);
        if !too_late {
            alarms.timeout = alarm;
        }
        Ok(())
    }

    pub(super) fn is_complete(&self) -> bool {
        self.body_complete.load(Ordering::Acquire)
    }

    /// The head of the answer is there.
    pub(super) fn head_arrived(&self, lifts_timeout: bool) {
        let mut alarms = self.alarms.lock();
        alarms.header_sent = true;
        let lifted = lifts_timeout.then(|| alarms.timeout.take());
        drop(alarms);
        drop(lifted);
    }

    /// From now on it is one of the long ones, if it still runs `after` from now
    /// and there is a place.
    pub(super) fn moves_over(&self, after: Duration) -> Result<(), SpawnError> {
        let Some(executor) = self.executor.upgrade() else {
            return Ok(());
        };
        let (weak, serial) = (self.executor.clone(), self.serial);
        let alarm = executor.timer.at(Instant::now() + after, move || {
            if let Some(executor) = weak.upgrade() {
                executor.move_over(serial);
            }
        })?;
        self.alarms.lock().age = Some(alarm);
        Ok(())
    }

    /// Ends the request with an error that isn't its upstream's.
    pub(super) fn fail(&self, why: &str) {
        self.failure.lock().get_or_insert_with(|| why.to_owned());
        let first = self.cancel.cancel(Reason::Failed);
        if let Some(inbound) = &self.inbound {
            inbound.fail(why);
        }
        if first && let Some(executor) = self.executor.upgrade() {
            executor.refuse_waiting(self.serial, why);
        }
    }

    /// The text of [`fail`](Self::fail).
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Only its last message is left: its id is free. Its limits hold until that is
    /// on its way: it may have to wait for the lane.
    pub(super) fn finish(&self) {
        self.finishing.store(true, Ordering::Release);
    }

    /// Its last message is sent: nothing of it is left.
    pub(super) fn retire(&self) {
        self.finish();
        self.retired.store(true, Ordering::Release);
        let alarms = std::mem::replace(
            &mut *self.alarms.lock(),
            Alarms {
                over: true,
                ..Alarms::default()
            },
        );
        drop(alarms);
        self.connection.leave(self);
        if let Some(inbound) = &self.inbound {
            crate::http::client::Source::stop(&**inbound);
        }
        if let Some(executor) = self.executor.upgrade() {
            executor.forget_orphan(&self.id, self.serial);
        }
    }

    fn deadline_in(&self, limit: Duration) -> Result<Option<Alarm>, SpawnError> {
        let Some(executor) = self.executor.upgrade() else {
            return Ok(None);
        };
        let (weak, serial) = (self.executor.clone(), self.serial);
        let (cancel, prefix) = (self.cancel.clone(), self.failure_prefix);
        let when = crate::net::Deadline::after(limit).instant();
        let alarm = executor.timer.at(when, move || {
            if cancel.cancel(Reason::Deadline)
                && let Some(executor) = weak.upgrade()
            {
                executor.refuse_waiting(serial, &too_late(prefix));
            }
        })?;
        Ok(Some(alarm))
    }
}

/// What a request says that took too long (control-channel.md §8.7).
pub(super) fn too_late(prefix: &str) -> String {
    format!("{prefix}: context deadline exceeded")
}

/// Why a request fails whose body stops coming or is taken no more.
const STALLED: &str = "the request body made no progress for too long";

/// Why a request fails whose body was announced and is not there.
pub(super) const NO_BINARY_BODY: &str = "the binary request body did not follow its request";
