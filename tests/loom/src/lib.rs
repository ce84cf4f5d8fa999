//! The rooms whose locks are tried in every order, from their source. `sync`, `net`,
//! `telemetry`, `websocket`, `buffers` and `resident` stand in for the agent's own, and of the link
//! there is only what stands between senders and the writer.

pub mod buffers;
pub mod net;
pub mod resident;
pub mod sync;
pub mod telemetry;
pub mod websocket;

#[allow(dead_code, unused_imports, reason = "the rest of the link isn't here")]
#[path = "../../../src/link"]
pub mod link {
    mod lanes;
    mod message;
    mod outbox;
    mod slots;
    mod speaker;
    mod wait;

    #[path = "../../tests/loom/src/link.rs"]
    mod model;

    pub use message::{HEADROOM, Kind, Message};
    pub use model::{Link, Mailbox, Written};
    pub use slots::Slot;
    pub use speaker::{Carrier, Speaker};

    use crate::net::Reason;

    /// Why a message wasn't queued.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum SendError {
        Closed,
        Cancelled(Reason),
    }
}
#[path = "../../../src/tunnel/session/mod.rs"]
pub mod session;
#[path = "../../../src/turns.rs"]
pub mod turns;
#[path = "../../../src/yamux/mod.rs"]
pub mod yamux;
