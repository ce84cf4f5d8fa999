//! One connection: a thread that dials, upgrades, and plugs the rooms together:
//!
//! ```text
//! link-reader ─► Dispatch ─► proxy::Requests … ConnectionOutlet ─► link-writer
//!                        └─► tunnel::ConnectionTunnels … streams ───────┘
//! ```
//!
//! Then it sends the late answers of older connections, and waits for the end.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};

use super::background::Report;
use super::conductor::Input;
use super::parts::Parts;
use crate::config::Secret;
use crate::control::dispatch::Dispatch;
use crate::control::late::LateAnswers;
use crate::control::session::{Failure, Generation};
use crate::http::Headers;
use crate::link::{Ending, Lane, Link, Message};
use crate::net::{Cancel, Deadline, DialCause, DialError, Endpoint, Halves, Phase};
use crate::telemetry::RateLimit;
use crate::threads::{self, SpawnError, Stack};
use crate::url::Url;
use crate::websocket::upgrade::{self, UpgradeError};

/// What a connection's thread says. The last is `Failed` or `Lost`, always.
#[derive(Debug)]
pub(super) enum ConnectionEvent {
    Up(Link),
    Failed(Failure),
    Lost(Ending),
}

/// What to dial, and how.
pub(super) struct Order {
    pub(super) generation: Generation,
    pub(super) url: Url,
    pub(super) token: Secret,
    /// Goes out before anything that the peer says is read.
    pub(super) first: Option<Message>,
    pub(super) limit: Duration,
}

/// A connection of the conductor.
pub(super) struct Connection {
    pub(super) url: Url,
    pub(super) cancel: Cancel,
    pub(super) link: Option<Link>,
    pub(super) thread: JoinHandle<Option<()>>,
}

impl Connection {
    pub(super) fn start(
        order: Order,
        parts: Arc<Parts>,
        late: Arc<LateAnswers>,
        sender: Sender<Input>,
    ) -> Result<Self, SpawnError> {
        let cancel = Cancel::new();
        let url = order.url.clone();
        let thread = threads::spawn(format!("conn-{}", order.generation), Stack::Work, {
            let cancel = cancel.clone();
            move || run(order, &parts, &late, &sender, &cancel)
        })?;
        Ok(Self {
            url,
            cancel,
            link: None,
            thread,
        })
    }
}

fn run(
    order: Order,
    parts: &Parts,
    late: &Arc<LateAnswers>,
    sender: &Sender<Input>,
    cancel: &Cancel,
) {
    let generation = order.generation;
    let panicked = Failure::Other("the connection's thread panicked".to_owned());
    let mut last = Report::new(
        sender.clone(),
        Input::Connection(generation, ConnectionEvent::Failed(panicked)),
    );
    match connect(order, parts, late, sender, cancel) {
        Ok(link) => {
            late.serve(generation);
            let ending = link.wait();
            last.set(Input::Connection(generation, ConnectionEvent::Lost(ending)));
        }
        Err(failure) => last.set(Input::Connection(
            generation,
            ConnectionEvent::Failed(failure),
        )),
    }
}

/// Dials, then starts the link's threads.
fn connect(
    order: Order,
    parts: &Parts,
    late: &Arc<LateAnswers>,
    sender: &Sender<Input>,
    cancel: &Cancel,
) -> Result<Link, Failure> {
    let halves = open(&order, parts, cancel)?;
    let Order {
        generation,
        url,
        first,
        ..
    } = order;
    // Late answers go to the same endpoint, query included.
    let endpoint = format!("{url}?{}", url.query.as_deref().unwrap_or_default());
    let link = Link::start(halves, parts.link.clone(), |link| {
        // Before anything of the peer's can be heard: the first ack must not arrive
        // at a conductor that knows of no connection yet.
        let up = Input::Connection(generation, ConnectionEvent::Up(link.clone()));
        if sender.send(up).is_err() {
            link.abort("the agent has ended");
        }
        if let Some(first) = first {
            // A link that just began has room.
            let _ = link.send(Lane::Control, first, &Cancel::new());
        }
        let channel = Arc::new(link.clone());
        let outlet = late.connected(generation, &endpoint, channel.clone());
        let requests = parts.proxy.connection(outlet);
        let json_tunnels = parts.json_tunnels(channel.clone());
        let sender = sender.clone();
        let hear = Box::new(move |heard| {
            if let Err(TrySendError::Full(_)) =
                sender.try_send(Input::PeerMessage(generation, heard))
            {
                static FULL: RateLimit = RateLimit::new(1, Duration::from_mins(1));
                if let Some(skipped) = FULL.pass() {
                    log::warn!(skipped; "message dropped: the peer speaks faster than we can listen");
                }
            }
        });
        let tunnels = Box::new(parts.tunnels.connection(link));
        Dispatch::new(
            generation,
            channel,
            requests,
            tunnels,
            json_tunnels,
            late.clone(),
            hear,
        )
    });
    link.map_err(|error| Failure::Other(error.to_string()))
}

/// The dial chain and the upgrade under one deadline.
pub(super) fn open(order: &Order, parts: &Parts, cancel: &Cancel) -> Result<Halves, Failure> {
    let url = &order.url;
    let deadline = Deadline::after(order.limit);
    let halves = parts
        .dialer
        .dial(&url.endpoint(), deadline, cancel)
        .map_err(|error| Failure::Other(error.to_string()))?;
    let target = url.target();
    let authority = upgrade::authority(&url.host, url.port, url.tls);
    let mut headers = Headers::new();
    let version = env!("CARGO_PKG_VERSION");
    headers.push("User-Agent", format!("pipeops-agent/{version}"));
    let token = order.token.expose();
    headers.push("Authorization", format!("Bearer {token}"));
    let request = upgrade::Request {
        authority: &authority,
        target: &target,
        headers: &headers,
        subprotocols: &[],
    };
    upgrade::upgrade(halves, &request, deadline, cancel)
        .map(|upgraded| upgraded.halves)
        .map_err(|error| upgrade_failure(&url.endpoint(), error))
}

fn upgrade_failure(endpoint: &Endpoint, error: UpgradeError) -> Failure {
    let answer = match error {
        UpgradeError::Refused(answer) => answer,
        // Where the last step of the dial failed, and what a TLS alert means: one
        // about our certificate comes no sooner in TLS 1.3.
        UpgradeError::Io(cause) => {
            let error = DialError::new(Phase::Upgrade, endpoint, cause);
            return Failure::Other(error.to_string());
        }
        error => {
            let cause = DialCause::Invalid(error.to_string());
            let error = DialError::new(Phase::Upgrade, endpoint, cause);
            return Failure::Other(error.to_string());
        }
    };
    // A page for people comes from a box in between: whatever it forbids, it is not
    // the control plane that refuses us (decisions.md §6.1).
    let is_page = answer.content_type.as_deref() == Some("text/html");
    if is_page && matches!(answer.status, 401 | 403) {
        return Failure::Other(format!("something in between answered: {answer}"));
    }
    Failure::Status {
        code: answer.status,
        retry_after: answer.retry_after,
        text: answer.excerpt,
    }
}
