//! Refusals that belong to a request travel in the bulk lane, like everything of
//! one id (decisions.md §6.2), and the bulk lane may have to be waited for, which
//! the reader must never do. So a small thread of the connection does it; it exists
//! only once there is something to refuse.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::link::{Message, SendError};
use crate::threads::{self, Stack};

/// Sends a message and may wait for room.
type Send = dyn Fn(Message) -> Result<(), SendError> + std::marker::Send + Sync;

/// The refusals of one connection. Dropping it ends the thread when it has sent
/// what it has, or the connection is gone.
pub(crate) struct Refusals {
    send: Arc<Send>,
    queue: Option<Sender<Message>>,
}

impl Refusals {
    pub(crate) fn new(
        send: impl Fn(Message) -> Result<(), SendError> + std::marker::Send + Sync + 'static,
    ) -> Self {
        Self {
            send: Arc::new(send),
            queue: None,
        }
    }

    /// Queues a refusal, without ever waiting. False: too many wait already, or there
    /// is no thread to be had; a peer that provokes that should lose the connection.
    #[must_use]
    pub(crate) fn send(&mut self, message: Message) -> bool {
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
        !matches!(queue.try_send(message), Err(TrySendError::Full(_)))
    }

    fn start(&self) -> Result<Sender<Message>, threads::SpawnError> {
        let (queue, messages) = bounded(MAX_WAITING);
        let send = self.send.clone();
        threads::spawn("control-refusals", Stack::Copy, move || {
            for message in messages {
                if send(message).is_err() {
                    return;
                }
            }
        })?;
        Ok(queue)
    }
}

const MAX_WAITING: usize = 1024;
