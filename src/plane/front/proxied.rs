//! One request of a client, through the agent of its cluster and back.
//!
//! ```text
//!  client ── body ──► this thread, or plane-upload ── chunks, as credit allows ──► agent
//!         ◄── answer ── this thread ◄── Exchange ◄── link-reader ◄──────────────── agent
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use super::fields::{self, Answer};
use super::status::Refusal;
use crate::http::Headers;
use crate::http::server::{ClientWatch, RequestBody, Responder, ResponseWriter};
use crate::net::{Guard, Reason};
use crate::plane::exchange::{Exchange, Failure, Stopped};
use crate::plane::hub::Hub;
use crate::plane::in_flight::{InFlight, RequestSender};
use crate::plane::name::ClusterName;
use crate::plane::registry::ServiceToken;
use crate::threads::{self, Stack};
use crate::wire::{MAX_CHUNK, to_agent};

/// A request whose token allows it.
pub(crate) struct AuthorizedRequest<'a> {
    /// The id of the user's token.
    pub(crate) token: &'a str,
    pub(crate) cluster: &'a ClusterName,
    pub(crate) method: &'a str,
    /// Decoded.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a Headers,
    pub(crate) peer: SocketAddr,
}

/// Sends it to the agent and the answer to the client; returns when both are done.
pub(crate) fn forward(
    hub: &Hub,
    request: &AuthorizedRequest<'_>,
    body: RequestBody,
    responder: Responder,
) {
    let (in_flight, mut headers) = match open(hub, request) {
        Ok(in_flight) => in_flight,
        Err(refusal) => return refuse(responder, request.headers, &refusal),
    };
    let exchange = in_flight.exchange().clone();
    // From here on a client that leaves, a token that is revoked and the plane's
    // end all end the exchange, and with it whoever waits on it. Dropped before
    // `in_flight`: its end must not cut a client that has its answer.
    let Ok(_binding) = ClientBinding::new(&exchange, &responder) else {
        return;
    };
    // A body whose length is known goes out with it (control-channel.md T41).
    if let Some(length) = body.length().filter(|length| *length > 0) {
        headers.push("Content-Length", length.to_string());
    }
    let sent = send(request, &headers, &in_flight, body);
    let head = sent.and_then(|()| exchange.wait_head());
    let answer = head
        .map_err(|failure| refusal(request.cluster, &failure))
        .and_then(|head| {
            fields::to_client(request.cluster.as_str(), head.status, &head.headers)
                .map_err(|error| Refusal::new(502, error.to_string()))
        });
    match answer {
        Ok(answer) => {
            let Answer {
                status,
                headers,
                length,
            } = answer;
            if let Ok(writer) = responder.start(status, &headers, length) {
                relay(&in_flight, writer);
            }
        }
        Err(refusal) => refuse(responder, request.headers, &refusal),
    }
}

/// The exchange with the cluster's agent, and the fields that go there.
fn open(hub: &Hub, request: &AuthorizedRequest<'_>) -> Result<(InFlight, Headers), Refusal> {
    let headers = agents_fields(hub, request)?;
    let in_flight = hub
        .connection(request.cluster)
        .and_then(|connection| connection.open(request.token.to_owned()).ok())
        // Revoked just now: who revokes has looked for open requests already.
        .filter(|_| hub.registry.has_token(request.token))
        .ok_or_else(|| not_connected(request.cluster))?;
    Ok((in_flight, headers))
}

/// The fields that go to the agent, with the credential of the request's cluster.
pub(super) fn agents_fields(
    hub: &Hub,
    request: &AuthorizedRequest<'_>,
) -> Result<Headers, Refusal> {
    let name = request.cluster;
    let cluster = hub.registry.cluster(name).ok_or_else(|| {
        let text = format!(
            "cluster {:?} is not known: no agent has registered it",
            name.as_str()
        );
        Refusal::new(404, text)
    })?;
    let credential = hub.registry.service_token(&cluster.id);
    let credential = credential.as_ref().map(ServiceToken::reveal);
    fields::to_agent(request.headers, credential, request.peer.ip())
        .map_err(|error| Refusal::new(403, error.to_string()))
}

pub(super) fn not_connected(cluster: &ClusterName) -> Refusal {
    let name = cluster.as_str();
    Refusal::new(
        503,
        format!("the agent of cluster {name:?} is not connected"),
    )
}

/// Binds an exchange to its client's connection: the end of either ends the other.
struct ClientBinding {
    _ends_exchange: Guard,
    _cuts_client: Guard,
    _watch: ClientWatch,
}

impl ClientBinding {
    fn new(exchange: &Arc<Exchange>, responder: &Responder) -> Result<Self, ()> {
        let cancel = exchange.cancel();
        let ends_exchange = exchange.end_when_cancelled();
        let cuts_client = cancel.on_socket(responder.socket());
        match (ends_exchange, cuts_client, responder.on_client_gone(cancel)) {
            (Ok(ends_exchange), Ok(cuts_client), Ok(watch)) => Ok(Self {
                _ends_exchange: ends_exchange,
                _cuts_client: cuts_client,
                _watch: watch,
            }),
            (_, _, Err(error)) => {
                log::warn!("a client can't be watched: {error}");
                Err(())
            }
            _ => Err(()),
        }
    }
}

