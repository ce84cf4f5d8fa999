//! Calls to one server, over connections that are used again.

mod pool;
mod response;
mod upload;

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

pub use pool::{IdleCount, Pool};
pub use response::{Response, ResponseBody};
pub use upload::UploadError;

use self::response::{Rest, Sending};
use self::upload::Upload;
use super::body::Framing;
use super::head::{HeadError, ResponseHead, write_request};
use super::headers::Headers;
use super::incoming::{Incoming, ReadError, ReadHeadError, read_head};
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

    fn exchange(
        &self,
        mut halves: Halves,
        outgoing: &Outgoing<'_>,
        cancel: &Cancel,
    ) -> Result<Response, Failure> {
        let guard = cancel
            .on_socket(halves.socket.clone())
            .map_err(|reason| Failure::begun(CallError::Cancelled(reason)))?;
        halves.set_deadline(outgoing.deadline);
        let Halves {
            mut read,
            write,
            socket,
        } = halves;
        let (sending, unsent) = outgoing.send(write, &socket)?;
        let mut interim = 0;
        let head = loop {
            match read_head(&mut read, ResponseHead::parse) {
                Ok(head) if head.is_interim() && interim < MAX_INTERIM => interim += 1,
                Ok(head) => break head,
                Err(error) => return Err(Failure::new(error, unsent, &sending)),
            }
        };
        if head.status == 101 {
            return Err(Failure::begun(CallError::Switched));
        }
        if head.is_interim() {
            let error = HeadError::Malformed("there are too many interim answers");
            return Err(Failure::begun(CallError::Head(error)));
        }
        let framing = head
            .framing(outgoing.method)
            .map_err(|error| Failure::begun(CallError::Head(error)))?;
        let rest = Rest {
            incoming: Incoming::new(read, framing),
            sending,
            socket,
            keep: head.keeps_alive()
                && unsent.is_none()
                && !outgoing.binds
                && !binds_connection(&head.headers, "WWW-Authenticate")
                && self.0.way.keeps(),
            guard,
        };
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: ResponseBody::new(framing, rest, self.0.clone(), cancel.clone()),
        })
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

/// A request, ready to be sent.
struct Outgoing<'a> {
    method: &'a str,
    head: &'a [u8],
    body: &'a Body,
    deadline: Option<Deadline>,
    /// It says who the whole connection is.
    binds: bool,
}

impl Outgoing<'_> {
    /// Sends the request, a large body on a thread of its own. A write that failed
    /// isn't the end: the server may have answered before it closed.
    fn send(
        &self,
        mut write: crate::net::WriteHalf,
        socket: &Arc<Socket>,
    ) -> Result<(Sending, Option<io::Error>), Failure> {
        if let Some(body) = self.small_body() {
            let sent = write.write_all(&[IoSlice::new(self.head), IoSlice::new(body)]);
            return Ok((Sending::Done(write), sent.err()));
        }
        if let Err(error) = write.write_all(&[IoSlice::new(self.head)]) {
            return Ok((Sending::Done(write), Some(error)));
        }
        Upload::start(self.body.clone(), write, socket.clone())
            .map(|upload| (Sending::Running(upload), None))
            .map_err(|error| Failure::begun(CallError::Thread(error)))
    }

    /// The body, if it is small enough to be sent before the answer is looked at.
    fn small_body(&self) -> Option<&[u8]> {
        match self.body {
            Body::Empty => Some(&[]),
            Body::Full(bytes) => Some((**bytes).as_ref()).filter(|bytes| bytes.len() <= SMALL),
            Body::Stream { .. } => None,
        }
    }

    fn may_be_repeated(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS") && self.small_body().is_some()
    }
}

/// A call that failed on one connection.
struct Failure {
    error: CallError,
    /// No byte of an answer had come.
    silent: bool,
}

impl Failure {
    fn begun(error: CallError) -> Self {
        Self {
            error,
            silent: false,
        }
    }

    fn new(error: ReadHeadError, unsent: Option<io::Error>, sending: &Sending) -> Self {
        if let Some(error) = sending.blame() {
            return Self::begun(CallError::Upload(error));
        }
        match error {
            ReadHeadError::Head(error) => Self::begun(CallError::Head(error)),
            ReadHeadError::Closed { begun } => Self {
                error: unsent.map_or(CallError::Closed, CallError::Io),
                silent: !begun,
            },
            ReadHeadError::Io { begun, cause } => Self {
                error: CallError::Io(unsent.unwrap_or(cause)),
                silent: !begun,
            },
        }
    }

    /// As of a connection that the server had closed while it was idle.
    fn is_stale(&self) -> bool {
        match &self.error {
            CallError::Closed => self.silent,
            CallError::Io(error) => self.silent && error.kind() != io::ErrorKind::TimedOut,
            _ => false,
        }
    }
}

/// Whether one of these fields is of a scheme that authenticates the connection, not
/// the request (NTLM, Negotiate: RFC 4559 §6): it must not serve somebody else.
fn binds_connection(headers: &Headers, field: &str) -> bool {
    headers.list(field).any(|said| {
        let scheme = said.split([' ', '\t']).next().unwrap_or_default();
        ["NTLM", "Negotiate"]
            .iter()
            .any(|binding| scheme.eq_ignore_ascii_case(binding))
    })
}

/// Answers before the answer; more of them make one that isn't understood.
const MAX_INTERIM: usize = 16;

/// A body that fits into what the kernel takes without the server's help.
const SMALL: usize = 64 * 1024;

#[cfg(test)]
mod tests;
