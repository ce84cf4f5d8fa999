//! A registration on the controller beside the gateway's connection, which goes on
//! undisturbed (control-channel.md T14).
//!
//! The controller sees what it sees at every start: a connection that registers
//! with the stored id and closes with 1000.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::connection::{Order, open};
use super::parts::Parts;
use crate::control::dispatch::{Dispatch, PeerMessage};
use crate::control::late::LateAnswers;
use crate::control::session::{Failure, names_unknown_cluster};
use crate::link::{Lane, Link, Message};
use crate::net::{Cancel, Reason};
use crate::wire::to_agent::Registered;

/// Dials, sends `register`, whose `request_id` is `id`, and waits for its answer;
/// each step has the limit that it has elsewhere.
pub(super) fn register(
    order: &Order,
    id: &str,
    register: Message,
    parts: &Parts,
    cancel: &Cancel,
) -> Result<Box<Registered>, Failure> {
    let other = |text: &str| Failure::Other(text.to_owned());
    let halves = open(order, parts, cancel)?;
    let (tell, told) = bounded(HEARD);
    let link = Link::start(halves, parts.link.clone(), |link| {
        let channel = Arc::new(link.clone());
        // Nobody asks anything here; who does all the same gets an answer.
        let outlet = LateAnswers::new().connected(order.generation, "", channel.clone());
        let requests = parts.proxy.connection(outlet);
        let json_tunnels = parts.json_tunnels(channel.clone());
        let hear = Box::new(move |heard| {
            // A peer that says more before the answer loses the rest.
            let _ = tell.try_send(heard);
        });
        Dispatch::new(
            order.generation,
            channel,
            requests,
            Box::new(parts.tunnels.connection(link)),
            json_tunnels,
            LateAnswers::new(),
            hear,
        )
    })
    .map_err(|error| Failure::Other(error.to_string()))?;
    let guard = cancel.on_wake(Arc::new({
        let link = link.clone();
        move || link.abort("shutting down")
    }));
    if guard.is_err() {
        link.abort("shutting down");
    }
    let sent_at = Instant::now();
    let mut until = sent_at + parts.session.register_limit;
    let sent = link.send(Lane::Control, register, &Cancel::new());
    let outcome = loop {
        if sent.is_err() {
            break Err(other("the connection was lost"));
        }
        match told.recv_deadline(until) {
            Ok(PeerMessage::RegisterSuccess {
                request_id: Some(of),
                registered,
            }) if of == id => break Ok(registered),
            Ok(PeerMessage::Error {
                request_id: Some(of),
                text,
            }) if of == id => break Err(Failure::Other(text)),
            // An unknown cluster may be said without naming what it answers.
            Ok(PeerMessage::Error {
                request_id: None,
                text,
            }) if names_unknown_cluster(&text) => break Err(Failure::Other(text)),
            Ok(PeerMessage::RegisterInProgress) => {
                until = until.max(sent_at + parts.session.register_limit_in_progress);
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => break Err(other("no answer in time")),
            Err(RecvTimeoutError::Disconnected) => break Err(other("the connection was lost")),
        }
    };
    link.close(super::conductor::CLOSE_NORMAL, "");
    // The link's own limits end it.
    link.wait();
    match cancel.reason() {
        Some(Reason::Shutdown) if outcome.is_err() => Err(other("shutting down")),
        _ => outcome,
    }
}

/// What may have been heard and not looked at yet.
const HEARD: usize = 16;
