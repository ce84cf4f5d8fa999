//! Messages from the agent to the peer: written by the agent, parsed by our plane.

mod parsed;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::body::BodyText;
use super::encode::{empty, headers, message, number, serialized, string};
use super::to_agent::features_message;
use crate::http::Headers;

pub use parsed::{FromAgent, HeartbeatReport, Registration, ResponseBody};

/// `register` (control-channel.md §6.1). Field order is the order on the wire.
#[derive(Clone, Debug, Serialize)]
pub struct Register<'a> {
    pub agent_id: &'a str,
    pub agent_version: &'a str,
    pub cloud_provider: &'a str,
    /// The stored id: asks to be attached to that cluster again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<&'a str>,
    pub features: Features,
    pub hostname: &'a str,
    /// The ServiceAccount token that the control plane will use. Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_service_token: Option<&'a str>,
    /// Empty when it can't be read (decisions.md §6.1).
    pub k8s_version: &'a str,
    pub labels: BTreeMap<&'a str, &'a str>,
    pub metadata: BTreeMap<&'a str, &'a str>,
    pub name: &'a str,
    pub region: &'a str,
    pub server_ip: &'a str,
    pub server_specs: ServerSpecs<'a>,
    pub tunnel_port_config: TunnelPortConfig,
}

/// The body of HTTP mode's registration (control-channel.md §12.8): what WebSocket
/// registration has, flat, and what it leaves out (T17). Two fields of that section
/// are never sent: those of monitoring, which isn't built, and `cluster_url`, because
/// an agent behind a firewall has no URL at which others could reach its cluster.
#[derive(Clone, Debug, Serialize)]
pub struct HttpRegister<'a> {
    #[serde(flatten)]
    pub register: &'a Register<'a>,
    /// Base64 of the cluster's CA certificates (PEM); empty where there is none.
    pub cluster_cert_data: &'a str,
    /// As `name`.
    pub cluster_name: &'a str,
    /// Now.
    pub last_seen: String,
    /// Which image registry is near: `us` or `eu`.
    pub registry_region: &'a str,
    /// As `server_ip`.
    pub server_code: &'a str,
    /// Of the agent.
    pub status: &'a str,
}

/// What this agent can do; all true, as the original says.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Features {
    pub supports_binary_protocol: bool,
    pub supports_compression: bool,
    pub supports_gateway: bool,
    pub supports_response_streaming: bool,
    pub supports_streaming: bool,
    pub supports_websocket_proxy: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            supports_binary_protocol: true,
            supports_compression: true,
            supports_gateway: true,
            supports_response_streaming: true,
            supports_streaming: true,
            supports_websocket_proxy: true,
        }
    }
}

/// The machine; what is zero or empty is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ServerSpecs<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_cores: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_gb: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub disk_gb: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub os: &'a str,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde wants a reference
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// A constant of the wire.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TunnelPortConfig {
    pub kubernetes_api: u16,
    pub kubelet: u16,
    pub agent_http: u16,
}

impl Default for TunnelPortConfig {
    fn default() -> Self {
        Self {
            kubernetes_api: 6443,
            kubelet: 10250,
            agent_http: 8080,
        }
    }
}

pub fn register(buf: &mut Vec<u8>, id: &str, payload: &Register<'_>) {
    serialized(buf, "register", Some(id), payload);
}

/// `heartbeat` (control-channel.md §7.1).
#[derive(Clone, Debug, Serialize)]
pub struct Heartbeat<'a> {
    pub agent_id: &'a str,
    pub cluster_id: &'a str,
    pub metadata: HeartbeatMetadata<'a>,
    /// `healthy`, `reconnecting`, `disconnected`.
    pub status: &'a str,
    /// `connected`, `disconnected`.
    pub tunnel_status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_join: Option<&'a WorkerJoin>,
}

