//! Messages from the peer to the agent: parsed by the agent, written by our plane.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

use super::encode::{base64, empty, headers, message, number, serialized, string};
use super::envelope::{Envelope, Payload};
use super::request::ProxyRequest;
use super::tunnel::{Datagram, TcpStart};
use crate::config::Secret;
use crate::http::Headers;

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
    WebSocketStart {
        stream_id: Option<Cow<'a, str>>,
    },
    /// `proxy_websocket_data`, `ws_data`, `proxy_stream_data`.
    WebSocketData,
    /// `proxy_websocket_close`, `ws_close`.
    WebSocketClose,
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
            "proxy_websocket_start" | "ws_start" => Self::WebSocketStart {
                stream_id: payload.text("stream_id"),
            },
            "proxy_websocket_data" | "ws_data" | "proxy_stream_data" => Self::WebSocketData,
            "proxy_websocket_close" | "ws_close" => Self::WebSocketClose,
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
const MAX_SUGGESTED: Duration = Duration::from_hours(24);

pub(super) fn features(payload: &Payload<'_>) -> Vec<String> {
    payload.parse("features").unwrap_or_default()
}

pub(super) fn credit(payload: &Payload<'_>) -> u64 {
    payload
        .integer("credit")
        .and_then(|credit| u64::try_from(credit).ok())
        .unwrap_or(0)
}

// What our plane sends.

/// The payload of `register_success` as the plane writes it.
#[derive(Clone, Debug, Serialize)]
pub struct RegisterSuccess<'a> {
    pub cluster_id: &'a str,
    pub cluster_uuid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_ws_url: Option<&'a str>,
    pub name: &'a str,
    pub status: &'a str,
    pub workspace_id: i64,
}

pub fn register_success(buf: &mut Vec<u8>, id: &str, payload: &RegisterSuccess<'_>) {
    serialized(buf, "register_success", Some(id), payload);
}

pub fn heartbeat_ack(buf: &mut Vec<u8>) {
    message(buf, "heartbeat_ack", None, |buf| {
        buf.extend_from_slice(b"{\"received_at\":");
        string(buf, &super::now_rfc3339());
        buf.push(b'}');
    });
}

pub fn error(buf: &mut Vec<u8>, id: Option<&str>, text: &str) {
    message(buf, "error", id, |buf| {
        buf.extend_from_slice(b"{\"error\":");
        string(buf, text);
        buf.push(b'}');
    });
}

/// First message of our plane on every connection (decisions.md §6.2).
pub fn plane_hello(buf: &mut Vec<u8>, features: &[&str]) {
    features_message(buf, "plane_hello", features);
}

/// Offers yamux on this connection (control-channel.md §11).
pub fn gateway_hello(buf: &mut Vec<u8>, config: &YamuxConfig) {
    #[derive(Serialize)]
    struct Hello<'a> {
        use_yamux: bool,
        yamux_config: &'a YamuxConfig,
    }
    let hello = Hello {
        use_yamux: true,
        yamux_config: config,
    };
    serialized(buf, "gateway_hello", None, &hello);
}

/// What [`gateway_hello`] suggests.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct YamuxConfig {
    /// Bytes to which the agent may let a stream's receive window grow.
    pub max_stream_window_size: u32,
    pub keep_alive_interval_seconds: u64,
    pub connection_timeout_seconds: u64,
}

pub(super) fn features_message(buf: &mut Vec<u8>, kind: &str, features: &[&str]) {
    #[derive(Serialize)]
    struct Hello<'a> {
        features: &'a [&'a str],
    }
    serialized(buf, kind, None, &Hello { features });
}

/// More decoded bytes of `id` may be sent by the receiver; either direction.
pub fn proxy_flow(buf: &mut Vec<u8>, id: &str, credit: u64) {
    message(buf, "proxy_flow", Some(id), |buf| {
        buf.extend_from_slice(b"{\"credit\":");
        number(buf, credit);
        buf.push(b'}');
    });
}

/// A `proxy_request` of form S whose body, if any, follows in chunks.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Decoded.
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a Headers,
    pub streamed_body: bool,
    pub stream_response: bool,
    pub scheme: &'a str,
    pub timeout: Option<Duration>,
}

