//! Refusals that belong to a request travel in the bulk lane, like everything of
//! one id (decisions.md §6.2), and the bulk lane may have to be waited for, which
//! the reader must never do. So a small thread of the connection does it; it exists
//! only once there is something to refuse.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError, bounded};

use super::channel::Channel;
use crate::link::{Lane, Message};
use crate::net::Cancel;
use crate::threads::{self, Stack};

/// The refusals of one connection. Dropping it ends the thread when it has sent
/// what it has, or the connection is gone.
pub(super) struct Refusals {
    channel: Arc<dyn Channel>,
    queue: Option<Sender<Message>>,
}

impl Refusals {
    pub(super) fn new(channel: Arc<dyn Channel>) -> Self {
        Self {
            channel,
            queue: None,
        }
    }

    /// Never waits. A peer that provokes thousands and takes none loses the
    /// connection.
    pub(super) fn send(&mut self, message: Message) {
        let queue = match &self.queue {
            Some(queue) => queue,
            None => match self.start() {
                Ok(queue) => self.queue.insert(queue),
                Err(error) => return self.channel.abort(&error.to_string()),
            },
        };
        match queue.try_send(message) {
            // Disconnected: the connection is gone.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                let why = "the peer provokes refusals and does not take them";
                self.channel.abort(why);
            }
        }
    }

    fn start(&self) -> Result<Sender<Message>, threads::SpawnError> {
        let (queue, messages) = bounded::<Message>(MAX_WAITING);
        let channel = self.channel.clone();
        threads::spawn("control-refusals", Stack::Copy, move || {
            let never = Cancel::new();
            for message in messages {
                if channel.send(Lane::Bulk, message, &never).is_err() {
                    return;
                }
            }
        })?;
        Ok(queue)
    }
}

const MAX_WAITING: usize = 1024;
