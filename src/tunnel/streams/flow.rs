//! A stream and its target while bytes flow, and how that ends (decisions.md §6.6
//! "FIN or RST"):
//!
//! | What happened | the stream | the target |
//! | --- | --- | --- |
//! | the target ended well | FIN after its data | |
//! | the target failed | RST behind its data, and not at its heels | |
//! | the gateway finished | | end of our half |
//! | the target reads no more | discards, the other direction goes on | |
//! | cut by anybody, or idle (TCP) | RST at once | aborted |
//! | idle (UDP) | FIN | closed |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::Socket;

use super::account::Account;
use crate::net;
use crate::tunnel::session::Stream;
use crate::workers::Workers;
use crate::yamux::Reset;

/// What the two threads of a stream share. `K`: what there is besides for its kind of
/// target.
pub(super) struct Flow<K> {
    pub(super) stream: Stream,
    pub(super) target: Arc<Socket>,
    pub(super) record: Box<dyn Account>,
    pub(super) activity: Activity,
    pub(super) kind: K,
}

impl<K> Flow<K> {
    /// From now on a cut aborts the target.
    pub(super) fn new(
        stream: Stream,
        target: Arc<Socket>,
        record: Box<dyn Account>,
        idle: Option<Duration>,
        kind: K,
    ) -> Self {
        let aborted = target.clone();
        stream.on_cut(move |_| net::abort(&aborted));
        Self {
            stream,
            target,
            record,
            activity: Activity::new(idle),
            kind,
        }
    }

    /// When somebody has cut the stream it is over, whatever the target's socket
    /// said: that was the abort.
    pub(super) fn is_cut(&self) -> bool {
        let cut = self.stream.cut();
        if let Some(cut) = cut {
            self.record.cut(cut);
        }
        cut.is_some()
    }

    /// Ends it at once.
    pub(super) fn reset(&self, why: &'static str) {
        self.record.failed(why.into());
        self.stream.reset(Reset::AtOnce);
    }
}

/// Each direction on a thread of its own.
pub(super) fn copy<K: Send + Sync + 'static>(
    copiers: &Workers,
    flow: Flow<K>,
    directions: [fn(&Flow<K>); 2],
) {
    let flow = Arc::new(flow);
    for direction in directions {
        let side = Side(flow.clone());
        let task = move || direction(&side.0);
        if copiers.run(Box::new(task)).is_err() {
            return flow.reset("no thread can be had");
        }
    }
}

/// One direction's share of a flow.
struct Side<K>(Arc<Flow<K>>);

impl<K> Drop for Side<K> {
    fn drop(&mut self) {
        // The other side must not go on with half a stream.
        if thread::panicking() {
            self.0.reset("a fault of the agent's own");
        }
    }
}

/// When something moved last, in either direction. Whoever waits does so until
/// [`until`](Self::until) and asks then.
pub(crate) struct Activity {
    start: Instant,
    /// Milliseconds after that.
    last: AtomicU64,
    limit: Option<Duration>,
}

impl Activity {
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            limit,
        }
    }

    pub(crate) fn touch(&self) {
        let millis = self.start.elapsed().as_millis() as u64;
        self.last.store(millis, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// When it is idle, if nothing moves until then.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.last().checked_add(self.limit?)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.until().is_some_and(|until| until <= Instant::now())
    }
}

/// Waits without a buffer until reading gives something, and says what: bytes, an end
/// or an error. Empty: nothing until then.
pub(super) fn wait(socket: &Socket, until: Option<Instant>) -> PollFlags {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let limit = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) => return fds[0].revents(),
            Err(Errno::INTR) => {}
            // Reading has something to say of it.
            Err(_) => return PollFlags::ERR,
        }
    }
}

/// Both directions of a connection are over.
pub(super) fn is_hung_up(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
        && fds[0].revents().contains(PollFlags::HUP)
}
