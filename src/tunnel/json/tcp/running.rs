//! The threads of a connection, and what is done at its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::{SendFlags, send};
use socket2::Socket;

use super::{Connection, End, Next};
use crate::net::{Deadline, abort};
use crate::telemetry::metrics::{TCP_ACTIVE, TCP_CONNECTIONS, TCP_DURATION, TUNNEL_FORWARDS};
use crate::threads::{self, SpawnError, Stack};
use crate::tunnel::Protocol;
use crate::tunnel::audit::{Judged, Line};
use crate::tunnel::json::{Place, Table};
use crate::tunnel::policy::Verdict;
use crate::tunnel::proxy_protocol;
use crate::tunnel::target::{Admitted, Connected, Refusal, RefusalKind};

impl Connection {
    /// Starts the thread that dials. It leaves the table when the close is sent. Never
    /// waits; an error leaves nothing behind.
    pub(in crate::tunnel::json) fn spawn(
        self: &Arc<Self>,
        admitted: Admitted,
        table: Arc<Mutex<Table>>,
        place: Place,
    ) -> Result<(), SpawnError> {
        let connection = self.clone();
        // What is done at the end waits, and takes the table's lock: nothing of that
        // may be begun by who starts the thread, or be left to do when there is none.
        let run = move || {
            let me = Running {
                connection,
                table,
                _place: place,
                target: admitted.to_string(),
                verdict: admitted.verdict().clone(),
                connected: None,
            };
            me.run(&admitted);
        };
        threads::spawn("json-tcp", Stack::Work, run).map(drop)
    }
}

/// The thread that dials and writes. What must be done at the end is done when this
/// is dropped, after a panic too.
struct Running {
    connection: Arc<Connection>,
    table: Arc<Mutex<Table>>,
    _place: Place,
    /// In words.
    target: String,
    verdict: Verdict,
    connected: Option<Connected>,
}

impl Running {
    fn run(mut self, admitted: &Admitted) {
        let connection = self.connection.clone();
        let deadline = Deadline::after(connection.settings.connection_timeout);
        let connected = match admitted.dial(deadline, &connection.cancel) {
            Ok(connected) => connected,
            Err(refusal) => {
                if let RefusalKind::Denied = refusal.kind {
                    self.verdict = Verdict {
                        reason: refusal.reason.clone(),
                        ..Verdict::default()
                    };
                }
                return connection.end(End::NotConnected(refusal));
            }
        };
        self.verdict = connected.verdict.clone();
        let socket = connected.socket.clone();
        connection.introduce(&connected);
        self.connected = Some(connected);
        if !connection.take_in(&socket) {
            return;
        }
        TCP_CONNECTIONS.increment();
        let _active = (TCP_ACTIVE.enter(), TUNNEL_FORWARDS.enter());
        if let Err(error) = connection.start_reading(socket.clone()) {
            log::warn!("{error}");
            return connection.end(End::NotConnected(Refusal {
                kind: RefusalKind::Dial,
                reason: error.to_string(),
                dry_run: None,
            }));
        }
        while let Next::Write(chunk) = connection.next() {
            connection.write(&socket, chunk.bytes());
        }
    }
}

impl Connection {
    fn start_reading(self: &Arc<Self>, target: Arc<Socket>) -> Result<(), SpawnError> {
        self.state.lock().reading = true;
        let me = Reading(self.clone());
        // When no thread starts, the closure is dropped, and `Reading` with it.
        threads::spawn("json-tcp-read", Stack::Copy, move || me.0.read(&target)).map(drop)
    }
}

impl Connection {
    /// Tells the target who the client is, where that is set.
    fn introduce(&self, to: &Connected) {
        if let Some(version) = self.proxy {
            let header = proxy_protocol::header(version, Protocol::Tcp, self.client, to.address);
            // There is room for all of it. An error is the target's end, which the
            // reading thread finds.
            let _ = send(&to.socket, &header, SendFlags::NOSIGNAL);
        }
    }
}

/// Says when the reading thread is gone, by a panic too.
struct Reading(Arc<Connection>);

impl Drop for Reading {
    fn drop(&mut self) {
        // After a panic there is no end yet.
        if std::thread::panicking() {
            self.0.end(End::Panicked);
        }
        self.0.reader_left();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let connection = &self.connection;
        // There is one, unless this is a panic.
        connection.end(End::Panicked);
        let end = connection.state.lock().end.clone();
        let end = end.unwrap_or(End::Panicked);
        connection.say(&end);
        self.leave_table();
        end.count();
        if self.connected.is_some() {
            TCP_DURATION.observe(connection.began.elapsed());
        }
        self.record(&end);
        self.let_target_go();
    }
}

impl Running {
    fn leave_table(&self) {
        let mut table = self.table.lock();
        let id = &self.connection.id;
        let ours = table.live.get(id);
        // The gateway may have begun another one under this id.
        if ours.is_some_and(|ours| Arc::ptr_eq(ours, &self.connection)) {
            table.live.remove(id);
            table.ended.insert(id);
        }
    }

    fn record(&self, end: &End) {
        let connection = &self.connection;
        let denied = !self.verdict.allowed;
        let totals = connection.totals();
        connection.audit.record(Line {
            is_request: false,
            id: connection.id.to_string(),
            tunnel: connection.tunnel.clone(),
            client: connection.client,
            protocol: Protocol::Tcp,
            target: self.target.clone(),
            address: self.connected.as_ref().and_then(|to| to.address),
            judged: if denied {
                Judged::Denied
            } else {
                Judged::Allowed
            },
            reason: self.verdict.reason.clone(),
            dry_run: self.verdict.dry_run.clone(),
            bytes_in: totals.bytes_sent,
            bytes_out: totals.bytes_received,
            duration: totals.duration,
            end: end.text().into(),
        });
    }

    /// A target that was told of a good end may still have something to say; without
    /// a reader its next bytes would turn that end into a reset.
    fn let_target_go(&self) {
        let connection = &self.connection;
        let until = Instant::now() + LINGER;
        let mut state = connection.state.lock();
        while state.reading {
            if connection.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        if let Some(target) = state.target.take()
            && state.reading
        {
            abort(&target);
        }
        while state.reading {
            connection.changed.wait(&mut state);
        }
    }
}

/// How long a target that was told of a good end may go on, unheard.
const LINGER: Duration = Duration::from_secs(2);