/// How another machine joins a k3s cluster. Secret: it carries the join token.
#[derive(Clone, Serialize)]
pub struct WorkerJoin {
    pub commands: [String; 2],
    pub env: BTreeMap<&'static str, String>,
    pub generated_at: String,
    pub provider: &'static str,
    pub server_url: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct HeartbeatMetadata<'a> {
    pub agent_version: &'a str,
    /// A constant of the wire: `0%`.
    pub cpu_usage: &'a str,
    pub gateway_routes: u64,
    pub is_private: bool,
    pub k8s_nodes: u64,
    pub k8s_pods: u64,
    pub k8s_version: &'a str,
    /// A constant of the wire: `0%`.
    pub memory_usage: &'a str,
}

impl fmt::Debug for WorkerJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerJoin")
            .field("server_url", &self.server_url)
            .finish_non_exhaustive()
    }
}

pub fn heartbeat(buf: &mut Vec<u8>, payload: &Heartbeat<'_>) {
    serialized(buf, "heartbeat", None, payload);
}

/// Answer to `ping` (control-channel.md §4.1).
pub fn pong(buf: &mut Vec<u8>, id: Option<&str>) {
    message(buf, "pong", id, |buf| {
        buf.extend_from_slice(b"{\"timestamp\":");
        string(buf, &super::now_rfc3339());
        buf.push(b'}');
    });
}

/// Answer to the first message of an unknown type (control-channel.md §4.3).
pub fn protocol_fallback(buf: &mut Vec<u8>, unknown_type: &str, original_request_id: Option<&str>) {
    #[derive(Serialize)]
    struct Fallback<'a> {
        agent_version: &'a str,
        fallback_mode: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        original_request_id: Option<String>,
        protocol_version: &'a str,
        supported_types: &'a [&'a str],
        timestamp: String,
        unknown_type: &'a str,
    }
    let now = jiff::Timestamp::now();
    let seconds = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    let fallback = Fallback {
        agent_version: "pipeops-k8-agent",
        fallback_mode: "legacy_proxy",
        original_request_id: original_request_id.map(|id| id.replace(['\r', '\n'], "")),
        protocol_version: "1.0",
        supported_types: SUPPORTED_TYPES,
        timestamp: seconds.to_string(),
        unknown_type,
    };
    serialized(buf, "protocol_fallback", None, &fallback);
}

/// Answer to `plane_hello` (decisions.md §6.2): the features that both know.
pub fn plane_hello_ack(buf: &mut Vec<u8>, features: &[&str]) {
    features_message(buf, "plane_hello_ack", features);
}

pub use super::stream::{
    app_stream_close, app_stream_data, backpressure, proxy_websocket_close, proxy_websocket_data,
    proxy_websocket_refused, proxy_websocket_started, raw_stream_close,
};
pub use super::to_agent::proxy_flow;
pub use super::tunnel::{tcp_tunnel_close, tcp_tunnel_data, udp_tunnel_data};

/// Answer to a `gateway_hello` that offers yamux (tunnels.md §1.3): binary messages
/// are yamux's from here on.
pub fn gateway_hello_ack(buf: &mut Vec<u8>) {
    message(buf, "gateway_hello_ack", None, |buf| {
        buf.extend_from_slice(b"{\"use_yamux\":true}");
    });
}

/// How the body of a buffered answer is written (control-channel.md §8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `body` is base64 of the body.
    Base64,
    /// `body` is base64 of the gzipped body.
    Gzip,
}