/// Sends the request and its body. A body that is short and announced is read
/// here; any other gets a thread of its own, because the answer may come first.
fn send(
    request: &AuthorizedRequest<'_>,
    headers: &Headers,
    in_flight: &InFlight,
    mut body: RequestBody,
) -> Result<(), Failure> {
    let length = body.length();
    let short = length.is_some_and(|length| length <= SHORT as u64);
    let whole = if short {
        match body.read_all(SHORT) {
            Ok(whole) => Some(whole),
            Err(error) => {
                log::debug!("a client's body did not come: {error}");
                return Err(Failure::Ended(Reason::Cancelled));
            }
        }
    } else {
        None
    };
    let message = to_agent::Request {
        method: request.method,
        path: request.path,
        query: request.query,
        headers,
        streamed_body: length != Some(0),
        stream_response: true,
        scheme: "https",
        timeout: None,
    };
    let sender = in_flight.sender();
    sender.exchange().announce();
    sender.send(REQUEST_SIZE, |buf, id| {
        to_agent::proxy_request(buf, id, &message);
    })?;
    match whole {
        // One that was announced as empty isn't streamed at all.
        Some(_) if length == Some(0) => Ok(()),
        Some(whole) => {
            // The agent may have failed it already: its answer says so.
            let _ = send_chunks(sender, &whole).and_then(|()| send_end(sender));
            Ok(())
        }
        None => {
            let sender = sender.clone();
            threads::spawn("plane-upload", Stack::Work, move || upload(&sender, body))
                .map(drop)
                .map_err(|error| {
                    log::warn!("{error}");
                    Failure::Protocol("the plane has no thread left for this upload")
                })
        }
    }
}

fn upload(sender: &RequestSender, mut body: RequestBody) {
    loop {
        match body.chunk(MAX_CHUNK) {
            Ok([]) => break,
            Ok(bytes) => {
                if send_chunks(sender, bytes).is_err() {
                    return;
                }
            }
            Err(error) => {
                log::debug!("a client's body broke off: {error}");
                return sender.exchange().end(Reason::Cancelled);
            }
        }
    }
    // Given back before the answer can end: the connection serves on.
    drop(body);
    let _ = send_end(sender);
}

fn send_chunks(sender: &RequestSender, bytes: &[u8]) -> Result<(), Stopped> {
    for piece in bytes.chunks(MAX_CHUNK) {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = sender.exchange().take_credit(rest.len())?;
            let (now, later) = rest.split_at(taken);
            sender
                .send(now.len() * 4 / 3 + ENVELOPE, |buf, id| {
                    to_agent::proxy_request_chunk(buf, id, now);
                })
                .map_err(|_| Stopped)?;
            rest = later;
        }
    }
    Ok(())
}

fn send_end(sender: &RequestSender) -> Result<(), Stopped> {
    sender
        .send(ENVELOPE, to_agent::proxy_request_stream_end)
        .map_err(|_| Stopped)
}

/// The body of the answer, each piece as it comes. An answer that breaks off is cut
/// off for the client too: dropping the writer does it.
fn relay(in_flight: &InFlight, mut writer: ResponseWriter) {
    let exchange = in_flight.exchange();
    loop {
        match exchange.next() {
            Ok(Some(piece)) => {
                if writer.write(&piece).is_err() {
                    return exchange.end(Reason::Cancelled);
                }
                if let Some(credit) = exchange.passed_on(piece.len()) {
                    // Without the link the next piece is its loss.
                    let _ = in_flight.sender().send(ENVELOPE, |buf, id| {
                        to_agent::proxy_flow(buf, id, credit);
                    });
                }
            }
            Ok(None) => {
                if let Err(error) = writer.finish() {
                    log::debug!("an answer ended badly: {error}");
                }
                return;
            }
            Err(failure) => {
                log::debug!("an answer broke off: {failure}");
                return;
            }
        }
    }
}

/// What a client is told of a request that has no answer.
pub(super) fn refusal(cluster: &ClusterName, failure: &Failure) -> Refusal {
    let name = cluster.as_str();
    match failure {
        // decisions.md §6.2 "At once": it may be tried again.
        Failure::Agent(text) if text.contains("agent busy") => {
            Refusal::new(503, format!("the agent of cluster {name:?} says: {text}")).passing()
        }
        Failure::Agent(text) => {
            Refusal::new(502, format!("the agent of cluster {name:?} says: {text}"))
        }
        Failure::AgentGone => Refusal::new(
            502,
            format!("the connection to the agent of cluster {name:?} was lost"),
        ),
        Failure::Protocol(text) => Refusal::new(502, format!("cluster {name:?}: {text}")),
        // Nobody reads it, mostly; but a body may just have taken too long.
        Failure::Ended(Reason::Cancelled) => {
            Refusal::new(408, "the body of the request did not come")
        }
        Failure::Ended(reason) => Refusal::new(503, reason.to_string()),
    }
}

/// Answers with a `Status`. `request` are the headers of what is answered. A client
/// that is gone already hears nothing.
pub(crate) fn refuse(responder: Responder, request: &Headers, refusal: &Refusal) {
    let answer = refusal.answer(request);
    let _ = responder.respond(answer.status, &answer.headers, &answer.body);
}

/// A body up to this size is read before the request is sent, without a thread of
/// its own: what `kubectl apply` sends, mostly. Well below the first credit.
const SHORT: usize = 64 * 1024;

/// Room for a `proxy_request`, in bytes.
const REQUEST_SIZE: usize = 1024;

/// Room for what stands around the data of a chunk.
const ENVELOPE: usize = 192;
