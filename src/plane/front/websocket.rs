//! One WebSocket of a client, through the agent of its cluster and back: `kubectl exec`,
//! `attach`, `port-forward`, `cp` (decisions.md §6.7).
//!
//! ```text
//!  client ── GET, Upgrade ──► this thread ── proxy_websocket_start ──► agent ──► API server
//!         ◄── 101, or the API server's refusal ── … _started, proxy_error ◄──────┘
//!         ══ leg::carry ════════════════════════ proxy_websocket_data ═══
//! ```
//!
//! The client hears 101 when the API server has said so, and not before: what it is
//! refused with would have no place behind a 101.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fields;
use super::leg;
use super::proxied::{AuthorizedRequest, agents_fields, not_connected, refusal};
use super::second_try::{Asked, LastRefusals};
use super::status::Refusal;
use super::upgrade::subprotocols;
use crate::http::Headers;
use crate::http::server::{ClientWatch, RequestBody, Responder};
use crate::net::{Cancel, Guard};
use crate::plane::hub::Hub;
use crate::plane::live_stream::{LiveStream, NoStream};
use crate::plane::stream::Opening;
use crate::websocket::upgrade::{Accept, BadRequest};
use crate::wire::RAW_STREAMS;
use crate::wire::stream::Refused;
use crate::wire::to_agent::RawStart;

/// Carries a WebSocket whose token allows it; returns when it has ended.
pub(super) fn forward(
    hub: &Hub,
    refusals: &LastRefusals,
    request: &AuthorizedRequest<'_>,
    target: &str,
    body: RequestBody,
    responder: Responder,
) {
    let refuse = |responder: Responder, refused: Refused| {
        // Before the client knows: its second try may be faster than this thread.
        remember(refusals, request.token, target, refused.clone());
        // A client that is gone hears nothing.
        let _ = responder.respond(refused.status, &refused.headers, &refused.body);
    };
    let opened = check(request, &body).and_then(|accept| Ok((accept, open(hub, request)?)));
    let (accept, (live, headers)) = match opened {
        Ok(opened) => opened,
        Err(refused) => return refuse(responder, refused),
    };
    // As for a request, and likewise dropped before `live`: its end must not cut a
    // client that has its answer.
    let Ok(_binding) = ClientBinding::new(&live, &responder) else {
        return;
    };
    match start(request, &live, &headers) {
        Err(refused) => refuse(responder, refused),
        Ok(protocol) => {
            let switch = |responder: Responder| {
                let mut halves = responder.take_over(body)?;
                let switched = accept.switch(protocol.as_deref(), &mut halves.write);
                switched.is_ok().then_some(halves)
            };
            leg::carry(live.sender(), responder, switch);
        }
    }
}

/// The answer to a client that asks for SPDY: it has been refused a WebSocket just now,
/// or it knows nothing else.
pub(super) fn refuse_spdy(
    refusals: &LastRefusals,
    request: &AuthorizedRequest<'_>,
    target: &str,
    responder: Responder,
) {
    let known = refusals.take(&asked(request.token, target), Instant::now());
    let refused = known.unwrap_or_else(|| Refusal::new(501, NO_SPDY).answer(request.headers));
    let _ = responder.respond(refused.status, &refused.headers, &refused.body);
}

/// Keeps what a WebSocket was refused with for its client's second try.
pub(super) fn remember(refusals: &LastRefusals, token: &str, target: &str, refused: Refused) {
    refusals.keep(asked(token, target), refused, Instant::now());
}

/// By the id of the user's token.
fn asked(token: &str, target: &str) -> Asked {
    Asked {
        token: token.to_owned(),
        target: target.to_owned(),
    }
}

/// What is wrong with the request itself, before anybody else hears of it.
fn check(request: &AuthorizedRequest<'_>, body: &RequestBody) -> Result<Accept, Refused> {
    let refused = |code, text: String| Refusal::new(code, text).answer(request.headers);
    if request.method != "GET" {
        let text = format!("a WebSocket begins with GET, not {}", request.method);
        return Err(refused(405, text));
    }
    if body.length() != Some(0) {
        let text = "a request for a WebSocket has no body";
        return Err(refused(400, text.to_owned()));
    }
    let fields: Vec<(&str, &str)> = request.headers.iter().collect();
    Accept::check(&fields).map_err(|bad| match bad {
        BadRequest::Key => refused(400, bad.to_string()),
        BadRequest::NotUpgrade | BadRequest::Version => {
            let mut refused = refused(426, bad.to_string());
            refused.headers.push("Sec-WebSocket-Version", "13");
            refused
        }
    })
}