/// Form B. `body` writes the body, in pieces if it likes, and says what it wrote. After
/// its error `buf` holds half a message.
pub fn proxy_response<E>(
    buf: &mut Vec<u8>,
    id: &str,
    status: u16,
    fields: &Headers,
    body: impl FnOnce(&mut BodyText<'_>) -> Result<Encoding, E>,
) -> Result<(), E> {
    let mut result = Ok(());
    message(buf, "proxy_response", Some(id), |buf| {
        let start = buf.len();
        buf.extend_from_slice(b"{\"body\":\"");
        let text = buf.len();
        let mut writer = BodyText::new(buf);
        match body(&mut writer) {
            Ok(encoding) => {
                writer.end();
                let encoding: &[u8] = match encoding {
                    _ if buf.len() == text => {
                        buf.truncate(start);
                        b"{"
                    }
                    Encoding::Base64 => b"\",\"encoding\":\"base64\",",
                    Encoding::Gzip => b"\",\"encoding\":\"gzip\",",
                };
                buf.extend_from_slice(encoding);
                status_and_headers(buf, status, fields);
                buf.push(b'}');
            }
            Err(error) => result = Err(error),
        }
    });
    result
}

/// Form S, first.
pub fn proxy_response_header(buf: &mut Vec<u8>, id: &str, status: u16, fields: &Headers) {
    message(buf, "proxy_response_header", Some(id), |buf| {
        buf.push(b'{');
        status_and_headers(buf, status, fields);
        buf.push(b'}');
    });
}

fn status_and_headers(buf: &mut Vec<u8>, status: u16, fields: &Headers) {
    buf.extend_from_slice(b"\"headers\":");
    headers(buf, fields);
    buf.extend_from_slice(b",\"status\":");
    number(buf, status);
}

/// Form S, a piece of the body, which `data` writes: never empty, at most
/// [`MAX_CHUNK`](super::MAX_CHUNK) bytes.
pub fn proxy_response_chunk(buf: &mut Vec<u8>, id: &str, data: impl FnOnce(&mut BodyText<'_>)) {
    message(buf, "proxy_response_chunk", Some(id), |buf| {
        buf.extend_from_slice(b"{\"data\":\"");
        let mut text = BodyText::new(buf);
        data(&mut text);
        let length = text.length();
        debug_assert!((1..=super::MAX_CHUNK).contains(&length));
        text.end();
        buf.extend_from_slice(b"\",\"encoding\":\"base64\",\"size\":");
        number(buf, length as u64);
        buf.push(b'}');
    });
}

/// Form S, the good end.
pub fn proxy_response_end(buf: &mut Vec<u8>, id: &str) {
    empty(buf, "proxy_response_end", Some(id));
}

/// Form S, the bad end; may come without a header before it.
pub fn proxy_response_abort(buf: &mut Vec<u8>, id: &str, text: &str) {
    error_message(buf, "proxy_response_abort", id, text);
}

/// The bad end of form B (control-channel.md §8.7).
pub fn proxy_error(buf: &mut Vec<u8>, id: &str, text: &str) {
    error_message(buf, "proxy_error", id, text);
}

fn error_message(buf: &mut Vec<u8>, kind: &str, id: &str, text: &str) {
    message(buf, kind, Some(id), |buf| {
        buf.extend_from_slice(b"{\"error\":");
        string(buf, text);
        buf.push(b'}');
    });
}

/// `proxy_error` for a WebSocket stream, which repeats the id in the payload.
pub fn proxy_stream_error(buf: &mut Vec<u8>, id: &str, text: &str) {
    message(buf, "proxy_error", Some(id), |buf| {
        buf.extend_from_slice(b"{\"error\":");
        string(buf, text);
        buf.extend_from_slice(b",\"request_id\":");
        string(buf, id);
        buf.push(b'}');
    });
}

/// As the original lists them, completed by what it forgot (control-channel.md §4.3).
const SUPPORTED_TYPES: &[&str] = &[
    "register_success",
    "register_in_progress",
    "heartbeat_ack",
    "pong",
    "ping",
    "proxy_request",
    "proxy_request_chunk",
    "proxy_request_stream_end",
    "proxy_cancel",
    "proxy_stream_data",
    "proxy_websocket_start",
    "proxy_websocket_data",
    "proxy_websocket_close",
    "ws_start",
    "ws_data",
    "ws_close",
    "error",
    "gateway_hello",
    "tcp_tunnel_start",
    "tcp_tunnel_data",
    "tcp_tunnel_close",
    "udp_tunnel_data",
];

#[cfg(test)]
mod tests;
