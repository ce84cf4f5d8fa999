//! One exchange as a handler sees it: the request, its body, and the answer.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use socket2::Socket;

use super::client_watch::{ClientWatch, ClientWatcher};
use super::request_body::RequestBody;
use crate::http::body::{CHUNK_END, Framing, LAST_CHUNK, chunk_head};
use crate::http::head::{allows_body, write_field, write_fields, write_framing};
use crate::http::incoming::Incoming;
use crate::http::{Headers, RequestHead};
use crate::net::{Cancel, Guard, Halves, WriteHalf};

/// The head of a request, and who sent it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// As it came: origin form or absolute form, unchecked.
    pub target: String,
    pub headers: Headers,
    pub peer: SocketAddr,
}

/// What body, responder and connection share.
pub(super) struct Shared {
    pub(super) socket: Arc<Socket>,
    pub(super) out: Mutex<Out>,
    /// The body when its reader was dropped, and the signal of it.
    pub(super) back: Mutex<Option<Incoming>>,
    pub(super) came_back: Condvar,
    /// Nothing of the body is left to be read.
    pub(super) body_done: AtomicBool,
    /// The client waits for `100 Continue` before it sends the body. Not under the
    /// lock of `out`: that is held while a client is slow to take its answer, and
    /// its body must come on meanwhile.
    pub(super) expects: AtomicBool,
    watcher: Arc<ClientWatcher>,
    /// Ends the connection when the server is stopped.
    pub(super) guard: Mutex<Option<Guard>>,
}

pub(super) struct Out {
    /// Gone once the connection was taken over.
    pub(super) write: Option<WriteHalf>,
    pub(super) stage: Stage,
    /// The connection may carry another exchange.
    pub(super) keep: bool,
}

/// How far the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Nothing,
    Started,
    Finished,
}

impl Shared {
    /// The parts of one exchange.
    pub(super) fn exchange(
        head: RequestHead,
        framing: Framing,
        halves: Halves,
        context: Context,
    ) -> (Arc<Self>, Request, RequestBody, Responder) {
        let keep = head.keeps_alive();
        let expects = head.minor >= 1
            && framing != Framing::Length(0)
            && head
                .headers
                .list("Expect")
                .any(|what| what.eq_ignore_ascii_case("100-continue"));
        let shared = Arc::new(Self {
            socket: halves.socket,
            out: Mutex::new(Out {
                write: Some(halves.write),
                stage: Stage::Nothing,
                keep,
            }),
            back: Mutex::new(None),
            came_back: Condvar::new(),
            body_done: AtomicBool::new(framing == Framing::Length(0)),
            expects: AtomicBool::new(expects),
            watcher: context.watcher,
            guard: Mutex::new(context.guard),
        });
        let body = RequestBody {
            shared: shared.clone(),
            incoming: Some(Incoming::new(halves.read, framing)),
            framing,
            idle_limit: context.idle_limit,
        };
        let responder = Responder {
            shared: shared.clone(),
            head: head.method == "HEAD",
            minor: head.minor,
        };
        let request = Request {
            method: head.method,
            target: head.target,
            headers: head.headers,
            peer: context.peer,
        };
        (shared, request, body, responder)
    }
}

/// What an exchange takes from its connection.
pub(super) struct Context {
    pub(super) peer: SocketAddr,
    pub(super) watcher: Arc<ClientWatcher>,
    pub(super) guard: Option<Guard>,
    pub(super) idle_limit: Option<Duration>,
}

/// The way back to the client. Dropped without an answer, it answers 500.
pub struct Responder {
    shared: Arc<Shared>,
    head: bool,
    minor: u8,
}

impl Responder {
    /// The whole answer at once. Fields of `headers` that say how the message is
    /// framed are ours to write.
    pub fn respond(self, status: u16, headers: &Headers, body: &[u8]) -> io::Result<()> {
        let framing = allows_body(status).then_some(Framing::Length(body.len() as u64));
        let mut head = Vec::with_capacity(512);
        let mut out = self.shared.out.lock();
        self.begin(&mut out, &mut head, status, headers, framing);
        let body = if self.head || framing.is_none() {
            &[]
        } else {
            body
        };
        write(&mut out, &[IoSlice::new(&head), IoSlice::new(body)])?;
        out.stage = Stage::Finished;
        Ok(())
    }

    /// Begins an answer: its head goes out at once. Without `length` it is chunked
    /// (towards HTTP/1.0: it ends with the connection).
    pub fn start(
        self,
        status: u16,
        headers: &Headers,
        length: Option<u64>,
    ) -> io::Result<ResponseWriter> {
        let framing = match length {
            Some(length) => Framing::Length(length),
            None if self.minor == 0 => Framing::UntilClose,
            None => Framing::Chunked,
        };
        let bodiless = self.head || !allows_body(status);
        let said = match framing {
            // Neither says anything true of a body that isn't sent.
            Framing::Chunked if bodiless => None,
            Framing::Length(_) if status < 200 || status == 204 => None,
            framing => Some(framing),
        };
        let mut head = Vec::with_capacity(512);
        let mut out = self.shared.out.lock();
        self.begin(&mut out, &mut head, status, headers, said);
        out.keep &= bodiless || framing != Framing::UntilClose;
        write(&mut out, &[IoSlice::new(&head)])?;
        drop(out);
        Ok(ResponseWriter {
            shared: self.shared.clone(),
            framing: if bodiless { None } else { Some(framing) },
            done: false,
        })
    }

