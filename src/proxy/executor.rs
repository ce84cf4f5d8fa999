//! Who runs: each job gets a place, waits for one or is refused (`places`); a thread
//! of `workers` executes it and then whoever gets its place. Also looks after what
//! is idle, and after form B requests that outlived their connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::gzip::Compressors;
use super::job::Job;
use super::memory::Budget;
use super::places::{Admission, Applicant, Kind, NoPlace, Places};
use super::requests::Requests;
use super::services::{Beside, ServiceUpstreams};
use super::streams::Opening;
use super::ticket::{Ticket, too_late};
use super::timer::{Alarm, Timer};
use super::{Outlet, Settings, Upstreams};
use crate::http::Client;
use crate::net::{Cancel, Deadline, Reason};
use crate::resident;
use crate::threads::Stack;
use crate::workers::Workers;

/// Executes requests, within limits that hold for the whole process.
pub struct Executor {
    pub(super) settings: Settings,
    pub(super) upstreams: Option<Upstreams>,
    services: OnceLock<Beside>,
    pub(super) budget: Arc<Budget>,
    pub(super) compressors: Compressors,
    pub(super) places: Places<Task>,
    workers: Workers,
    pub(super) timer: Timer,
    /// Form B requests that outlived their connection, by id.
    pub(super) orphans: Mutex<HashMap<Arc<str>, (u64, Cancel)>>,
    serial: AtomicU64,
    sweep: Mutex<Option<Alarm>>,
    me: Weak<Self>,
}

/// What takes a place.
pub(super) enum Task {
    Request(Box<Job>),
    Stream(Opening),
}

impl Task {
    fn execute(self, executor: &Executor) {
        match self {
            Self::Request(job) => job.execute(executor),
            Self::Stream(opening) => opening.execute(executor),
        }
    }

    /// Never waits.
    fn refuse(self, executor: &Executor, text: &str) {
        match self {
            Self::Request(job) => job.refuse(executor, text),
            Self::Stream(opening) => opening.refuse(executor, text),
        }
    }

    /// What it says when its end comes before its turn.
    fn too_late(&self) -> String {
        match self {
            Self::Request(job) => too_late(job.ticket.failure_prefix),
            Self::Stream(opening) => opening.too_late(),
        }
    }
}

