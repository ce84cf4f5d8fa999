//! What the protocol needs of a live connection.

use crate::link::{Lane, Link, Message, SendError};
use crate::net::Cancel;

/// A [`Link`]; tests have one that records.
pub trait Channel: Send + Sync {
    /// Control never waits; bulk waits for room.
    fn send(&self, lane: Lane, message: Message, cancel: &Cancel) -> Result<(), SendError>;

    /// False once the connection is closing or gone.
    fn is_open(&self) -> bool;

    fn abort(&self, why: &str);
}

impl Channel for Link {
    fn send(&self, lane: Lane, message: Message, cancel: &Cancel) -> Result<(), SendError> {
        Self::send(self, lane, message, cancel)
    }

    fn is_open(&self) -> bool {
        Self::is_open(self)
    }

    fn abort(&self, why: &str) {
        Self::abort(self, why);
    }
}

/// A peer's words, fit for one line of a log: short, without control characters.
pub(super) fn printable(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(MAX_LOGGED + 1)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if let Some((end, _)) = line.char_indices().nth(MAX_LOGGED) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Characters.
const MAX_LOGGED: usize = 300;

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use parking_lot::{Condvar, Mutex};

    use super::*;

    /// Keeps what is sent.
    #[derive(Default)]
    pub(crate) struct Recorder {
        sent: Mutex<Vec<(Lane, String)>>,
        changed: Condvar,
        gone: AtomicBool,
    }

    impl Recorder {
        pub(crate) fn new() -> Arc<Self> {
            Arc::default()
        }

        /// Waits until there are `count` messages and takes all.
        pub(crate) fn take(&self, count: usize) -> Vec<(Lane, String)> {
            let mut sent = self.sent.lock();
            while sent.len() < count {
                self.changed.wait(&mut sent);
            }
            std::mem::take(&mut sent)
        }

        /// The types of all messages, without waiting.
        pub(crate) fn types(&self) -> Vec<String> {
            let sent = self.sent.lock();
            let parse = |(_, text): &(Lane, String)| {
                let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
                value["type"].as_str().expect("a type").to_owned()
            };
            sent.iter().map(parse).collect()
        }

        pub(crate) fn go(&self) {
            self.gone.store(true, Ordering::SeqCst);
        }
    }

    impl Channel for Recorder {
        fn send(&self, lane: Lane, mut message: Message, _: &Cancel) -> Result<(), SendError> {
            if !self.is_open() {
                return Err(SendError::Closed);
            }
            message.settle();
            let text = String::from_utf8_lossy(message.payload()).into_owned();
            self.sent.lock().push((lane, text));
            self.changed.notify_all();
            Ok(())
        }

        fn is_open(&self) -> bool {
            !self.gone.load(Ordering::SeqCst)
        }

        fn abort(&self, _why: &str) {
            self.go();
        }
    }

    #[test]
    fn logged_words_are_short_and_harmless() {
        assert_eq!(printable("a\r\nb\x1b[1m"), "a  b [1m");
        assert_eq!(printable(&"é".repeat(1000)).chars().count(), MAX_LOGGED + 1);
        assert_eq!(
            printable(&"é".repeat(MAX_LOGGED)).chars().count(),
            MAX_LOGGED
        );
    }
}
