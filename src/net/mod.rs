//! Sockets: dialling out, TLS, and the two halves of a connection.
//!
//! The control channel, calls to the cluster's API and HTTP to the control plane go
//! through [`Dialer`]: one TLS configuration and one way through a corporate proxy serve
//! all of them. Targets of tunnels and Services don't: what the policy passed is dialled
//! by `connect` (`tunnel/target/dial.rs`), past any proxy.

mod abort;
mod cancel;
mod connect;
mod deadline;
mod dial;
mod dial_error;
mod near;
mod proxy;
mod resolve;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
mod writable;

pub use abort::abort;
pub use cancel::{Cancel, Guard, Reason};
pub use connect::{ConnectError, ConnectOptions, Unreachable, connect};
pub use deadline::Deadline;
pub use dial::{Dialer, Endpoint, accept};
pub use dial_error::{DialCause, DialError, Phase};
pub(crate) use near::bound_backlog;
pub use proxy::connect::ProxyRefusal;
pub use proxy::{Proxy, ProxyError, ProxyRules};
pub use resolve::{ResolveError, Resolver};
#[cfg(feature = "fuzzing")]
pub use stream::fuzz_records;
pub use stream::{Halves, HandshakeError, ReadHalf, WriteHalf};
pub use tls::{
    ClientTls, ClientTlsSettings, PemSource, ServerTls, ServerTlsSettings, TlsError, Trust,
    explain as explain_tls,
};
pub use writable::is_writable;
