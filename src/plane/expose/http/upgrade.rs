//! A request that asks for an upgrade, until the Service has answered it.
//!
//! Until there is a 101 the connection is HTTP's. Would the Service say no and keep it
//! open, the client's next request would go where the first one went, whatever its host,
//! with fields that nobody has rewritten. So nothing of the client passes before a 101,
//! and nothing at all behind another answer. Where that ends has to be known, then: the
//! end of the stream would take a Service for the client's, and break its answer off.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

use super::request::{First, MAX_HEAD, Refused, head_end, leave};
use crate::http::{Decoder, Framing, ResponseHead};
use crate::net;
use crate::plane::expose::entrance::{Client, NoStream, turn_away};
use crate::tunnel::session::Stream;
use crate::tunnel::streams::Account as _;
use crate::yamux::{Input, Reset};

/// Leads a client that asks for an upgrade; `held` came behind its request. Returns when
/// the Service has answered: another answer than 101 is passed on by then. An error
/// leaves the connection as it is.
pub(super) fn lead(
    mut client: Client,
    socket: &Arc<Socket>,
    address: SocketAddr,
    request: &First,
    held: &[u8],
) -> Result<(), NoStream> {
    let stream = client.start(address, &request.bytes)?;
    // Who takes nothing is waited for in a write.
    let aborted = socket.clone();
    stream.on_cut(move |_| net::abort(&aborted));
    let mut exchange = Exchange {
        client: &client,
        stream: &stream,
        socket,
    };
    match exchange.answer(&request.method) {
        Ok(Answer::Switched) => {
            let until = Instant::now() + LIMIT;
            if client.send(&stream, held, until).is_err() {
                turn_away(socket);
            } else {
                client.join(stream, socket);
            }
        }
        Ok(Answer::Other) => {
            // Whatever the Service makes of that, its answer is whole.
            stream.on_cut(|_| {});
            stream.finish();
            leave(socket);
        }
        Ok(Answer::None(refused)) => {
            client.failed(refused.text.clone().into());
            stream.on_cut(|_| {});
            stream.reset(Reset::AtOnce);
            refused.say(socket);
        }
        Err(error) => {
            client.failed(error.to_string().into());
            stream.reset(Reset::AtOnce);
            turn_away(socket);
        }
    }
    Ok(())
}

/// What the Service made of it.
enum Answer {
    /// Passed on, with what came behind it.
    Switched,
    /// Passed on to its end.
    Other,
    /// There is none that could be passed on.
    None(Refused),
}

struct Exchange<'a> {
    client: &'a Client,
    stream: &'a Stream,
    socket: &'a Arc<Socket>,
}

impl Exchange<'_> {
    fn answer(&mut self, method: &str) -> io::Result<Answer> {
        let until = Instant::now() + LIMIT;
        let mut head = Vec::new();
        let mut looked = 0;
        while Instant::now() < until {
            match self.read(|bytes| head.extend_from_slice(bytes))? {
                Some(true) => {}
                Some(false) => {
                    self.write(&head)?;
                    return Ok(Answer::Other);
                }
                None => continue,
            }
            while let Some(end) = head_end(&head, looked) {
                looked = 0;
                let response = match ResponseHead::parse(&head[..end]) {
                    Ok(response) => response,
                    Err(error) => return Ok(Answer::None(Refused::unreadable(&error))),
                };
                if response.status == 101 {
                    self.write(&head)?;
                    return Ok(Answer::Switched);
                }
                if !response.is_interim() {
                    let framing = match response.framing(method) {
                        Ok(framing) => framing,
                        Err(error) => return Ok(Answer::None(Refused::unreadable(&error))),
                    };
                    self.pass(&head, end, framing)?;
                    return Ok(Answer::Other);
                }
                self.write(&head[..end])?;
                head.drain(..end);
            }
            looked = head.len();
            if looked > MAX_HEAD {
                return Ok(Answer::None(Refused::unreadable(&"its head is too large")));
            }
        }
        Ok(Answer::None(Refused::late()))
    }

    /// Passes an answer on, of which `begun` is there and `body` bytes are its head. As
    /// with other requests, it may take as long as it likes.
    fn pass(&mut self, begun: &[u8], body: usize, framing: Framing) -> io::Result<()> {
        let mut decoder = Decoder::new(framing);
        let count = body + advance(&mut decoder, &begun[body..])?;
        self.write(&begun[..count])?;
        while !decoder.is_done() {
            let (client, mut socket) = (self.client, &**self.socket);
            let mut written = Ok(());
            let more = self.read(|bytes| {
                written = advance(&mut decoder, bytes)
                    .and_then(|count| socket.write_all(&bytes[..count]));
            })?;
            written?;
            if more == Some(false) {
                if decoder.at_end().is_err() {
                    client.failed("the Service's answer breaks off".into());
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits a moment for bytes of the Service. `Some(true)`: there were some;
    /// `Some(false)`: there are none any more. An error when the client is gone.
    fn read(&mut self, take: impl FnOnce(&[u8])) -> io::Result<Option<bool>> {
        let lost = |cut| io::Error::other(format!("before its answer was there: {cut}"));
        match self
            .stream
            .read(Some(Instant::now() + LOOK))
            .map_err(lost)?
        {
            Input::Some(chunk) => {
                self.client.moved_in(chunk.len());
                take(&chunk);
                self.stream.give_back(chunk);
                Ok(Some(true))
            }
            Input::End => Ok(Some(false)),
            Input::Wait if is_gone(self.socket) => Err(io::ErrorKind::ConnectionAborted.into()),
            Input::Wait => Ok(None),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&**self.socket).write_all(bytes)
    }
}

/// How many of `bytes` belong to the body.
fn advance(decoder: &mut Decoder, bytes: &[u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < bytes.len() && !decoder.is_done() {
        let step = decoder
            .decode(&bytes[at..], usize::MAX)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        at += step.skip + step.data;
        if step.data == 0 && !decoder.is_done() {
            // All of it was framing.
            return Ok(bytes.len());
        }
    }
    Ok(at)
}

/// The connection is over in both directions. (A client that only sends no more may
/// still read.)
fn is_gone(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
        && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// How long the Service may take for the head of its answer.
const LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether the client is still there.
const LOOK: Duration = Duration::from_secs(1);
