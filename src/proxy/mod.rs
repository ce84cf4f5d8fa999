//! Executes `proxy_request`s against the Kubernetes API (control-channel.md §8,
//! decisions.md §6.2).
//!
//! One request, file by file:
//!
//! 1. [`requests`](Requests) hears it on the `link-reader` thread, which must not
//!    wait. `plan` turns it into a call: target and headers checked and encoded, so
//!    that nothing a peer says changes the framing, the host or the identity.
//!    `times` says how long it may take; `memory` makes room for its body, which
//!    `inbound` takes in if it comes in chunks. What is wrong with it is refused
//!    here, through a small thread of its `connection`.
//! 2. `places` lets it run, wait or go away; `workers` has a thread for it.
//! 3. `job`, on that thread, makes the call with [`http::Client`](crate::http::Client)
//!    and passes the answer on as it comes (form S) or as a whole (form B, through
//!    `gzip`), while `credit` and the lane have room.
//! 4. `answer` sends it and sees to it that there is exactly one end, also when the
//!    thread panics.
//!
//! What is known of a request, its limits of time among it, is its `ticket`. Ending it
//! early is one thing, whoever does it (the peer, the `timer`, the loss of the
//! connection, a body that overflows or stalls): its [`Cancel`] fires, which closes the socket to the API server and wakes what waits.

mod answer;
mod connection;
mod credit;
mod gzip;
mod inbound;
mod job;
mod memory;
mod places;
mod plan;
mod requests;
mod ticket;
mod timer;
mod times;
mod workers;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use places::PlaceLimits;
pub use requests::Requests;

use self::gzip::Compressors;
use self::job::Job;
use self::memory::Budget;
use self::places::{Admission, Places};
use self::ticket::Ticket;
use self::timer::{Alarm, Timer};
use self::workers::Workers;
use crate::allocator;
use crate::config::Secret;
use crate::http::Client;
use crate::link::{Message, SendError};
use crate::net::{Cancel, Deadline, Reason};

/// The way back to the peer, for the requests of one connection.
pub trait Outlet: Send + Sync {
    /// Queues a message in the bulk lane; waits for room until there is some, the
    /// connection ends or `cancel` fires.
    fn send(&self, message: Message, cancel: &Cancel) -> Result<(), SendError>;

    /// The whole answer of a form B request. Outlives the connection: when that is
    /// gone or goes before the answer was written, it goes to the next one to the
    /// same endpoint within 30 s, or is dropped and counted (decisions.md §6.2 "Lost
    /// connection"), which is no error here. [`SendError::Cancelled`]: it was not
    /// sent, and won't be.
    fn send_late(
        &self,
        request_id: &str,
        message: Message,
        cancel: &Cancel,
    ) -> Result<(), SendError>;

    /// Ends the connection: the peer makes it impossible to keep the rules.
    fn abort(&self, why: &str);
}

/// The API server.
pub struct Upstreams {
    /// Shows no credential of its own: what callers ask for travels here, under
    /// their own `Authorization` or none.
    pub callers: Client,
    /// The agent's own way there (`kubernetes.impersonate_agent`), for requests
    /// without `Authorization`. Never shares a connection with `callers`.
    pub agent: Option<Agent>,
    /// What paths there begin with; mostly empty. No slash at its end.
    pub base: String,
}

/// The agent's own connections and credential.
pub struct Agent {
    pub client: Client,
    pub identity: Arc<dyn AgentIdentity>,
}

/// Knows the agent's own credential.
pub trait AgentIdentity: Send + Sync {
    /// The value of `Authorization`; `None` when the connection itself (a client
    /// certificate) says who it is. May wait, until `cancel` fires. The error is
    /// logged.
    fn authorization(&self, cancel: &Cancel) -> Result<Option<Secret>, String>;

    /// The API server answered 401.
    fn refused(&self) {}
}

