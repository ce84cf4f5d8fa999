//! What the requests of one connection share, and what is known of each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError, bounded};
use parking_lot::Mutex;

use super::credit::Credit;
use super::inbound::Inbound;
use super::places::Kind;
use super::timer::Alarm;
use super::times::Timeout;
use super::{Executor, Outlet};
use crate::link::Message;
use crate::net::{Cancel, Reason};
use crate::threads::{self, SpawnError, Stack};
use crate::wire::from_agent;

/// How an answer is wanted (control-channel.md §8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Form B: as a whole.
    Buffered,
    /// Form S: as it comes.
    Streamed,
}

/// One connection, as its requests see it.
pub(super) struct Connection {
    pub(super) outlet: Arc<dyn Outlet>,
    /// Fires when it is lost.
    pub(super) lost: Cancel,
    live: Mutex<HashMap<Arc<str>, Arc<Ticket>>>,
    refusals: Mutex<Option<Sender<Refusal>>>,
}

struct Refusal {
    id: Arc<str>,
    text: String,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    As(Form),
    /// `proxy_error`, and never on another connection.
    Duplicate,
}

impl Connection {
    pub(super) fn new(outlet: Arc<dyn Outlet>) -> Arc<Self> {
        Arc::new(Self {
            outlet,
            lost: Cancel::new(),
            live: Mutex::default(),
            refusals: Mutex::default(),
        })
    }

    /// The request that lives under this id. One that the peer has cancelled, or
    /// that has only its last message to send, makes room for the next.
    pub(super) fn live(&self, id: &str) -> Option<Arc<Ticket>> {
        let live = self.live.lock();
        live.get(id).filter(|ticket| ticket.is_live()).cloned()
    }

    /// The request under this id, whatever its state.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Ticket>> {
        self.live.lock().get(id).cloned()
    }

    pub(super) fn enter(&self, ticket: &Arc<Ticket>) {
        let before = self.live.lock().insert(ticket.id.clone(), ticket.clone());
        if let Some(before) = before
            && before.cancel.reason() == Some(Reason::Cancelled)
        {
            before.silence.cancel(Reason::Cancelled);
        }
    }

    /// All requests, which are none of this connection's from now on.
    pub(super) fn take_all(&self) -> Vec<Arc<Ticket>> {
        let live = std::mem::take(&mut *self.live.lock());
        live.into_values().collect()
    }

    /// Sends the bad end of a request that isn't executed. Never waits: the lane
    /// may have to be waited for, so a small thread does it, if it ever comes to
    /// that. A peer that provokes more than it takes loses the connection.
    pub(super) fn refuse(&self, id: &Arc<str>, form: Form, text: &str) {
        self.queue(id, text, How::As(form));
    }

    /// As [`refuse`](Self::refuse), under an id that a live request has (T42): an
    /// abort would be taken for that one's.
    pub(super) fn refuse_duplicate(&self, id: &Arc<str>) {
        let text = "a request with this id is still being executed";
        self.queue(id, text, How::Duplicate);
    }

    fn queue(&self, id: &Arc<str>, text: &str, how: How) {
        let refusal = Refusal {
            id: id.clone(),
            text: text.to_owned(),
            how,
        };
        let mut refusals = self.refusals.lock();
        let queue = match &*refusals {
            Some(queue) => queue.clone(),
            None => match self.start_refusing() {
                Ok(queue) => refusals.insert(queue).clone(),
                Err(error) => {
                    log::error!("{error}");
                    self.outlet.abort("a refusal can't be sent");
                    return;
                }
            },
        };
        drop(refusals);
        if let Err(TrySendError::Full(_)) = queue.try_send(refusal) {
            let why = "the peer provokes refusals and does not take them";
            self.outlet.abort(why);
        }
    }

    fn start_refusing(&self) -> Result<Sender<Refusal>, SpawnError> {
        let (queue, refusals) = bounded::<Refusal>(MAX_REFUSALS);
        let (outlet, lost) = (self.outlet.clone(), self.lost.clone());
        threads::spawn("proxy-refusals", Stack::Work, move || {
            for Refusal { id, text, how } in refusals {
                match how {
                    How::As(form) => send_failure(&*outlet, &id, form, &text, &lost),
                    How::Duplicate => {
                        let message = Message::text(192 + id.len(), |buf| {
                            from_agent::proxy_error(buf, &id, &text);
                        });
                        let _ = outlet.send(message, &lost);
                    }
                }
            }
        })?;
        Ok(queue)
    }
}