    /// Cancels `cancel` when the client closes its side (a half close counts) or
    /// is cut off, as long as the guard lives.
    pub fn on_client_gone(&self, cancel: &Cancel) -> io::Result<ClientWatch> {
        let socket = self.shared.socket.clone();
        self.shared.watcher.watch(socket, cancel)
    }

    /// Hands the connection over, with whatever was read behind the request, for
    /// another protocol on it. Until the handler returns the connection counts, and
    /// stopping the server ends it; then the server forgets it. `None` when the body
    /// was not read to its end.
    pub fn take_over(self, body: RequestBody) -> Option<Halves> {
        if !self.shared.body_done.load(Ordering::Acquire) {
            return None;
        }
        let read = body.into_read()?;
        let mut out = self.shared.out.lock();
        if out.stage != Stage::Nothing {
            return None;
        }
        let mut halves = Halves {
            read,
            write: out.write.take()?,
            socket: self.shared.socket.clone(),
        };
        halves.set_deadline(None);
        Some(halves)
    }

    /// The socket, for a [`Cancel`] that shall end the exchange hard.
    pub fn socket(&self) -> Arc<Socket> {
        self.shared.socket.clone()
    }

    fn begin(
        &self,
        out: &mut Out,
        head: &mut Vec<u8>,
        status: u16,
        headers: &Headers,
        framing: Option<Framing>,
    ) {
        out.stage = Stage::Started;
        // What the client still sends would be taken for its next request.
        out.keep &= self.shared.body_done.load(Ordering::Acquire);
        let line = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status));
        head.extend_from_slice(line.as_bytes());
        if status >= 200 && !headers.contains("Date") {
            let now = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
            write_field(head, "Date", &now.to_string());
        }
        write_fields(head, headers, &["Connection", "Keep-Alive"]);
        if let Some(framing) = framing {
            write_framing(head, framing);
        }
        if !out.keep {
            write_field(head, "Connection", "close");
        } else if self.minor == 0 {
            write_field(head, "Connection", "keep-alive");
        }
        head.extend_from_slice(b"\r\n");
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let mut out = self.shared.out.lock();
        if out.stage == Stage::Nothing && out.write.is_some() {
            let framing = Some(Framing::Length(0));
            let mut head = Vec::new();
            out.keep = false;
            self.begin(&mut out, &mut head, 500, &Headers::new(), framing);
            if write(&mut out, &[IoSlice::new(&head)]).is_ok() {
                out.stage = Stage::Finished;
            }
        }
    }
}

/// An answer on its way out. Dropped before [`finish`](Self::finish), it is cut
/// off in a way that the client can see.
pub struct ResponseWriter {
    shared: Arc<Shared>,
    /// `None` when the answer has no body: what is written is dropped.
    framing: Option<Framing>,
    done: bool,
}

impl ResponseWriter {
    /// Sends these bytes now.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut out = self.shared.out.lock();
        match &mut self.framing {
            None => Ok(()),
            Some(Framing::UntilClose) => write(&mut out, &[IoSlice::new(bytes)]),
            Some(Framing::Chunked) => {
                let head = chunk_head(bytes.len());
                let parts = [head.as_ref(), bytes, CHUNK_END].map(IoSlice::new);
                write(&mut out, &parts)
            }
            Some(Framing::Length(left)) => match left.checked_sub(bytes.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    write(&mut out, &[IoSlice::new(bytes)])
                }
                None => Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the body is longer than its Content-Length",
                )),
            },
        }
    }

    /// Ends the answer.
    pub fn finish(mut self) -> io::Result<()> {
        self.done = true;
        let mut out = self.shared.out.lock();
        match self.framing {
            Some(Framing::Chunked) => write(&mut out, &[IoSlice::new(LAST_CHUNK)])?,
            Some(Framing::Length(1..)) => {
                out.keep = false;
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the body is shorter than its Content-Length",
                ));
            }
            _ => {}
        }
        out.stage = Stage::Finished;
        Ok(())
    }

    /// The socket, for a [`Cancel`] that shall end the exchange hard.
    pub fn socket(&self) -> Arc<Socket> {
        self.shared.socket.clone()
    }
}

impl Drop for ResponseWriter {
    fn drop(&mut self) {
        if !self.done {
            self.shared.out.lock().keep = false;
        }
    }
}

fn write(out: &mut Out, bufs: &[IoSlice<'_>]) -> io::Result<()> {
    let done = match &mut out.write {
        Some(write) => write.write_all(bufs),
        None => Err(io::ErrorKind::NotConnected.into()),
    };
    if done.is_err() {
        out.keep = false;
    }
    done
}

/// What people read beside the number; machines don't.
pub(super) fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}
