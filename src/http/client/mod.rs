//! Calls to one server, over connections that are used again.

mod exchange;
mod pool;
mod response;
mod upload;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

pub use pool::{IdleCount, Pool};
pub use response::{Response, ResponseBody};
pub use upload::UploadError;

use self::exchange::{Outgoing, binds_connection};
use super::body::Framing;
use super::head::{HeadError, write_request};
use super::headers::Headers;
use super::incoming::ReadError;
use crate::net::{Cancel, Deadline, DialError, Dialer, Endpoint, Halves, Reason};
use crate::threads::SpawnError;

/// A server and the connections to it. Clones share both.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    way: Box<dyn Way>,
    /// What `Host` says where a call doesn't.
    host: String,
    dial_limit: Duration,
    pool: Arc<Pool>,
}

/// How the connections of a client come about.
pub trait Way: Send + Sync {
    /// A new connection, within `limit`; ends at once when `cancel` fires, with which
    /// it is no longer registered then.
    fn open(&self, limit: Deadline, cancel: &Cancel) -> Result<Halves, CallError>;

    /// Whether a connection that was kept may be used once more.
    fn allows(&self, _socket: &Socket) -> bool {
        true
    }

    /// Whether connections are kept at all.
    fn keeps(&self) -> bool {
        true
    }
}

/// Straight there.
struct Dialled {
    endpoint: Endpoint,
    dialer: Dialer,
}

impl Way for Dialled {
    fn open(&self, limit: Deadline, cancel: &Cancel) -> Result<Halves, CallError> {
        let dialled = self.dialer.dial(&self.endpoint, limit, cancel);
        dialled.map_err(|error| CallError::Dial(Box::new(error)))
    }
}

/// Limits of a client.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Idle connections that are kept.
    pub max_idle: usize,
    /// How long they are kept.
    pub idle_limit: Duration,
    /// Name, TCP, proxy and TLS together.
    pub dial_limit: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_idle: 128,
            idle_limit: Duration::from_secs(90),
            dial_limit: Duration::from_secs(30),
        }
    }
}

/// One request.
pub struct Call<'a> {
    /// A token.
    pub method: &'a str,
    /// Origin form, encoded ([`encode_path`](super::encode_path)).
    pub target: &'a str,
    /// What `Host` says instead of the client's own; checked by who calls.
    pub host: Option<&'a str>,
    /// Sent as they are, but for `Host`, `Content-Length` and `Transfer-Encoding`,
    /// which are this module's to write. `Connection` and `Expect` must not be
    /// among them.
    pub headers: &'a Headers,
    pub body: Body,
    /// For everything, the body of the answer included. Cancellation needs none.
    pub deadline: Option<Deadline>,
}

/// The body of a request.
#[derive(Clone)]
pub enum Body {
    /// None. Methods for which one is usual say `Content-Length: 0`.
    Empty,
    /// Known as a whole: its true length is sent, whatever the caller says
    /// (control-channel.md T41).
    Full(Arc<dyn AsRef<[u8]> + Send + Sync>),
    /// Comes piece by piece: chunked, or with a length, which is enforced.
    Stream {
        length: Option<u64>,
        source: Arc<dyn Source>,
    },
}

/// A body that comes piece by piece.
pub trait Source: Send + Sync {
    /// Waits for the next piece; `None` at the end. That it is called again means
    /// that the piece before was sent. An error fails the call.
    fn next(&self) -> io::Result<Option<Vec<u8>>>;

