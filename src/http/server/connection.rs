//! One connection of the server, on its own thread.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use socket2::Socket;

use super::exchange::{Context, Shared, Stage, reason_phrase};
use super::{ConnectionSlot, Service};
use crate::http::body::Framing;
use crate::http::incoming::{Incoming, ReadHeadError, read_head};
use crate::http::{HeadError, RequestHead};
use crate::net::{self, Deadline, Guard, Halves, ReadHalf, WriteHalf};

/// Serves a connection until it ends or is taken over.
pub(super) fn serve(
    service: &Arc<Service>,
    slot: &ConnectionSlot,
    socket: Socket,
    peer: SocketAddr,
) {
    let settings = &service.settings;
    let handshake = Deadline::after(settings.handshake_limit);
    let Some((mut halves, guard)) = open(service, slot, socket, peer, handshake) else {
        return;
    };
    let mut guard = Some(guard);
    loop {
        let (head, framing) = match next_request(service, slot, &mut halves) {
            Next::Request(head, framing) => (head, framing),
            Next::Refuse(status) => {
                refuse(&mut halves.write, status);
                linger(service, halves.read, halves.write);
                return;
            }
            Next::End => {
                let _ = halves.write.close();
                return;
            }
        };
        let context = Context {
            peer,
            watcher: service.watcher.clone(),
            guard: guard.take(),
            idle_limit: settings.body_idle_limit,
        };
        let (shared, request, body, responder) = Shared::exchange(head, framing, halves, context);
        if service.is_stopping() {
            shared.out.lock().keep = false;
        }
        service.handler.handle(request, body, responder);
        match after(service, &shared) {
            Some(next) => halves = next,
            None => return,
        }
        guard = shared.guard.lock().take();
    }
}

/// Tells a client that there is no room for it. Not before its request has come:
/// a client may take an answer to nothing for nonsense, and one that was sent
/// before the connection is closed with the request unread would be lost.
pub(super) fn turn_away(
    service: &Service,
    slot: &ConnectionSlot,
    socket: Socket,
    peer: SocketAddr,
) {
    let limit = Deadline::after(service.settings.turn_away_limit);
    let Some((mut halves, _guard)) = open(service, slot, socket, peer, limit) else {
        return;
    };
    halves.read.set_deadline(Some(limit));
    // Whatever it was, the answer is the same.
    let _ = read_head(&mut halves.read, RequestHead::parse);
    refuse(&mut halves.write, 503);
    linger(service, halves.read, halves.write);
}

/// Makes a new connection ready for requests; `None` when that fails. The guard
/// ends it when the server is stopped.
fn open(
    service: &Service,
    slot: &ConnectionSlot,
    socket: Socket,
    peer: SocketAddr,
    handshake: Deadline,
) -> Option<(Halves, Guard)> {
    let settings = &service.settings;
    let accepted = net::accept(
        socket,
        settings.tls.as_ref(),
        &settings.options,
        handshake,
        &slot.cancel,
    );
    let halves = accepted
        .inspect_err(|error| log::debug!("{}: {error}", settings.name))
        .ok()?;
    halves
        .set_write_limit(settings.write_limit)
        .inspect_err(|error| log::debug!("{}: {peer}: {error}", settings.name))
        .ok()?;
    let guard = slot.cancel.on_socket(halves.socket.clone()).ok()?;
    Some((halves, guard))
}

enum Next {
    Request(RequestHead, Framing),
    /// Nothing that can be answered but with this status.
    Refuse(u16),
    End,
}

fn next_request(service: &Service, slot: &ConnectionSlot, halves: &mut Halves) -> Next {
    let settings = &service.settings;
    if halves.read.buffered().is_empty() {
        if !slot.set_busy(false) {
            return Next::End;
        }
        let idle = Deadline::after(settings.idle_limit);
        halves.read.set_deadline(Some(idle));
        let came = matches!(halves.read.fill(), Ok(bytes) if !bytes.is_empty());
        if !slot.set_busy(true) || !came {
            return Next::End;
        }
    }
    let limit = Deadline::after(settings.head_limit);
    halves.read.set_deadline(Some(limit));
    let head = match read_head(&mut halves.read, RequestHead::parse) {
        Ok(head) => head,
        Err(ReadHeadError::Head(HeadError::TooLarge | HeadError::TooManyFields)) => {
            return Next::Refuse(431);
        }
        Err(ReadHeadError::Head(_)) => return Next::Refuse(400),
        Err(ReadHeadError::Io { cause, .. }) if cause.kind() == io::ErrorKind::TimedOut => {
            return Next::Refuse(408);
        }
        Err(ReadHeadError::Closed { .. } | ReadHeadError::Io { .. }) => return Next::End,
    };
    halves.read.set_deadline(None);
    // RFC 9112 §3.2.
    let hosts = head.headers.get_all("Host").count();
    if hosts > 1 || (hosts == 0 && head.minor >= 1) {
        return Next::Refuse(400);
    }
    match head.framing() {
        Ok(framing) => Next::Request(head, framing),
        Err(HeadError::Encoding(_)) => Next::Refuse(501),
        Err(_) => Next::Refuse(400),
    }
}

/// The halves for the next request, if there can be one.
fn after(service: &Service, shared: &Shared) -> Option<Halves> {
    let (write, keep, finished) = {
        let mut out = shared.out.lock();
        // Gone when the connection was taken over: it isn't ours any more.
        let write = out.write.take()?;
        (write, out.keep, out.stage == Stage::Finished)
    };
    let mut back = shared.back.lock();
    if keep && finished && back.as_ref().is_some_and(Incoming::is_done) {
        let read = back.take()?.into_read();
        return Some(Halves {
            read,
            write,
            socket: shared.socket.clone(),
        });
    }
    if !finished {
        // The client must see that the answer was cut.
        let _ = shared.socket.shutdown(Shutdown::Both);
        return None;
    }
    let mut write = write;
    let _ = write.close();
    // Another thread may still hold the body; it gets the chance to let go.
    let until = Instant::now() + service.settings.linger;
    while back.is_none() && !shared.came_back.wait_until(&mut back, until).timed_out() {}
    match back.take() {
        Some(body) => linger(service, body.into_read(), write),
        None => drop(shared.socket.shutdown(Shutdown::Both)),
    }
    None
}

fn refuse(write: &mut WriteHalf, status: u16) {
    let answer = format!(
        "HTTP/1.1 {status} {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        reason_phrase(status)
    );
    let _ = write.write_all(&[IoSlice::new(answer.as_bytes())]);
}

/// Closes in a way that doesn't destroy the answer: a socket that is closed while
/// bytes of the client's are unread resets the connection, and the client's
/// kernel throws away what it hasn't read yet (RFC 9112 §9.6).
fn linger(service: &Service, mut read: ReadHalf, mut write: WriteHalf) {
    if write.close().is_err() {
        return;
    }
    read.set_deadline(Some(Deadline::after(service.settings.linger)));
    let mut left = LINGER_BYTES;
    while let Ok(bytes) = read.fill() {
        let count = bytes.len();
        if count == 0 || count > left {
            return;
        }
        left -= count;
        read.consume(count);
    }
}

/// What is read and thrown away of a request that was answered early.
const LINGER_BYTES: usize = 64 * 1024 * 1024;
