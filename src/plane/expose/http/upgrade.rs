//! A request that asks for an upgrade, until the Service has answered it.
//!
//! Until there is a 101 the connection is HTTP's. Would the Service say no and keep it
//! open, the client's next request would go where the first one went, whatever its host,
//! with fields that nobody has rewritten. So nothing of the client passes before a 101,
//! and nothing at all behind another answer.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::request::{MAX_HEAD, Refused, head_end, leave};
use crate::http::ResponseHead;
use crate::plane::expose::entrance::{Client, NoStream, turn_away};
use crate::tunnel::session::Stream;
use crate::tunnel::streams::Account as _;
use crate::yamux::{Input, Reset};

/// Leads a client that asks for an upgrade. `held` came behind its request. An error
/// leaves the connection as it is.
pub(super) fn lead(
    mut client: Client,
    socket: &Arc<Socket>,
    address: SocketAddr,
    request: &[u8],
    held: &[u8],
) -> Result<(), NoStream> {
    let stream = client.start(address, request)?;
    // Who takes nothing of an answer must not keep the thread.
    let limited = socket.set_write_timeout(Some(LIMIT));
    match limited.and_then(|()| answer(&client, &stream, socket)) {
        Ok(Answer::Switched) => {
            let until = Instant::now() + LIMIT;
            let free = socket.set_write_timeout(None);
            if free.is_err() || client.send(&stream, held, until).is_err() {
                turn_away(socket);
            } else {
                client.join(stream, socket);
            }
        }
        Ok(Answer::Other) => leave(socket),
        Ok(Answer::None) => Refused::late().say(socket),
        Err(error) => {
            client.failed(error.to_string().into());
            stream.reset(Reset::AtOnce);
            turn_away(socket);
        }
    }
    Ok(())
}

/// What the Service made of it. All of it but what follows a 101 has been passed on.
enum Answer {
    Switched,
    Other,
    /// Nothing came in time.
    None,
}

fn answer(client: &Client, stream: &Stream, mut socket: &Socket) -> std::io::Result<Answer> {
    let mut until = Instant::now() + LIMIT;
    let mut head = Vec::new();
    // Another answer than 101 has begun.
    let mut other = false;
    loop {
        let lost = |cut| std::io::Error::other(format!("before its answer: {cut}"));
        match stream.read(Some(until)).map_err(lost)? {
            Input::Some(chunk) => {
                client.moved_in(chunk.len());
                head.extend_from_slice(&chunk);
                stream.give_back(chunk);
            }
            Input::End => {
                socket.write_all(&head)?;
                return Ok(Answer::Other);
            }
            Input::Wait if other || !head.is_empty() => {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            Input::Wait => {
                stream.reset(Reset::AtOnce);
                return Ok(Answer::None);
            }
        }
        while !other && let Some(end) = head_end(&head, 0) {
            match ResponseHead::parse(&head[..end]) {
                Ok(response) if response.status == 101 => {
                    socket.write_all(&head)?;
                    return Ok(Answer::Switched);
                }
                Ok(response) if response.is_interim() => {
                    socket.write_all(&head[..end])?;
                    head.drain(..end);
                }
                // Whatever it is, it is the last.
                Ok(_) | Err(_) => other = true,
            }
        }
        if !other && head.len() > MAX_HEAD {
            other = true;
        }
        if other {
            // There is no other request for the Service to wait for.
            stream.finish();
            socket.write_all(&head)?;
            head.clear();
            until = Instant::now() + LIMIT;
        }
    }
}

/// How long the Service may take for its answer, and each of its parts; and the client
/// to take it.
const LIMIT: Duration = Duration::from_secs(60);
