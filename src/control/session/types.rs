//! What goes into the life cycle and what comes out.

use std::fmt;
use std::time::Duration;

use crate::control::urls::GatewayRules;
use crate::wire::to_agent::Registered;

/// The four states and names of local-server.md §4; the numbers are its metric's.
/// `Connected` means the socket is up and the registration confirmed, never less
/// (control-channel.md T16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionState {
    #[default]
    Disconnected = 0,
    Connecting = 1,
    Connected = 2,
    Reconnecting = 3,
}

impl ConnectionState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Reconnecting => "reconnecting",
        }
    }
}

/// The rules' figures. The defaults are those of decisions.md.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `timeouts.websocket_reconnect`.
    pub reconnect_first: Duration,
    /// `timeouts.websocket_reconnect_max`.
    pub reconnect_cap: Duration,
    /// `registration.retry_interval`: the cap until the first registration; `None`:
    /// [`reconnect_cap`](Self::reconnect_cap).
    pub registration_cap: Option<Duration>,
    /// Share of each wait by which it may be shorter or longer.
    pub reconnect_jitter: f64,
    /// `registration.give_up_after`: ends the process when it hasn't been
    /// registered by then. `None`: never.
    pub give_up_after: Option<Duration>,
    /// A dial including the upgrade (`timeouts.websocket_handshake`).
    pub dial_limit: Duration,
    /// How long the switch to the gateway waits for the controller to close: the
    /// agent should never have two connections, but a controller that lets its socket
    /// linger must not delay it.
    pub leave_limit: Duration,
    /// `register_success` must come within this.
    pub register_limit: Duration,
    /// The same after `register_in_progress` (T6).
    pub register_limit_in_progress: Duration,
    /// First wait after 401 or 403 of a registered agent, and the longest.
    pub unauthorized_first: Duration,
    pub unauthorized_cap: Duration,
    /// After so long without the gateway the controller is asked again (T10).
    pub gateway_patience: Duration,
    /// A gateway is left to register again at most once in this time.
    pub reregister_interval: Duration,
    /// How often HTTP mode tries the WebSocket.
    pub websocket_retry: Duration,
    /// `pipeops.transport: http`.
    pub http_only: bool,
    /// `pipeops.transport: websocket`: HTTP mode is never entered.
    pub websocket_only: bool,
    /// The controller is reached over TLS.
    pub controller_tls: bool,
    /// Lets a TLS controller hand out a plain-text gateway (T30).
    pub allow_plaintext_gateway: bool,
    /// Hosts that a gateway may have; empty: any (T30).
    pub gateway_hosts: Vec<String>,
}

impl Settings {
    /// Which gateways may be dialled.
    pub fn gateway_rules(&self) -> GatewayRules<'_> {
        GatewayRules {
            plaintext: !self.controller_tls || self.allow_plaintext_gateway,
            hosts: &self.gateway_hosts,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            reconnect_first: Duration::from_millis(500),
            reconnect_cap: seconds(15),
            registration_cap: None,
            reconnect_jitter: 0.25,
            give_up_after: None,
            dial_limit: seconds(30),
            leave_limit: Duration::from_millis(300),
            register_limit: seconds(30),
            register_limit_in_progress: seconds(120),
            unauthorized_first: seconds(60),
            unauthorized_cap: seconds(300),
            gateway_patience: seconds(300),
            reregister_interval: seconds(60),
            websocket_retry: seconds(300),
            http_only: false,
            websocket_only: false,
            controller_tls: true,
            allow_plaintext_gateway: false,
            gateway_hosts: Vec::new(),
        }
    }
}

/// What a registration gave, and what is stored of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    pub cluster_id: Option<String>,
    pub cluster_uuid: Option<String>,
    pub gateway_ws_url: Option<String>,
}

/// Counts connections and HTTP calls of one process.
pub type Generation = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Start,
    /// The upgrade succeeded.
    Connected(Generation),
    DialFailed(Generation, Failure),
    /// The answer to the `register` of this connection.
    RegisterSuccess(Generation, Box<Registered>),
    RegisterInProgress(Generation),
    /// An `error` message.
    PeerError {
        generation: Generation,
        text: String,
        answers: Answers,
    },
    HeartbeatAck(Generation),
    /// The connection is gone. `code`: of the peer's close frame.
    Lost(Generation, Option<u16>),
    HttpRegister(Generation, Result<Box<Registered>, Failure>),
    HttpHeartbeat(Generation, Result<(), Failure>),
    /// The control plane should hear of this cluster again, while all goes on (T14).
    Renew,
    /// What became of [`Action::RegisterBeside`]; reported in any case.
    RegisteredBeside(Generation, Result<Box<Registered>, Failure>),
    /// Time has passed.
    Tick,
    Stop,
}

/// What an `error` message answers, by its `request_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Our `register`.
    Register,
    /// It names no request.
    Nobody,
    /// Something else.
    Other,
}

/// Why a dial or an HTTP call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The control plane itself answered with this status (a corporate proxy's
    /// answer is [`Failure::Other`]).
    Status {
        code: u16,
        retry_after: Option<Duration>,
        /// For people, and for the texts of an unknown cluster.
        text: String,
    },
    /// A 2xx of type JSON that doesn't parse or has no cluster id.
    Unusable(String),
    /// No answer, a broken one, or one of somebody in between.
    Other(String),
}

impl Failure {
    /// The answer of a controller that takes no WebSocket (decisions.md §6.1 "HTTP
    /// mode").
    pub(crate) fn takes_no_websocket(&self) -> bool {
        let Self::Status { code, .. } = self else {
            return false;
        };
        matches!(code, 404 | 405 | 426 | 501)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code, text, .. } if text.is_empty() => write!(f, "status {code}"),
            Self::Status { code, text, .. } => write!(f, "status {code}: {text}"),
            Self::Unusable(text) | Self::Other(text) => f.write_str(text),
        }
    }
}

/// Where to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Controller,
    Gateway { url: String, cluster_uuid: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Dial {
        generation: Generation,
        target: Target,
        /// This connection stays if the dial succeeds, so a heartbeat is its
        /// first message.
        stays: bool,
    },
    SendRegister {
        generation: Generation,
        cluster_id: Option<String>,
    },
    HttpRegister {
        generation: Generation,
        cluster_id: Option<String>,
    },
    /// On the controller, over a connection of its own, beside that of this
    /// generation.
    RegisterBeside {
        generation: Generation,
        cluster_id: Option<String>,
    },
    /// Orderly, with 1000.
    Close(Generation),
    /// Without a close frame.
    Abort(Generation, &'static str),
    /// Write the ids down, before anything else is done.
    Store(Ids),
    /// Heartbeats go over this from now on, the first at once.
    Serve(Generation, Transport),
    StopServing,
    /// HTTP heartbeats rest, and one that is under way is ended: a WebSocket is
    /// tried, and none of them may arrive behind its first. Ends with `Resume` or
    /// `Serve`.
    Rest,
    /// They go on, as calls of this generation.
    Resume(Generation),
    State(ConnectionState),
    /// Nothing comes after this.
    End(End),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Http,
}

/// How the life cycle ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Stopped,
    /// decisions.md §6.1 "Refused".
    Refused(String),
    /// `registration.give_up_after` has passed.
    GaveUp,
}