/// Limits; the defaults are those of decisions.md §6.2.
#[derive(Clone, Debug)]
pub struct Settings {
    pub places: PlaceLimits,
    /// All that is held of requests and buffered answers together, in bytes
    /// (`proxy.memory_limit`): heads and bodies, and the messages that answers become,
    /// until they are written. Beside it are the buffers of connections, a chunk for
    /// each streamed answer, and what the link is just reading.
    pub memory_limit: usize,
    /// One buffered body or answer, decoded, in bytes.
    pub body_limit: usize,
    /// A streamed answer or upload of this age makes room for short requests.
    pub long_after: Duration,
    /// A request body on its way in that makes no progress for so long fails its
    /// request, unless that brings a `deadline`: a `timeout` begins only at its end.
    pub body_idle: Duration,
    /// Total for form B requests that say nothing themselves.
    pub default_timeout: Duration,
    /// How long a thread without work is kept.
    pub worker_idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            places: PlaceLimits::default(),
            memory_limit: 256 << 20,
            body_limit: 64 << 20,
            long_after: Duration::from_secs(30),
            body_idle: Duration::from_mins(1),
            default_timeout: Duration::from_mins(2),
            worker_idle: Duration::from_secs(10),
        }
    }
}

/// Executes requests, within limits that hold for the whole process.
pub struct Executor {
    settings: Settings,
    upstreams: Option<Upstreams>,
    budget: Arc<Budget>,
    compressors: Compressors,
    places: Places<Job>,
    workers: Workers,
    timer: Timer,
    /// Form B requests that outlived their connection, by id.
    orphans: Mutex<HashMap<Arc<str>, (u64, Cancel)>>,
    serial: AtomicU64,
    sweep: Mutex<Option<Alarm>>,
    me: Weak<Self>,
}

/// What an executor does now, for metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub short: usize,
    pub long: usize,
    pub waiting: usize,
    /// Requests received so far, refused ones not counted.
    pub requests: u64,
    /// Bytes of buffered bodies.
    pub memory: usize,
    pub threads: usize,
}