    /// Nobody will take another piece: a waiting `next` must return.
    fn stop(&self);
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0}")]
    Cancelled(Reason),
    #[error("{0}")]
    Dial(#[source] Box<DialError>),
    /// The way there is closed: by a policy, say.
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Upload(#[source] UploadError),
    #[error("the connection was closed before an answer came")]
    Closed,
    #[error("no answer: {0}")]
    Io(#[source] io::Error),
    #[error("the answer is not understood: {0}")]
    Head(#[source] HeadError),
    #[error("the answer switches to another protocol, which nobody asked for")]
    Switched,
    #[error("the answer broke off: {0}")]
    Body(#[source] ReadError),
    #[error("nothing more of the answer came for {0:?}")]
    Idle(Duration),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Thread(#[source] SpawnError),
}

impl Client {
    /// `host` is what `Host` says: a name or address, and the port unless it is the
    /// scheme's own.
    pub fn new(
        endpoint: Endpoint,
        host: impl Into<String>,
        dialer: Dialer,
        settings: Settings,
    ) -> Self {
        let pool = Pool::new(settings.max_idle, settings.idle_limit, IdleCount::default());
        let way = Dialled { endpoint, dialer };
        Self::sharing(Arc::new(pool), way, host, settings.dial_limit)
    }

    /// As [`new`](Self::new), over connections that come about in another way and are kept
    /// together with those of others: the way decides which of them it may use.
    pub fn sharing(
        pool: Arc<Pool>,
        way: impl Way + 'static,
        host: impl Into<String>,
        dial_limit: Duration,
    ) -> Self {
        Self(Arc::new(Inner {
            pool,
            way: Box::new(way),
            host: host.into(),
            dial_limit,
        }))
    }

    /// Makes a call and waits for the head of its answer, whatever its status.
    ///
    /// `cancel` ends it at any moment, until the body was read to its end, by
    /// closing its connection. A connection that was used before and turns out to
    /// be dead before the first byte of an answer is replaced, once, for a request
    /// that can't do harm twice (GET, HEAD, OPTIONS with a body that is at hand).
    pub fn call(&self, call: &Call<'_>, cancel: &Cancel) -> Result<Response, CallError> {
        let mut head = Vec::with_capacity(512);
        let framing = call.body.framing(call.method);
        write_request(
            &mut head,
            call.method,
            call.target,
            call.host.unwrap_or(&self.0.host),
            call.headers,
            framing,
        );
        let outgoing = Outgoing {
            method: call.method,
            head: &head,
            body: &call.body,
            deadline: call.deadline,
            binds: binds_connection(call.headers, "Authorization"),
        };
        let explain = |error| match cancel.reason() {
            Some(reason) => CallError::Cancelled(reason),
            None => error,
        };
        if let Some(halves) = self.take() {
            match self.exchange(halves, &outgoing, cancel) {
                Err(failure) if failure.is_stale() && outgoing.may_be_repeated() => {}
                done => return done.map_err(|failure| explain(failure.error)),
            }
        }
        let limit = Deadline::after(self.0.dial_limit);
        let limit = call.deadline.map_or(limit, |other| limit.earlier(other));
        let halves = self.0.way.open(limit, cancel).map_err(explain)?;
        self.exchange(halves, &outgoing, cancel)
            .map_err(|failure| explain(failure.error))
    }

    /// A new connection for something else than calls, an upgrade say: within `limit`
    /// and the client's own for a dial. It never goes back to the others.
    pub fn connect(&self, limit: Deadline, cancel: &Cancel) -> Result<Halves, CallError> {
        let limit = limit.earlier(Deadline::after(self.0.dial_limit));
        let opened = self.0.way.open(limit, cancel);
        opened.map_err(|error| cancel.reason().map_or(error, CallError::Cancelled))
    }

    /// What `Host` says where a call doesn't.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// Closes idle connections that are too old or dead and takes the buffers of
    /// others. To be called now and then.
    pub fn sweep(&self) {
        self.0.pool.sweep();
    }

    /// Closes all idle connections.
    pub fn close_idle(&self) {
        self.0.pool.clear();
    }

    /// Idle connections now.
    pub fn idle(&self) -> usize {
        self.0.pool.len()
    }

    /// A connection that was kept and may still be used.
    fn take(&self) -> Option<Halves> {
        let kept = std::iter::from_fn(|| self.0.pool.take());
        kept.into_iter()
            .find(|halves| self.0.way.allows(&halves.socket))
    }
}

impl Body {
    fn framing(&self, method: &str) -> Option<Framing> {
        match self {
            Self::Empty => matches!(method, "POST" | "PUT" | "PATCH").then_some(Framing::Length(0)),
            Self::Full(bytes) => Some(Framing::Length((**bytes).as_ref().len() as u64)),
            Self::Stream {
                length: Some(length),
                ..
            } => Some(Framing::Length(*length)),
            Self::Stream { length: None, .. } => Some(Framing::Chunked),
        }
    }
}

#[cfg(test)]
mod tests;
