//! The protocol of the control channel.
//!
//! * A request: `dispatch` hears it on the `link-reader` thread and hands it to
//!   `proxy`, as it does with tunnels and `tunnel` (`sinks`, `json_tunnels`); `refusals`
//!   says no to what isn't built.
//! * Its way back: `outlet`, over a `channel` (a link); `late` when that is gone.
//! * The life cycle: `session` decides, a pure state machine; `registration`,
//!   `heartbeat`, `http_mode` and `backoff` are what it is about, `urls` where to.
//! * What we say of ourselves: `facts`, `host`, `worker_join`.

pub mod backoff;
pub mod channel;
pub mod dispatch;
pub mod facts;
pub mod heartbeat;
pub mod host;
pub mod http_mode;
mod json_tunnels;
pub mod late;
pub mod outlet;
pub(crate) mod refusals;
pub mod registration;
pub mod session;
pub mod sinks;
pub mod urls;
pub mod worker_join;