pub fn proxy_request(buf: &mut Vec<u8>, id: &str, request: &Request<'_>) {
    message(buf, "proxy_request", Some(id), |buf| {
        buf.extend_from_slice(b"{\"headers\":");
        headers(buf, request.headers);
        buf.extend_from_slice(b",\"method\":");
        string(buf, request.method);
        buf.extend_from_slice(b",\"path\":");
        string(buf, request.path);
        buf.extend_from_slice(b",\"query\":");
        string(buf, request.query);
        buf.extend_from_slice(b",\"scheme\":");
        string(buf, request.scheme);
        if request.stream_response {
            buf.extend_from_slice(b",\"supports_response_streaming\":true");
        }
        if let Some(timeout) = request.timeout {
            buf.extend_from_slice(b",\"timeout\":");
            number(buf, u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        }
        if request.streamed_body {
            buf.extend_from_slice(b",\"use_streaming\":true");
        }
        buf.push(b'}');
    });
}

pub fn proxy_request_chunk(buf: &mut Vec<u8>, id: &str, data: &[u8]) {
    message(buf, "proxy_request_chunk", Some(id), |buf| {
        buf.extend_from_slice(b"{\"data\":");
        base64(buf, data);
        buf.push(b'}');
    });
}

pub fn proxy_request_stream_end(buf: &mut Vec<u8>, id: &str) {
    empty(buf, "proxy_request_stream_end", Some(id));
}

pub fn proxy_cancel(buf: &mut Vec<u8>, id: &str) {
    empty(buf, "proxy_cancel", Some(id));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(payload: &str) -> Registered {
        let text = format!(r#"{{"type":"register_success","request_id":"r","payload":{payload}}}"#);
        let envelope = Envelope::parse(&text).expect("valid");
        match ToAgent::parse(&envelope) {
            ToAgent::RegisterSuccess(registered) => registered,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_shape_of_the_cluster_id() {
        for (payload, id) in [
            (r#"{"cluster_id":"a","cluster_uuid":"b"}"#, Some("a")),
            (r#"{"cluster_id":"","cluster_uuid":"b"}"#, Some("b")),
            (r#"{"cluster":{"id":"c","uuid":"d"}}"#, Some("c")),
            (r#"{"cluster":{"uuid":"d"}}"#, Some("d")),
            (r#"{"data":{"cluster_id":"e"}}"#, Some("e")),
            (r#"{"data":{"cluster_uuid":"f"}}"#, Some("f")),
            (r#"{"cluster_id":7}"#, None),
            ("{}", None),
        ] {
            assert_eq!(registered(payload).cluster_id.as_deref(), id, "{payload}");
        }
    }

    #[test]
    fn workspace_ids_as_number_and_text() {
        assert_eq!(registered(r#"{"workspace_id":42}"#).workspace_id, Some(42));
        assert_eq!(
            registered(r#"{"workspace_id":"42"}"#).workspace_id,
            Some(42)
        );
        let answer = registered(r#"{"cluster":{"workspace_id":"42","token":"hunter2"}}"#);
        assert!(!format!("{answer:?}").contains("hunter2"));
        assert_eq!(answer.token, Some(Secret::new("hunter2")));
    }

    fn hello(payload: &str) -> GatewayHello {
        let text = format!(r#"{{"type":"gateway_hello","payload":{payload}}}"#);
        let envelope = Envelope::parse(&text).expect("valid");
        match ToAgent::parse(&envelope) {
            ToAgent::GatewayHello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn x15_only_true_asks_for_yamux() {
        assert!(hello(r#"{"use_yamux":true}"#).use_yamux);
        for other in [
            "{}",
            r#"{"use_yamux":"true"}"#,
            r#"{"use_yamux":1}"#,
            r#"{"use_yamux":null}"#,
        ] {
            assert!(!hello(other).use_yamux, "{other}");
        }
    }

    #[test]
    fn what_a_hello_suggests_in_every_spelling() {
        let config =
            |config: &str| hello(&format!(r#"{{"use_yamux":true,"yamux_config":{config}}}"#));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let usual = config(
            r#"{"max_stream_window_size":524288,"keep_alive_interval_seconds":20,"connection_timeout_seconds":7}"#,
        );
        assert_eq!(usual.max_stream_window, Some(524_288));
        assert_eq!(usual.keep_alive_interval, seconds(20));
        assert_eq!(usual.connection_timeout, seconds(7));
        let documented = config(r#"{"accept_backlog":256,"keep_alive_interval":"1m30s"}"#);
        assert_eq!(documented.keep_alive_interval, seconds(90));
        let text = config(r#"{"keep_alive_interval_seconds":"15s","connection_timeout":"9"}"#);
        assert_eq!(text.keep_alive_interval, seconds(15));
        assert_eq!(text.connection_timeout, seconds(9));
        // What has the wrong type, or no sense, is as if it weren't there.
        for nothing in [
            "[]",
            r#"{"max_stream_window_size":"1","keep_alive_interval_seconds":true,"connection_timeout_seconds":"soon"}"#,
            r#"{"max_stream_window_size":-1,"keep_alive_interval_seconds":0,"connection_timeout_seconds":[]}"#,
        ] {
            let want = GatewayHello {
                use_yamux: true,
                ..GatewayHello::default()
            };
            assert_eq!(config(nothing), want, "{nothing}");
        }
        let absurd = config(
            r#"{"max_stream_window_size":1e300,"keep_alive_interval_seconds":1e300,"connection_timeout":"9999h"}"#,
        );
        assert_eq!(absurd.max_stream_window, Some(u32::MAX));
        assert_eq!(absurd.keep_alive_interval, Some(MAX_SUGGESTED));
        assert_eq!(absurd.connection_timeout, Some(MAX_SUGGESTED));
    }

    #[test]
    fn the_planes_hello_is_read_as_it_was_meant() {
        let mut buf = Vec::new();
        let suggested = YamuxConfig {
            max_stream_window_size: 1 << 20,
            keep_alive_interval_seconds: 25,
            connection_timeout_seconds: 10,
        };
        gateway_hello(&mut buf, &suggested);
        let envelope = Envelope::parse(str::from_utf8(&buf).expect("text")).expect("valid");
        let ToAgent::GatewayHello(hello) = ToAgent::parse(&envelope) else {
            panic!()
        };
        let want = GatewayHello {
            use_yamux: true,
            max_stream_window: Some(1 << 20),
            keep_alive_interval: Some(Duration::from_secs(25)),
            connection_timeout: Some(Duration::from_secs(10)),
        };
        assert_eq!(hello, want);
    }

    #[test]
    fn both_spellings_of_a_chunk() {
        for name in ["data", "chunk"] {
            let text = format!(
                r#"{{"type":"proxy_request_chunk","request_id":"r","payload":{{"{name}":"aGk="}}}}"#
            );
            let envelope = Envelope::parse(&text).expect("valid");
            let ToAgent::ProxyRequestChunk { data } = ToAgent::parse(&envelope) else {
                panic!()
            };
            assert_eq!(data.as_deref(), Some("aGk="));
        }
    }

    #[test]
    fn what_the_plane_writes_the_agent_reads() {
        let headers: Headers = [("Accept", "a"), ("X", "1"), ("X", "2")]
            .into_iter()
            .collect();
        let mut buf = Vec::new();
        proxy_request(
            &mut buf,
            "r-1",
            &Request {
                method: "PATCH",
                path: "/api/ü\"",
                query: "a=b&c",
                headers: &headers,
                streamed_body: true,
                stream_response: true,
                scheme: "https",
                timeout: Some(Duration::from_secs(3)),
            },
        );
        let text = String::from_utf8(buf).expect("text");
        let envelope = Envelope::parse(&text).expect("valid");
        assert_eq!(envelope.request_id.as_deref(), Some("r-1"));
        let ToAgent::ProxyRequest(request) = ToAgent::parse(&envelope) else {
            panic!()
        };
        assert_eq!(
            (request.method.as_str(), request.path.as_ref()),
            ("PATCH", "/api/ü\"")
        );
        assert_eq!(request.headers, headers);
        assert_eq!(request.timeout, Some(Duration::from_secs(3)));
        assert!(request.stream_response && !request.upgrade);
        assert!(matches!(request.body, super::super::RequestBody::Streamed));
    }
}
