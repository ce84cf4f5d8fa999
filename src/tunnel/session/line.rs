//! The connection under a session, as the session sees it.

use std::sync::Arc;

use crate::link::Message;
use crate::sync::{AtomicBool, Ordering};
use crate::yamux::Fatal;

/// Who has something to be written. Called by the thread that writes, with no lock
/// held; must not wait.
pub trait Speaker: Send + Sync {
    /// Appends frames that go before all data, complete ones.
    fn control(&self, out: &mut Vec<u8>);

    /// Appends messages that keep their order: a turn of 64 KiB or one message.
    /// False: there was nothing, and the speaker has left the list.
    fn turn(&self, out: &mut Vec<Message>) -> bool;
}

/// Where speakers get in line to be written. Nothing here may wait or call back:
/// a speaker is called later.
pub trait Line: Send + Sync {
    /// `speaker` has messages ([`Speaker::turn`]). He isn't in line already.
    fn enter(&self, speaker: Arc<dyn Speaker>);

    /// `speaker` has control frames ([`Speaker::control`]). He isn't in that line
    /// already.
    fn enter_control(&self, speaker: Arc<dyn Speaker>);

    /// The session is over, and the connection can't carry another one. What
    /// speakers have said until now is still to be written; then the line ends.
    fn dead(&self, why: Fatal);
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
