//! ureq over connections of our own dialer: one TLS configuration, one way through
//! a corporate proxy, one deadline, and cancelling by closing the socket.

use std::fmt;
use std::io::{self, IoSlice};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use super::{Answer, Failure};
use crate::config::Secret;
use crate::net::{Cancel, Deadline, Dialer, Endpoint, Guard, Halves};
use crate::url::Url;
use crate::websocket::upgrade::retry_after;

/// One POST of JSON. Redirects are not followed; the answer's body is read up to
/// [`MAX_BODY`] bytes.
pub(super) fn post(
    dialer: &Dialer,
    url: &Url,
    body: &Value,
    token: &Secret,
    limit: Duration,
    cancel: &Cancel,
) -> Result<Answer, Failure> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(limit))
        .max_idle_connections(0)
        .user_agent(concat!("pipeops-agent/", env!("CARGO_PKG_VERSION")))
        .input_buffer_size(BUFFER)
        .output_buffer_size(BUFFER)
        .build();
    let connector = DialerConnector {
        dialer: dialer.clone(),
        endpoint: url.endpoint(),
        cancel: cancel.clone(),
    };
    let agent = ureq::Agent::with_parts(config, connector, NoResolver);
    let uri = url.to_string();
    let failed = |error: ureq::Error| Failure::Other(explain(&error));
    let mut response = agent
        .post(uri)
        .header("Authorization", format!("Bearer {}", token.expose()))
        .header("Content-Type", "application/json")
        .header("Connection", "close")
        .send(body.to_string())
        .map_err(failed)?;
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::trim).map(str::to_owned)
    };
    let retry_after =
        header("retry-after").and_then(|value| retry_after(&value, SystemTime::now()));
    let is_json = response.body().mime_type().is_some_and(|kind| {
        kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json")
    });
    let is_page = response
        .body()
        .mime_type()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"));
    let status = response.status().as_u16();
    let body = response
        .body_mut()
        .with_config()
        .limit(MAX_BODY)
        .lossy_utf8(true)
        .read_to_string()
        .map_err(failed)?;
    Ok(Answer {
        status,
        is_json,
        is_page,
        retry_after,
        body,
    })
}

/// ureq's words for an error of ours are ours.
fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::BodyExceedsLimit(_) => format!("the answer is larger than {MAX_BODY} bytes"),
        error => error.to_string(),
    }
}

#[derive(Debug)]
struct DialerConnector {
    dialer: Dialer,
    endpoint: Endpoint,
    cancel: Cancel,
}

impl Connector<()> for DialerConnector {
    type Out = DialedTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let deadline = Deadline::after(*details.timeout.after);
        let halves = self
            .dialer
            .dial(&self.endpoint, deadline, &self.cancel)
            .map_err(|error| ureq::Error::Io(io::Error::other(error.to_string())))?;
        let guard = self
            .cancel
            .on_socket(halves.socket.clone())
            .map_err(|reason| ureq::Error::Io(io::Error::other(reason.to_string())))?;
        Ok(Some(DialedTransport {
            halves,
            buffers: LazyBuffers::new(BUFFER, BUFFER),
            tls: self.endpoint.tls,
            _guard: guard,
        }))
    }
}

struct DialedTransport {
    halves: Halves,
    buffers: LazyBuffers,
    tls: bool,
    _guard: Guard,
}

impl fmt::Debug for DialedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.halves.fmt(f)
    }
}

impl Transport for DialedTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let write = &mut self.halves.write;
        write.set_deadline(Some(Deadline::after(*timeout.after)));
        let output = &self.buffers.output()[..amount];
        write
            .write_all(&[IoSlice::new(output)])
            .map_err(|error| timed(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let read = &mut self.halves.read;
        read.set_deadline(Some(Deadline::after(*timeout.after)));
        let room = self.buffers.input_append_buf();
        let bytes = read.fill().map_err(|error| timed(error, timeout))?;
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        read.consume(count);
        self.buffers.input_appended(count);
        if self.halves.read.wants_flush() {
            self.halves.write.flush().map_err(ureq::Error::Io)?;
        }
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        // Each call has its own connection.
        false
    }

    fn is_tls(&self) -> bool {
        self.tls
    }
}

fn timed(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    if error.kind() == io::ErrorKind::TimedOut {
        ureq::Error::Timeout(timeout.reason)
    } else {
        ureq::Error::Io(error)
    }
}

/// The dialer resolves; ureq wants an address all the same.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _uri: &Uri,
        _config: &ureq::config::Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(([0, 0, 0, 0], 0).into());
        Ok(addresses)
    }
}

/// Answers are a few hundred bytes.
const MAX_BODY: u64 = 1024 * 1024;

const BUFFER: usize = 16 * 1024;
