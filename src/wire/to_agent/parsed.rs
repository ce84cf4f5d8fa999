//! What the agent reads.

use std::borrow::Cow;
use std::time::Duration;

use crate::config::Secret;
use crate::wire::envelope::{Envelope, Payload};
use crate::wire::request::ProxyRequest;
use crate::wire::stream::{CloseText, StreamData, StreamIds, StreamStart};
use crate::wire::tunnel::{Datagram, TcpStart};

/// A message of control-channel.md §4, by its type. The request id stays in the
/// envelope.
#[derive(Debug)]
pub enum ToAgent<'a> {
    RegisterSuccess(Registered),
    RegisterInProgress,
    HeartbeatAck,
    Ping,
    Pong,
    Error(Cow<'a, str>),
    GatewayHello(GatewayHello),
    PlaneHello {
        features: Vec<String>,
    },
    /// More decoded bytes may be sent for this request (decisions.md §6.2).
    ProxyFlow {
        credit: u64,
    },
    ProxyRequest(Box<ProxyRequest<'a>>),
    /// Base64; `None` when the message had neither `data` nor `chunk`.
    ProxyRequestChunk {
        data: Option<Cow<'a, str>>,
    },
    ProxyRequestStreamEnd,
    ProxyCancel,
    /// `proxy_websocket_start`, `ws_start`.
    WebSocketStart(Box<StreamStart<'a>>),
    /// `proxy_websocket_data`, `ws_data`, `proxy_stream_data`.
    WebSocketData(StreamData<'a>),
    /// `proxy_websocket_close`, `ws_close`.
    WebSocketClose {
        ids: StreamIds<'a>,
        /// Of a raw stream: what the other leg's close frame said.
        said: Option<CloseText<'a>>,
    },
    TcpTunnelStart(Box<TcpStart<'a>>),
    /// Base64; `None` when the message had no text there.
    TcpTunnelData {
        data: Option<Cow<'a, str>>,
    },
    TcpTunnelClose {
        reason: Option<Cow<'a, str>>,
    },
    UdpTunnelData(Box<Datagram<'a>>),
    Unknown,
}

impl<'a> ToAgent<'a> {
    pub fn parse(envelope: &Envelope<'a>) -> Self {
        let payload = &envelope.payload;
        match envelope.kind.as_ref() {
            "register_success" => Self::RegisterSuccess(Registered::parse(payload)),
            "register_in_progress" => Self::RegisterInProgress,
            "heartbeat_ack" => Self::HeartbeatAck,
            "ping" => Self::Ping,
            "pong" => Self::Pong,
            "error" => Self::Error(payload.str("error").unwrap_or_default()),
            "gateway_hello" => Self::GatewayHello(GatewayHello::parse(payload)),
            "plane_hello" => Self::PlaneHello {
                features: features(payload),
            },
            "proxy_flow" => Self::ProxyFlow {
                credit: credit(payload),
            },
            "proxy_request" => {
                Self::ProxyRequest(Box::new(ProxyRequest::parse(payload, envelope.timestamp)))
            }
            "proxy_request_chunk" => Self::ProxyRequestChunk {
                data: payload.str("data").or_else(|| payload.str("chunk")),
            },
            "proxy_request_stream_end" => Self::ProxyRequestStreamEnd,
            "proxy_cancel" => Self::ProxyCancel,
            "proxy_websocket_start" | "ws_start" => {
                Self::WebSocketStart(Box::new(StreamStart::parse(envelope)))
            }
            "proxy_websocket_data" | "ws_data" | "proxy_stream_data" => {
                Self::WebSocketData(StreamData::parse(envelope))
            }
            "proxy_websocket_close" | "ws_close" => Self::WebSocketClose {
                ids: StreamIds::parse(envelope),
                said: CloseText::parse(payload),
            },
            "tcp_tunnel_start" => Self::TcpTunnelStart(Box::new(TcpStart::parse(payload))),
            "tcp_tunnel_data" => Self::TcpTunnelData {
                data: payload.str("data"),
            },
            "tcp_tunnel_close" => Self::TcpTunnelClose {
                reason: payload.text("reason"),
            },
            "udp_tunnel_data" => Self::UdpTunnelData(Box::new(Datagram::parse(payload))),
            _ => Self::Unknown,
        }
    }
}

/// `register_success` (control-channel.md §6.5) and the HTTP answer (§12.8), whose
/// shapes are read alike: the first id that isn't empty counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// `cluster_id`, `cluster_uuid`, `cluster.id`, `cluster.uuid`,
    /// `data.cluster_id`, `data.cluster_uuid`; `None` makes it a refusal.
    pub cluster_id: Option<String>,
    pub cluster_uuid: Option<String>,
    pub name: Option<String>,
    pub status: Option<String>,
    /// A ServiceAccount token for this cluster.
    pub token: Option<Secret>,
    pub workspace_id: Option<i64>,
    pub gateway_ws_url: Option<String>,
}

impl Registered {
    pub fn parse(payload: &Payload<'_>) -> Self {
        let cluster = payload.object("cluster").unwrap_or_default();
        let data = payload.object("data").unwrap_or_default();
        let workspace = |p: &Payload<'_>| {
            p.integer("workspace_id")
                .or_else(|| p.text("workspace_id").and_then(|text| text.parse().ok()))
        };
        Self {
            cluster_id: payload
                .string("cluster_id")
                .or_else(|| payload.string("cluster_uuid"))
                .or_else(|| cluster.string("id"))
                .or_else(|| cluster.string("uuid"))
                .or_else(|| data.string("cluster_id"))
                .or_else(|| data.string("cluster_uuid")),
            cluster_uuid: payload
                .string("cluster_uuid")
                .or_else(|| cluster.string("uuid"))
                .or_else(|| data.string("cluster_uuid")),
            name: payload.string("name").or_else(|| cluster.string("name")),
            status: payload
                .string("status")
                .or_else(|| cluster.string("status")),
            token: payload
                .string("token")
                .or_else(|| cluster.string("token"))
                .map(Secret::new),
            workspace_id: workspace(payload).or_else(|| workspace(&cluster)),
            gateway_ws_url: payload.string("gateway_ws_url"),
        }
    }
}

/// `gateway_hello` (control-channel.md §11, tunnels.md §1.2). What it suggests isn't
/// clamped yet; `None`: it says nothing that can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GatewayHello {
    /// Only JSON's `true` is.
    pub use_yamux: bool,
    /// Bytes.
    pub max_stream_window: Option<u32>,
    pub keep_alive_interval: Option<Duration>,
    pub connection_timeout: Option<Duration>,
}

impl GatewayHello {
    fn parse(payload: &Payload<'_>) -> Self {
        let config = payload.object("yamux_config").unwrap_or_default();
        let positive = |name| config.number(name).filter(|number| *number > 0.0);
        // A number of seconds, or, as the original's documentation has it, a text.
        let duration = |name| {
            let text = || crate::duration::parse(&config.text(name)?).ok();
            let limit = MAX_SUGGESTED.as_secs_f64();
            positive(name)
                .map(|seconds| Duration::from_secs_f64(seconds.min(limit)))
                .or_else(|| Some(text()?.value.min(MAX_SUGGESTED)))
                .filter(|value| !value.is_zero())
        };
        Self {
            use_yamux: payload.flag("use_yamux"),
            max_stream_window: positive("max_stream_window_size").map(|bytes| bytes as u32),
            keep_alive_interval: duration("keep_alive_interval_seconds")
                .or_else(|| duration("keep_alive_interval")),
            connection_timeout: duration("connection_timeout_seconds")
                .or_else(|| duration("connection_timeout")),
        }
    }
}

/// Nothing that a hello suggests may last longer.
pub(super) const MAX_SUGGESTED: Duration = Duration::from_hours(24);

pub(in crate::wire) fn features(payload: &Payload<'_>) -> Vec<String> {
    payload.parse("features").unwrap_or_default()
}

pub(in crate::wire) fn credit(payload: &Payload<'_>) -> u64 {
    payload
        .integer("credit")
        .and_then(|credit| u64::try_from(credit).ok())
        .unwrap_or(0)
}