impl Applicant for Task {
    fn serial(&self) -> u64 {
        match self {
            Self::Request(job) => job.serial(),
            Self::Stream(opening) => opening.serial(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Request(job) => job.kind(),
            Self::Stream(opening) => opening.kind(),
        }
    }

    fn cancel(&self) -> &Cancel {
        match self {
            Self::Request(job) => job.cancel(),
            Self::Stream(opening) => opening.cancel(),
        }
    }

    fn crowd(&self) -> Option<&Arc<str>> {
        match self {
            Self::Request(job) => job.crowd(),
            Self::Stream(opening) => opening.crowd(),
        }
    }
}

impl From<Job> for Task {
    fn from(job: Job) -> Self {
        Self::Request(Box::new(job))
    }
}

impl From<Opening> for Task {
    fn from(opening: Opening) -> Self {
        Self::Stream(opening)
    }
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
    /// Without `upstreams` there is no cluster: every request is for an origin
    /// ([`use_services`](Self::use_services)).
    pub fn new(settings: Settings, upstreams: Option<Upstreams>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            budget: Budget::new(settings.memory_limit),
            compressors: Compressors::default(),
            places: Places::new(settings.places),
            workers: Workers::new("proxy", Stack::Work, settings.worker_idle),
            timer: Timer::new(),
            orphans: Mutex::default(),
            serial: AtomicU64::new(0),
            sweep: Mutex::default(),
            me: me.clone(),
            settings,
            upstreams,
            services: OnceLock::new(),
        })
    }

    /// From now on requests reach Services, too; said once, before the first connection.
    pub fn use_services(&self, services: ServiceUpstreams) {
        let _ = self.services.set(Beside::new(services));
    }

    pub(super) fn services(&self) -> Option<&Beside> {
        self.services.get()
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
            job.refuse(self, &NoPlace::Closed.to_string());
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
    pub(super) fn admit(&self, task: impl Into<Task>) {
        let task = task.into();
        let (serial, cancel) = (task.serial(), task.cancel().clone());
        match self.places.apply(task) {
            Admission::Run(task) => self.start(task),
            Admission::Waits => {
                // Its end may have come before it began to wait.
                if cancel.reason().is_some() {
                    self.give_up(serial);
                }
            }
            Admission::Refused(task, refused) => task.refuse(self, &refused.to_string()),
        }
    }

    /// Its end came before its turn.
    fn give_up(&self, serial: u64) {
        if let Some(task) = self.places.give_up(serial) {
            let text = task.too_late();
            task.refuse(self, &text);
        }
    }

    /// Keeps a job until its body is there.
    pub(super) fn park(&self, job: Job) {
        let ticket = job.ticket.clone();
        if let Err((job, refused)) = self.places.park(job.into()) {
            job.refuse(self, &refused.to_string());
        } else if ticket.cancel.reason().is_some() {
            // Its end came before.
            self.give_up(ticket.serial);
        }
    }

    /// Has a job that has a place executed.
    fn start(&self, job: Task) {
        let mut next = Some(job);
        while let (Some(job), Some(me)) = (next.take(), self.me.upgrade()) {
            let serial = job.serial();
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
                job.refuse(self, "agent busy: no thread can be started");
            }
            next = self.places.leave(serial);
        }
    }

    /// On a worker: executes the job, and those that get its place.
    fn work(&self, job: Task) {
        let mut next = Some(job);
        while let Some(job) = next.take() {
            let place = Place {
                executor: self,
                serial: Some(job.serial()),
            };
            job.execute(self);
            if let Some(beside) = self.services() {
                beside.pools.trim();
            }
            next = place.leave();
        }
        self.sweep_later();
    }

    /// Runs something beside a task that has a place, on a thread of its own; false if
    /// there is none.
    pub(super) fn run_beside(&self, what: impl FnOnce() + Send + 'static) -> bool {
        self.workers.run(Box::new(what)).is_ok()
    }

    /// Ends a job that waits for a place or for its body; one that runs is ended by its `cancel`.
    pub(super) fn refuse_waiting(&self, serial: u64, text: &str) {
        if let Some(job) = self.places.give_up(serial) {
            job.refuse(self, text);
        }
    }

    pub(super) fn move_over(&self, serial: u64) {
        if let Some(next) = self.places.move_over(serial) {
            self.start(next);
        }
    }

    pub(super) fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Its connection is gone, and it may finish.
    pub(super) fn adopt(&self, ticket: &Ticket) {
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
    pub(super) fn disown(&self, id: &str) {
        let orphan = self.orphans.lock().remove(id);
        if let Some((serial, cancel)) = orphan {
            cancel.cancel(Reason::Cancelled);
            self.refuse_waiting(serial, "cancelled");
        }
    }

    pub(super) fn forget_orphan(&self, id: &str, serial: u64) {
        let mut orphans = self.orphans.lock();
        if orphans.get(id).is_some_and(|(known, _)| *known == serial) {
            orphans.remove(id);
        }
    }

    /// Looks after what is idle while there is any.
    fn sweep_later(&self) {
        let mut sweep = self.sweep.lock();
        if sweep.is_some() || !self.has_idle() {
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

    fn has_idle(&self) -> bool {
        let upstreams = self.upstreams.as_ref().map_or(0, Upstreams::idle);
        upstreams + self.compressors.idle() > 0
            || self
                .services()
                .is_some_and(|beside| !beside.pools.is_empty())
    }

    fn sweep_now(&self) {
        *self.sweep.lock() = None;
        self.compressors.sweep();
        if let Some(upstreams) = &self.upstreams {
            for client in upstreams.clients() {
                client.sweep();
            }
        }
        if let Some(beside) = self.services() {
            beside.pools.sweep();
        }
        if let (0, _, 0) = self.places.counts() {
            resident::give_back();
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
    fn leave(mut self) -> Option<Task> {
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
