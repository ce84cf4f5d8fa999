//! Refusals that belong to a request travel in its slot, like everything of one id
//! (decisions.md §6.2), and there may be no room, which the reader must never wait for. So a small thread of the connection does it; it exists
//! only once there is something to refuse.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::link::{Message, SendError, Slot};
use crate::threads::{self, Stack};

/// Sends a message and may wait for room.
type Send = dyn Fn(Slot, Message) -> Result<(), SendError> + std::marker::Send + Sync;

/// The refusals of one connection. Dropping it ends the thread when it has sent
/// what it has, or the connection is gone.
pub(crate) struct Refusals {
    send: Arc<Send>,
    queue: Option<Sender<(Slot, Message)>>,
}

impl Refusals {
    pub(crate) fn new(
        send: impl Fn(Slot, Message) -> Result<(), SendError> + std::marker::Send + Sync + 'static,
    ) -> Self {
        Self {
            send: Arc::new(send),
            queue: None,
        }
    }

    /// Queues a refusal, without ever waiting. False: too many wait already, or there
    /// is no thread to be had; a peer that provokes that should lose the connection.
    #[must_use]
    pub(crate) fn send(&mut self, slot: Slot, message: Message) -> bool {
        let queue = match &self.queue {
            Some(queue) => queue,
            None => match self.start() {
                Ok(queue) => self.queue.insert(queue),
                Err(error) => {
                    log::error!("{error}");
                    return false;
                }
            },
        };
        // Disconnected: the connection is gone, and so is who was refused.
        !matches!(queue.try_send((slot, message)), Err(TrySendError::Full(_)))
    }

    fn start(&self) -> Result<Sender<(Slot, Message)>, threads::SpawnError> {
        let (queue, messages) = bounded(MAX_WAITING);
        let send = self.send.clone();
        threads::spawn("control-refusals", Stack::Copy, move || {
            for (slot, message) in messages {
                if send(slot, message).is_err() {
                    return;
                }
            }
        })?;
        Ok(queue)
    }
}

const MAX_WAITING: usize = 1024;
