//! What stands at the other end of an agent's connection, and uses its streams.

use std::time::Duration;

use crate::bulk::Direction;
use crate::service::Service;
use crate::times::Times;

/// The other end: the Go gateway, or our plane with clients.
pub(crate) trait Far {
    /// Where an agent registers, with which token, and the certificate's file.
    fn address(&self) -> Address;

    /// Waits until an agent has come. False: it doesn't take up tunnels.
    fn meet(&mut self, service: &Service) -> Result<bool, String>;

    /// Starts bulk streams without end.
    fn start_bulk(
        &mut self,
        service: &Service,
        direction: Direction,
        streams: usize,
    ) -> Result<(), String>;

    /// How far they are.
    fn progress(&mut self) -> Result<Progress, String>;

    fn stop_bulk(&mut self) -> Result<(), String>;

    /// Opens streams, some at once: a byte there and back, closing.
    fn open_and_close(
        &mut self,
        service: &Service,
        at_once: usize,
        window: Duration,
    ) -> Result<Opened, String>;

    /// Echoes on one stream, and pings of the session beside them, if those can be
    /// measured here.
    fn echo_and_ping(
        &mut self,
        service: &Service,
        window: Duration,
    ) -> Result<(Times, Option<Times>), String>;
}

#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) ca: std::path::PathBuf,
}

/// How far bulk streams are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) bytes: u64,
    /// Since they began.
    pub(crate) seconds: f64,
}

/// Streams that were opened and closed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opened {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    pub(crate) times: Times,
}
