//! Proxied WebSockets (control-channel.md §9, decisions.md §6.7). A *stream* is one, from
//! the message that starts it to its one close; its *leg* is the WebSocket to the target.
//!
//! ```text
//!  link-reader  Requests::{start_stream, stream_data, close_stream, credit}
//!                   └► Streams (by id) ─► Stream: queue (8 MiB), credit, its end
//!  ─────────────────────────────────── threads ───────────────────────────────────
//!  [proxy-N]  Opening: its place, Kind::open (dial, upgrade) ─► leg ─► peer, the end
//!  [proxy-M]  queue ─► leg
//! ```
//!
//! What arrives before the leg is there waits in the queue, in order; a queue that is
//! full ends its stream, for a gap would be worse (T8). A stream takes one of the long
//! places (decisions.md §6.2). However it ends, the peer hears one close, unless another
//! stream has taken its id or the connection is lost.
//!
//! File by file: `stream` is what both threads and the reader share of one; `opening`
//! runs it; `kind` is what kinds of streams differ in. `api` is the kind to the API
//! server, translated by `channels` or raw; `service` that to Services and origins (§9.2),
//! which a request starts. `plan` checks both, `start` makes them.

mod api;
mod channels;
mod kind;
mod opening;
mod plan;
mod service;
mod start;
mod stream;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

pub(super) use opening::Opening;
pub(super) use stream::Stream;

/// The streams of one connection, by id.
#[derive(Default)]
pub(super) struct Streams(Mutex<HashMap<Arc<str>, Arc<Stream>>>);

impl Streams {
    pub(super) fn find(&self, id: &str) -> Option<Arc<Stream>> {
        self.0.lock().get(id).cloned()
    }

    /// Enters a stream; the one that had the id before is none of this connection's
    /// from now on.
    fn enter(&self, stream: &Arc<Stream>) -> Option<Arc<Stream>> {
        self.0.lock().insert(stream.id.clone(), stream.clone())
    }

    /// Its last message is sent.
    fn leave(&self, stream: &Stream) {
        let mut streams = self.0.lock();
        let known = streams.get(&stream.id);
        if known.is_some_and(|known| known.serial == stream.serial) {
            streams.remove(&stream.id);
        }
    }

    pub(super) fn take_all(&self) -> Vec<Arc<Stream>> {
        std::mem::take(&mut *self.0.lock()).into_values().collect()
    }
}

/// What waits for a leg, of one stream, in bytes; also the largest message, either way
/// (decisions.md §6.7).
const QUEUE: usize = 8 << 20;
