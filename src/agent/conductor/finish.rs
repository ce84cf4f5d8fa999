//! The end.

use std::time::{Duration, Instant};

use super::{CLOSE_NORMAL, Conductor, Input};
use crate::agent::connection::ConnectionEvent;
use crate::agent::error::AgentError;
use crate::control::session::End;
use crate::net::Reason;

impl Conductor {
    /// Ends every thread that was started, within what is left of the time.
    pub(super) fn finish(mut self) -> Result<(), AgentError> {
        let limit = Instant::now() + self.parts.shutdown_limit;
        let limit = self
            .stopping
            .unwrap_or(limit)
            .max(Instant::now() + LEAST_END);
        self.cancel.cancel(Reason::Shutdown);
        self.heartbeat_cancel.cancel(Reason::Shutdown);
        for connection in self.connections.values() {
            match &connection.link {
                // What was asked to close goes on closing.
                Some(link) if !link.is_open() => {}
                Some(link) => link.close(CLOSE_NORMAL, ""),
                None => drop(connection.cancel.cancel(Reason::Shutdown)),
            }
        }
        let mut threads = Vec::new();
        let mut aborted = false;
        while !(self.connections.is_empty() && self.background.is_idle()) {
            let until = if aborted {
                limit
            } else {
                limit.min(Instant::now() + CLOSE_PATIENCE)
            };
            match self.inbox.recv_deadline(until) {
                Ok(Input::Connection(generation, ConnectionEvent::Up(link))) => {
                    link.close(CLOSE_NORMAL, "");
                    if let Some(connection) = self.connections.get_mut(&generation) {
                        connection.link = Some(link);
                    }
                }
                Ok(Input::Connection(generation, _)) => {
                    threads.extend(self.remove(generation).map(|c| c.thread));
                }
                Ok(Input::Done(_)) => self.background.reported(),
                Ok(_) => {}
                Err(_) if Instant::now() >= limit => return Err(AgentError::ShutdownTimedOut),
                Err(_) => {
                    aborted = true;
                    for link in self.connections.values().filter_map(|c| c.link.as_ref()) {
                        link.abort("the peer did not answer the close");
                    }
                }
            }
        }
        for thread in threads {
            // Their last word has been heard: they end now.
            let _ = thread.join();
        }
        self.background.join();
        self.gatherer.stop();
        match self.end {
            None | Some(End::Stopped) => Ok(()),
            Some(End::Refused(why)) => Err(AgentError::Refused(why)),
            Some(End::GaveUp) => Err(AgentError::GaveUp),
        }
    }
}

/// After a refusal, too, threads get a moment to end.
const LEAST_END: Duration = Duration::from_secs(5);

/// A close frame is waited for this long before the connection is cut.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