impl Executor {
    /// Without `upstreams` every request is refused: no cluster is known.
    pub fn new(settings: Settings, upstreams: Option<Upstreams>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            budget: Budget::new(settings.memory_limit),
            compressors: Compressors::default(),
            places: Places::new(settings.places),
            workers: Workers::new(settings.worker_idle),
            timer: Timer::new(),
            orphans: Mutex::default(),
            serial: AtomicU64::new(0),
            sweep: Mutex::default(),
            me: me.clone(),
            settings,
            upstreams,
        })
    }

    /// The requests of one connection, answered through `outlet`.
    pub fn connection(self: &Arc<Self>, outlet: Arc<dyn Outlet>) -> Requests {
        Requests::new(self.clone(), outlet)
    }

    /// Takes nothing new, ends watches and followed logs, and waits for what else
    /// runs, until `deadline` at most.
    pub fn drain(&self, deadline: Deadline) {
        let (waiting, long) = self.places.close();
        for job in waiting {
            job.refuse(&places::Refused::Closed.to_string());
        }
        for cancel in long {
            cancel.cancel(Reason::Shutdown);
        }
        self.places.wait_until_empty(deadline.instant());
    }

    pub fn load(&self) -> Load {
        let (short, long, waiting) = self.places.counts();
        Load {
            short,
            long,
            waiting,
            requests: self.serial.load(Ordering::Relaxed),
            memory: self.budget.used(),
            threads: self.workers.count(),
        }
    }

    /// Runs the job, now or later, or refuses it. Never waits.
    fn admit(&self, job: Job) {
        let (serial, cancel) = (job.ticket.serial, job.ticket.cancel.clone());
        match self.places.apply(job) {
            Admission::Run(job) => self.start(job),
            Admission::Waits => {
                // Its end may have come before it began to wait.
                if cancel.reason().is_some() {
                    self.refuse_waiting(serial, ticket::TOO_LATE);
                }
            }
            Admission::Refused(job, refused) => job.refuse(&refused.to_string()),
        }
    }

    /// Keeps a job until its body is there.
    fn park(&self, job: Job) {
        let (serial, cancel) = (job.ticket.serial, job.ticket.cancel.clone());
        if let Err((job, refused)) = self.places.park(job) {
            job.refuse(&refused.to_string());
        } else if cancel.reason().is_some() {
            // Its end came before.
            self.refuse_waiting(serial, ticket::TOO_LATE);
        }
    }

    /// Has a job that has a place executed.
    fn start(&self, job: Job) {
        let mut next = Some(job);
        while let (Some(job), Some(me)) = (next.take(), self.me.upgrade()) {
            let serial = job.ticket.serial;
            // Outside the task, to be had back when there is no thread for it.
            let slot = Arc::new(Mutex::new(Some(job)));
            let given = slot.clone();
            let task = move || {
                if let Some(job) = given.lock().take() {
                    me.work(job);
                }
            };
            if self.workers.run(Box::new(task)).is_ok() {
                return;
            }
            if let Some(job) = slot.lock().take() {
                job.refuse("agent busy: no thread can be started");
            }
            next = self.places.leave(serial);
        }
    }

    /// On a worker: executes the job, and those that get its place.
    fn work(&self, job: Job) {
        let mut next = Some(job);
        while let Some(job) = next.take() {
            let place = Place {
                executor: self,
                serial: Some(job.ticket.serial),
            };
            job.execute(self);
            next = place.leave();
        }
        self.sweep_later();
    }

    /// Ends a job that waits for a place or for its body; one that runs is ended by its `cancel`.
    fn refuse_waiting(&self, serial: u64, text: &str) {
        if let Some(job) = self.places.give_up(serial) {
            job.refuse(text);
        }
    }

    fn move_over(&self, serial: u64) {
        if let Some(next) = self.places.move_over(serial) {
            self.start(next);
        }
    }

    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Its connection is gone, and it may finish.
    fn adopt(&self, ticket: &Ticket) {
        let entry = (ticket.serial, ticket.cancel.clone());
        let mut orphans = self.orphans.lock();
        // It may have come to its end since its connection let go of it: then
        // nobody would forget it.
        if !ticket.is_retired() {
            orphans.insert(ticket.id.clone(), entry);
        }
    }

    /// The id is used again: an answer to the old request would be taken for the
    /// new one's.
    fn disown(&self, id: &str) {
        let orphan = self.orphans.lock().remove(id);
        if let Some((serial, cancel)) = orphan {
            cancel.cancel(Reason::Cancelled);
            self.refuse_waiting(serial, "cancelled");
        }
    }

    fn forget_orphan(&self, id: &str, serial: u64) {
        let mut orphans = self.orphans.lock();
        if orphans.get(id).is_some_and(|(known, _)| *known == serial) {
            orphans.remove(id);
        }
    }

    /// Looks after what is idle while there is any.
    fn sweep_later(&self) {
        let Some(upstreams) = &self.upstreams else {
            return;
        };
        let mut sweep = self.sweep.lock();
        if sweep.is_some() || upstreams.idle() + self.compressors.idle() == 0 {
            return;
        }
        let me = self.me.clone();
        let when = Instant::now() + SWEEP_EVERY;
        let alarm = self.timer.at(when, move || {
            if let Some(executor) = me.upgrade() {
                executor.sweep_now();
            }
        });
        *sweep = alarm.ok();
    }

    fn sweep_now(&self) {
        *self.sweep.lock() = None;
        self.compressors.sweep();
        if let Some(upstreams) = &self.upstreams {
            for client in upstreams.clients() {
                client.sweep();
            }
        }
        if let (0, _, 0) = self.places.counts() {
            allocator::give_back();
        }
        self.sweep_later();
    }
}

impl Upstreams {
    fn clients(&self) -> impl Iterator<Item = &Client> {
        let agent = self.agent.as_ref().map(|agent| &agent.client);
        std::iter::once(&self.callers).chain(agent)
    }

    fn idle(&self) -> usize {
        self.clients().map(Client::idle).sum()
    }
}

/// A place that is taken; given back when dropped, by a panic too.
struct Place<'a> {
    executor: &'a Executor,
    serial: Option<u64>,
}

impl Place<'_> {
    /// Gives it back; whoever gets it must run.
    fn leave(mut self) -> Option<Job> {
        self.executor.places.leave(self.serial.take()?)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let next = self
            .serial
            .take()
            .and_then(|serial| self.executor.places.leave(serial));
        if let Some(next) = next {
            self.executor.start(next);
        }
    }
}

/// How often what is idle is looked after.
const SWEEP_EVERY: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
