//! The protocol of the control channel.

pub mod backoff;
pub mod channel;
pub mod dispatch;
pub mod facts;
pub mod heartbeat;
pub mod host;
pub mod http_mode;
pub mod late;
pub(crate) mod refusals;
pub mod registration;
pub mod session;
pub mod urls;
pub mod worker_join;