/// The stream to the cluster's agent, and the fields that go there.
fn open(hub: &Hub, request: &AuthorizedRequest<'_>) -> Result<(LiveStream, Headers), Refused> {
    let name = request.cluster.as_str();
    let open = || {
        let headers = agents_fields(hub, request)?;
        let connection = hub.connection(request.cluster);
        let connection = connection.ok_or_else(|| not_connected(request.cluster))?;
        let opened = connection.open_stream(request.token.to_owned());
        let live = opened.map_err(|why| match why {
            NoStream::Closed => not_connected(request.cluster),
            NoStream::Unknown => Refusal::new(
                501,
                format!(
                    "the agent of cluster {name:?} is too old for exec, attach and port-forward: \
                     it doesn't know {RAW_STREAMS:?}"
                ),
            ),
        })?;
        // Revoked just now: who revokes has looked for open streams already.
        if !hub.registry.has_token(request.token) {
            return Err(not_connected(request.cluster));
        }
        Ok((live, headers))
    };
    open().map_err(|refusal: Refusal| refusal.answer(request.headers))
}

/// Has the agent open the other end. The subprotocol that was chosen.
fn start(
    request: &AuthorizedRequest<'_>,
    live: &LiveStream,
    headers: &Headers,
) -> Result<Option<String>, Refused> {
    let name = request.cluster.as_str();
    let refused = |code, text: &str| {
        let text = format!("cluster {name:?}: {text}");
        Refusal::new(code, text).answer(request.headers)
    };
    let protocols: Vec<String> = subprotocols(request.headers)
        .into_iter()
        .map(str::to_owned)
        .collect();
    let until = Instant::now() + OPENING_LIMIT;
    let opening = match live.sender().start(&RawStart {
        path: request.path,
        query: request.query,
        headers,
        protocols: &protocols,
    }) {
        Ok(()) => live.stream().wait_opening(until),
        Err(failure) => Opening::Failed(failure),
    };
    match opening {
        Opening::Started(None) => Ok(None),
        Opening::Started(Some(chosen)) if protocols.contains(&chosen) => Ok(Some(chosen)),
        Opening::Started(Some(_)) => Err(refused(502, "a subprotocol that nobody offered")),
        Opening::Refused(answer) => {
            let Refused {
                status,
                headers,
                body,
            } = *answer;
            // Its length is what came of it.
            let fields = fields::to_client(name, status, &headers)
                .map_err(|error| refused(502, &error.to_string()))?;
            Err(Refused {
                status,
                headers: fields.headers,
                body,
            })
        }
        Opening::Failed(failure) => Err(refusal(request.cluster, &failure).answer(request.headers)),
        Opening::TooLate => Err(refused(504, "the WebSocket did not open in time")),
    }
}

/// Binds a stream to its client's connection: the end of either ends the other.
struct ClientBinding {
    _ends_stream: Guard,
    _cuts_client: Guard,
    _tells: Guard,
    _watch: ClientWatch,
}

impl ClientBinding {
    fn new(live: &LiveStream, responder: &Responder) -> Result<Self, ()> {
        let stream = live.stream();
        let ends_stream = stream.end_when_cancelled().map_err(drop)?;
        let cuts_client = stream
            .cancel()
            .on_socket(responder.socket())
            .map_err(drop)?;
        // A client that sends its end may have sent more before it: that isn't cut.
        let left = Cancel::new();
        let told = stream.clone();
        let tells = left.on_wake(Arc::new(move || told.on_client_left()));
        let watch = responder.on_client_gone(&left).map_err(|error| {
            log::warn!("a client can't be watched: {error}");
        })?;
        Ok(Self {
            _ends_stream: ends_stream,
            _cuts_client: cuts_client,
            _tells: tells.map_err(drop)?,
            _watch: watch,
        })
    }
}

/// The agent gives up after 30 s (T26), and says so.
const OPENING_LIMIT: Duration = Duration::from_secs(45);

const NO_SPDY: &str = "SPDY isn't passed on by this plane, WebSockets are: use kubectl 1.30 or \
                       newer (1.31 for port-forward), with KUBECTL_REMOTE_COMMAND_WEBSOCKETS and \
                       KUBECTL_PORT_FORWARD_WEBSOCKETS unset or true";
