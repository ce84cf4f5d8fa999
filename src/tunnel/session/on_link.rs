//! A session on a [`Link`].

use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::line::{Line, Speaker};
use crate::link::{Carrier, Link};
use crate::yamux::Fatal;

/// The line that is a link. When the session on it dies, the link is closed: there
/// is no way to begin another one on it (tunnels.md T7).
pub struct LinkLine(Link);

impl LinkLine {
    pub fn new(link: Link) -> Self {
        Self(link)
    }
}

impl Line for LinkLine {
    fn enter(&self, speaker: Arc<dyn Speaker>) {
        self.0.enter(speaker);
    }

    fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        self.0.enter_control(speaker);
    }

    fn dead(&self, why: Fatal) {
        log::warn!("the session of the tunnels is over, and its connection with it: {why}");
        self.0.close(PROTOCOL_ERROR, &format!("tunnels: {why}"));
    }
}

/// A session that its link tells the time.
pub struct Carried(Session);

impl Carried {
    pub fn new(session: Session) -> Self {
        Self(session)
    }
}

impl Carrier for Carried {
    fn tick(&self, now: Instant) {
        self.0.tick(now);
    }
}

/// Close code of a connection whose session has died (RFC 6455 §7.4.1).
const PROTOCOL_ERROR: u16 = 1002;
