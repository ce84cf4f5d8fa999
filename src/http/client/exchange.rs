//! One request and the head of its answer, on one connection.

use std::io::{self, IoSlice};
use std::sync::Arc;

use socket2::Socket;

use super::response::{Rest, Sending};
use super::upload::Upload;
use super::{Body, CallError, Client, Response, ResponseBody};
use crate::http::Headers;
use crate::http::head::{HeadError, ResponseHead};
use crate::http::incoming::{Incoming, ReadHeadError, read_head};
use crate::net::{Cancel, Deadline, Halves, WriteHalf};

impl Client {
    pub(super) fn exchange(
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

/// A request, ready to be sent.
pub(super) struct Outgoing<'a> {
    pub(super) method: &'a str,
    pub(super) head: &'a [u8],
    pub(super) body: &'a Body,
    pub(super) deadline: Option<Deadline>,
    /// It says who the whole connection is.
    pub(super) binds: bool,
}

impl Outgoing<'_> {
    /// Sends the request, a large body on a thread of its own. A write that failed
    /// isn't the end: the server may have answered before it closed.
    fn send(
        &self,
        mut write: WriteHalf,
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

    pub(super) fn may_be_repeated(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS") && self.small_body().is_some()
    }
}

/// A call that failed on one connection.
pub(super) struct Failure {
    pub(super) error: CallError,
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
    pub(super) fn is_stale(&self) -> bool {
        match &self.error {
            CallError::Closed => self.silent,
            CallError::Io(error) => self.silent && error.kind() != io::ErrorKind::TimedOut,
            _ => false,
        }
    }
}

/// Whether one of these fields is of a scheme that authenticates the connection, not
/// the request (NTLM, Negotiate: RFC 4559 §6): it must not serve somebody else.
pub(super) fn binds_connection(headers: &Headers, field: &str) -> bool {
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
pub(super) const SMALL: usize = 64 * 1024;
