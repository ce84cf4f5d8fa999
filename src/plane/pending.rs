//! What waits for an agent on behalf of a client: what a request (`exchange`) and a
//! WebSocket (`stream`) have in common, apart from what each knows.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::net::{Cancel, Guard, Reason};

/// Stands between the agent's thread, which puts in, and the client's, which take out.
pub(crate) struct Pending<S> {
    id: String,
    /// Whose it is: the id of the user's token.
    token: String,
    /// Ends the client's side: its socket, and whoever waits for room in the link.
    cancel: Cancel,
    state: Mutex<S>,
    changed: Condvar,
}

/// What is known of something that waits.
pub(crate) trait Ends: Send + 'static {
    /// It ends from the client's side.
    fn end(&mut self, reason: Reason);
}

impl<S: Ends> Pending<S> {
    pub(super) fn with(id: String, token: String, state: S) -> Self {
        Self {
            id,
            token,
            cancel: Cancel::new(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Ends it from the client's side, and cuts the client.
    pub(crate) fn end(&self, reason: Reason) {
        self.change(|state| state.end(reason));
        self.cancel.cancel(reason);
    }

    /// While the guard lives, [`cancel`](Self::cancel) ends it, whoever fires that: who
    /// waits in here doesn't wait on the `Cancel`.
    pub(crate) fn end_when_cancelled(self: &Arc<Self>) -> Result<Guard, Reason> {
        // Weak: the `Cancel` that would hold it is part of it.
        let weak = Arc::downgrade(self);
        self.cancel.on_wake(Arc::new(move || {
            if let Some(it) = weak.upgrade() {
                it.end(it.cancel.reason().unwrap_or(Reason::Cancelled));
            }
        }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, S> {
        self.state.lock()
    }

    /// Changes what is known, and wakes who waits for it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.notify_all();
        result
    }

    /// Waits for the next change.
    pub(super) fn wait(&self, state: &mut MutexGuard<'_, S>) {
        self.changed.wait(state);
    }

    /// Likewise; false: none came until then.
    pub(super) fn wait_until(&self, state: &mut MutexGuard<'_, S>, until: Instant) -> bool {
        !self.changed.wait_until(state, until).timed_out()
    }
}