/// Sends the bad end of a request, in its form (control-channel.md §8.7); waits
/// for room.
pub(super) fn send_failure(
    outlet: &dyn Outlet,
    id: &str,
    form: Form,
    text: &str,
    silence: &Cancel,
) {
    let expected = 192 + id.len() + text.len();
    // An error says only that the connection is gone.
    let _ = match form {
        Form::Buffered => {
            let message = Message::text(expected, |buf| from_agent::proxy_error(buf, id, text));
            outlet.send_late(id, message, &Cancel::new())
        }
        Form::Streamed => {
            let message = Message::text(expected, |buf| {
                from_agent::proxy_response_abort(buf, id, text);
            });
            outlet.send(message, silence)
        }
    };
}

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
            body_complete: AtomicBool::new(false),
            finishing: AtomicBool::new(false),
            silence: Cancel::new(),
            retired: AtomicBool::new(false),
            alarms: Mutex::default(),
            failure: Mutex::default(),
        })
    }

    fn is_live(&self) -> bool {
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

    /// Nothing of the request is missing any more.
    pub(super) fn body_complete(&self) -> Result<(), SpawnError> {
        self.body_complete.store(true, Ordering::Release);
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

    /// Only its last message is left: its id is free.
    pub(super) fn finish(&self) {
        self.finishing.store(true, Ordering::Release);
        let mut alarms = self.alarms.lock();
        alarms.over = true;
        let all = (
            alarms.total.take(),
            alarms.timeout.take(),
            alarms.age.take(),
        );
        drop(alarms);
        drop(all);
    }

    /// Its last message is sent: nothing of it is left.
    pub(super) fn retire(&self) {
        self.finish();
        self.retired.store(true, Ordering::Release);
        let mut live = self.connection.live.lock();
        if live
            .get(&self.id)
            .is_some_and(|ticket| ticket.serial == self.serial)
        {
            live.remove(&self.id);
        }
        drop(live);
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
        let cancel = self.cancel.clone();
        let when = crate::net::Deadline::after(limit).instant();
        let alarm = executor.timer.at(when, move || {
            if cancel.cancel(Reason::Deadline)
                && let Some(executor) = weak.upgrade()
            {
                executor.refuse_waiting(serial, TOO_LATE);
            }
        })?;
        Ok(Some(alarm))
    }
}

/// What a request says that took too long (control-channel.md §8.7).
pub(super) const TOO_LATE: &str = "kubernetes API request failed: context deadline exceeded";

/// Refusals that may wait for the lane.
const MAX_REFUSALS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::SendError;
    use crate::proxy::Settings;

    struct Nowhere;

    impl Outlet for Nowhere {
        fn send(&self, _: Message, _: &Cancel) -> Result<(), SendError> {
            Err(SendError::Closed)
        }
        fn send_late(&self, _: &str, _: Message, _: &Cancel) -> Result<(), SendError> {
            Ok(())
        }
        fn abort(&self, _: &str) {}
    }

    #[test]
    fn a_request_that_ends_while_its_connection_is_lost_is_nobodys_orphan() {
        let executor = Executor::new(Settings::default(), None);
        let connection = Connection::new(Arc::new(Nowhere));
        let (form, kind) = (Form::Buffered, Kind::Short);
        let ticket = Ticket::new(
            "r".into(),
            executor.next_serial(),
            form,
            kind,
            connection.clone(),
            Cancel::new(),
            None,
            None,
            None,
            &executor,
        );
        connection.enter(&ticket);
        // The reader takes it from the connection; its worker is faster than what
        // the reader does next.
        let all = connection.take_all();
        ticket.retire();
        for ticket in all {
            executor.adopt(&ticket);
        }
        assert!(executor.orphans.lock().is_empty());
    }
}
