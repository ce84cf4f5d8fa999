//! Messages from the peer to the agent: parsed by the agent, written by our plane.

mod parsed;

use std::time::Duration;

use serde::Serialize;

use super::encode::{base64, empty, headers, message, number, serialized, string};
use crate::http::Headers;

pub use super::stream::{RawStart, proxy_websocket_data, proxy_websocket_start, raw_stream_close};
pub use parsed::{GatewayHello, Registered, ToAgent};
pub(super) use parsed::{credit, features};

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
mod tests;
