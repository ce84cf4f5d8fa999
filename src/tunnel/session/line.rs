//! The connection under a session, as the session sees it.

use std::sync::Arc;
use std::time::Instant;

use super::shared::Shared;
use crate::link::{Carrier, Link, Speaker};
use crate::sync::{AtomicBool, Ordering};
use crate::yamux::Fatal;

/// Where speakers get in line to be written. Nothing here may wait or ask a speaker:
/// that is done later, by the thread that writes. Nor may it be called with a lock
/// held that speakers take.
pub trait Line: Send + Sync {
    /// `speaker` has messages ([`Speaker::turn`]). He isn't in line already.
    fn enter(&self, speaker: Arc<dyn Speaker>);

    /// `speaker` has control frames ([`Speaker::control`]). He isn't in that line
    /// already.
    fn enter_control(&self, speaker: Arc<dyn Speaker>);

    /// The session is over, and the connection can't carry another one: it is to end
    /// when what speakers have said is written. Called once, perhaps while a speaker
    /// is asked.
    fn dead(&self, why: Fatal);
}

impl Line for Link {
    fn enter(&self, speaker: Arc<dyn Speaker>) {
        Link::enter(self, speaker);
    }

    fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        Link::enter_control(self, speaker);
    }

    /// There is no way to agree on a new session but a new connection
    /// (tunnels.md T7).
    fn dead(&self, why: Fatal) {
        log::warn!("the tunnels' session is over, and its connection with it: {why}");
        self.close(PROTOCOL_ERROR, &format!("yamux: {why}"));
    }
}

impl Carrier for Shared {
    fn tick(&self, now: Instant) {
        Shared::tick(self, now);
    }
}

/// The line of one session. When the session has ended none of its streams says a
/// word any more, whichever thread tries.
pub(super) struct Voice {
    line: Arc<dyn Line>,
    silent: AtomicBool,
}

impl Voice {
    pub(super) fn new(line: Arc<dyn Line>) -> Self {
        Self {
            line,
            silent: AtomicBool::new(false),
        }
    }

    pub(super) fn line(&self) -> &Arc<dyn Line> {
        &self.line
    }

    /// From now on streams are silent.
    pub(super) fn silence(&self) {
        self.silent.store(true, Ordering::Release);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }
}

/// The WebSocket's close code.
const PROTOCOL_ERROR: u16 = 1002;
