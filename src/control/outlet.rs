//! The way back of a connection's requests: every message that the proxy sends, each
//! piece of a streamed answer too, passes here into its request's slot of the
//! connection that the request came on, and waits there for room (decisions.md §6.2).
//!
//! Only a whole answer (form B) outlives its connection: one that could not be written
//! waits in `late` for the next connection.

use std::sync::Arc;

use super::channel::Channel;
use super::late::Origin;
use crate::link::{Lane, Message, SendError, Slot};
use crate::net::Cancel;
use crate::proxy::Outlet;

/// The way back for the requests of one connection; made by
/// [`LateAnswers::connected`](super::late::LateAnswers::connected).
pub struct ConnectionOutlet {
    origin: Arc<Origin>,
    channel: Arc<dyn Channel>,
}

impl ConnectionOutlet {
    pub(super) fn new(origin: Arc<Origin>, channel: Arc<dyn Channel>) -> Self {
        Self { origin, channel }
    }
}

impl Outlet for ConnectionOutlet {
    fn send(&self, request_id: &str, message: Message, cancel: &Cancel) -> Result<(), SendError> {
        let lane = Lane::Bulk(Slot::of(request_id));
        self.channel.send(lane, message, cancel)
    }

    fn send_late(
        &self,
        request_id: &str,
        message: Message,
        cancel: &Cancel,
    ) -> Result<(), SendError> {
        let origin = self.origin.clone();
        let message = origin.keep(request_id.into(), message, None);
        let lane = Lane::Bulk(Slot::of(request_id));
        match self.channel.send(lane, message, cancel) {
            // It came back and waits for the next connection.
            Err(SendError::Closed) => Ok(()),
            done => done,
        }
    }

    fn abort(&self, why: &str) {
        self.channel.abort(why);
    }
}
