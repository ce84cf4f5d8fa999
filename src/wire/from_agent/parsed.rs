//! What our plane reads of them.

use std::borrow::Cow;

use crate::http::Headers;
use crate::wire::envelope::{Envelope, Payload};
use crate::wire::header_map::HeaderMap;
use crate::wire::stream::{CloseText, Refused, StreamData, StreamIds};
use crate::wire::to_agent::{credit, features};

/// What the plane reads from an agent.
#[derive(Debug)]
pub enum FromAgent<'a> {
    Register(Registration<'a>),
    Heartbeat(HeartbeatReport),
    Ping,
    Pong,
    ProtocolFallback {
        unknown_type: Cow<'a, str>,
    },
    GatewayHelloAck {
        use_yamux: bool,
    },
    PlaneHelloAck {
        features: Vec<String>,
    },
    ProxyFlow {
        credit: u64,
    },
    ProxyResponse {
        status: u16,
        headers: Headers,
        body: ResponseBody<'a>,
    },
    ProxyResponseHeader {
        status: u16,
        headers: Headers,
    },
    /// Base64.
    ProxyResponseChunk {
        data: Cow<'a, str>,
    },
    ProxyResponseEnd,
    ProxyResponseAbort {
        error: Cow<'a, str>,
    },
    ProxyError {
        error: Cow<'a, str>,
        /// Of a raw stream: the API server's own answer to the upgrade.
        refused: Option<Box<Refused>>,
    },
    /// The upgrade of a raw stream has succeeded.
    WebSocketStarted {
        protocol: Option<Cow<'a, str>>,
    },
    WebSocketData(StreamData<'a>),
    WebSocketClose {
        ids: StreamIds<'a>,
        said: Option<CloseText<'a>>,
    },
    /// A type that no request of ours provokes.
    Other,
}

/// The body of a buffered answer as it came.
#[derive(Debug)]
pub enum ResponseBody<'a> {
    Empty,
    Base64(Cow<'a, str>),
    /// Base64 of gzip.
    Gzip(Cow<'a, str>),
}

/// What the plane keeps of a `register`.
#[derive(Debug)]
pub struct Registration<'a> {
    pub agent_id: String,
    pub name: String,
    pub agent_version: String,
    pub k8s_version: String,
    pub hostname: String,
    pub cluster_id: Option<String>,
    /// Secret.
    pub k8s_service_token: Option<Cow<'a, str>>,
}

/// What the plane keeps of a `heartbeat`.
#[derive(Clone, Debug, Default)]
pub struct HeartbeatReport {
    pub cluster_id: String,
    pub agent_id: String,
    pub status: String,
    pub agent_version: String,
    pub k8s_version: String,
    pub k8s_nodes: u64,
    pub k8s_pods: u64,
}

impl<'a> FromAgent<'a> {
    pub fn parse(envelope: &Envelope<'a>) -> Self {
        let payload = &envelope.payload;
        match envelope.kind.as_ref() {
            "register" => Self::Register(Registration::parse(payload)),
            "heartbeat" => Self::Heartbeat(HeartbeatReport::parse(payload)),
            "ping" => Self::Ping,
            "pong" => Self::Pong,
            "protocol_fallback" => Self::ProtocolFallback {
                unknown_type: payload.str("unknown_type").unwrap_or_default(),
            },
            "gateway_hello_ack" => Self::GatewayHelloAck {
                use_yamux: payload.flag("use_yamux"),
            },
            "plane_hello_ack" => Self::PlaneHelloAck {
                features: features(payload),
            },
            "proxy_flow" => Self::ProxyFlow {
                credit: credit(payload),
            },
            "proxy_response" => Self::ProxyResponse {
                status: status(payload),
                headers: header_map(payload),
                body: match (payload.text("body"), payload.text("encoding").as_deref()) {
                    (None, _) => ResponseBody::Empty,
                    (Some(body), Some("gzip")) => ResponseBody::Gzip(body),
                    (Some(body), _) => ResponseBody::Base64(body),
                },
            },
            "proxy_response_header" => Self::ProxyResponseHeader {
                status: status(payload),
                headers: header_map(payload),
            },
            "proxy_response_chunk" => Self::ProxyResponseChunk {
                data: payload.str("data").unwrap_or_default(),
            },
            "proxy_response_end" => Self::ProxyResponseEnd,
            "proxy_response_abort" => Self::ProxyResponseAbort {
                error: error_text(payload),
            },
            "proxy_error" => Self::ProxyError {
                error: error_text(payload),
                refused: refused(payload).map(Box::new),
            },
            "proxy_websocket_started" => Self::WebSocketStarted {
                protocol: payload.text("protocol"),
            },
            "proxy_websocket_data" => Self::WebSocketData(StreamData::parse(envelope)),
            "proxy_websocket_close" => Self::WebSocketClose {
                ids: StreamIds::parse(envelope),
                said: CloseText::parse(payload),
            },
            _ => Self::Other,
        }
    }
}

impl<'a> Registration<'a> {
    /// Also of the HTTP body (control-channel.md §12.8), which has the same fields and
    /// says the name twice.
    pub fn parse(payload: &Payload<'a>) -> Self {
        let string = |name| payload.string(name).unwrap_or_default();
        let name = payload.string("name").filter(|name| !name.is_empty());
        Self {
            agent_id: string("agent_id"),
            name: name.unwrap_or_else(|| string("cluster_name")),
            agent_version: string("agent_version"),
            k8s_version: string("k8s_version"),
            hostname: string("hostname"),
            cluster_id: payload.string("cluster_id"),
            k8s_service_token: payload.text("k8s_service_token"),
        }
    }
}

impl HeartbeatReport {
    /// Also of the HTTP body (control-channel.md §12.8), which has the same fields.
    pub fn parse(payload: &Payload<'_>) -> Self {
        let metadata = payload.object("metadata").unwrap_or_default();
        let count = |name| {
            metadata
                .integer(name)
                .and_then(|n| u64::try_from(n).ok())
                .unwrap_or(0)
        };
        Self {
            cluster_id: payload.string("cluster_id").unwrap_or_default(),
            agent_id: payload.string("agent_id").unwrap_or_default(),
            status: payload.string("status").unwrap_or_default(),
            agent_version: metadata.string("agent_version").unwrap_or_default(),
            k8s_version: metadata.string("k8s_version").unwrap_or_default(),
            k8s_nodes: count("k8s_nodes"),
            k8s_pods: count("k8s_pods"),
        }
    }
}

/// The default of the wire is 200; what is no status is 502.
fn status(payload: &Payload<'_>) -> u16 {
    match payload.integer("status") {
        None => 200,
        Some(status) => u16::try_from(status)
            .ok()
            .filter(|s| (100..=999).contains(s))
            .unwrap_or(502),
    }
}

/// The answer of an API server in a `proxy_error`: only what is an error is one.
fn refused(payload: &Payload<'_>) -> Option<Refused> {
    let status = payload.integer("status")?;
    let status = u16::try_from(status).ok()?;
    if !(300..=599).contains(&status) {
        return None;
    }
    let body = payload.str("body").unwrap_or_default();
    Some(Refused {
        status,
        headers: header_map(payload),
        body: base64_simd::STANDARD
            .decode_to_vec(body.as_bytes())
            .unwrap_or_default(),
    })
}

fn header_map(payload: &Payload<'_>) -> Headers {
    payload
        .parse::<HeaderMap>("headers")
        .unwrap_or_default()
        .headers
}

fn error_text<'a>(payload: &Payload<'a>) -> Cow<'a, str> {
    payload
        .text("error")
        .unwrap_or(Cow::Borrowed("the agent gave no reason"))
}
