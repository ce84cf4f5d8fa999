//! Proxied WebSockets (control-channel.md §9, decisions.md §6.7): what both ends say
//! on a stream, once it has begun, and how it begins and ends.

use std::borrow::Cow;

use super::body::BodyText;
use super::encode::{base64, headers, message, number, string};
use super::envelope::{Envelope, Payload};
use super::header_map::HeaderMap;
use crate::http::Headers;

/// The ids of a message about a stream: peers differ in where they put it (T35).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamIds<'a> {
    pub request_id: Option<Cow<'a, str>>,
    pub stream_id: Option<Cow<'a, str>>,
    pub envelope: Option<Cow<'a, str>>,
}

impl<'a> StreamIds<'a> {
    pub(super) fn parse(message: &Envelope<'a>) -> Self {
        Self {
            request_id: message.payload.text("request_id"),
            stream_id: message.payload.text("stream_id"),
            envelope: message.request_id.clone(),
        }
    }

    /// In the order in which they are tried (control-channel.md §9.2).
    pub fn candidates(&self) -> impl Iterator<Item = &str> {
        let ids = [&self.request_id, &self.stream_id, &self.envelope];
        ids.into_iter().flatten().map(AsRef::as_ref)
    }
}

/// `proxy_websocket_start`, `ws_start` (control-channel.md §9.1). Nothing in it is
/// checked.
#[derive(Debug)]
pub struct StreamStart<'a> {
    /// Of the envelope: where errors go while there is no stream.
    pub request_id: Option<Cow<'a, str>>,
    pub stream_id: Option<Cow<'a, str>>,
    /// For people; it is always a GET.
    pub method: Cow<'a, str>,
    pub path: Cow<'a, str>,
    /// Raw, without `?`.
    pub query: Cow<'a, str>,
    pub headers: Headers,
    /// Subprotocols to be offered, a list with commas.
    pub protocol: Cow<'a, str>,
    /// Every message is passed on untouched (feature [`RAW_STREAMS`](super::RAW_STREAMS)).
    pub raw: bool,
    /// A field that is there and can't be read.
    pub unreadable: Option<&'static str>,
    /// There are more header fields than anybody means to send.
    pub oversized: bool,
}

impl<'a> StreamStart<'a> {
    pub(super) fn parse(message: &Envelope<'a>) -> Self {
        let payload = &message.payload;
        let found = payload.parse::<HeaderMap>("headers");
        let is = |name, first| {
            let raw = payload.raw(name);
            raw.is_some_and(|raw| raw.get().starts_with(first))
        };
        let text = ["path", "query", "protocol"];
        let lost_text = text
            .into_iter()
            .find(|name| is(name, '"') && payload.str(name).is_none());
        let lost_headers = found.is_none() && is("headers", '{');
        let HeaderMap { headers, oversized } = found.unwrap_or_default();
        let text = |name| payload.str(name).unwrap_or_default();
        Self {
            request_id: message.request_id.clone(),
            stream_id: payload.text("stream_id"),
            method: text("method"),
            path: text("path"),
            query: text("query"),
            protocol: text("protocol"),
            raw: payload.flag("raw"),
            unreadable: lost_text.or(lost_headers.then_some("headers")),
            headers,
            oversized,
        }
    }
}

/// The plane's `proxy_websocket_start`: a raw stream.
#[derive(Clone, Copy, Debug)]
pub struct RawStart<'a> {
    pub path: &'a str,
    /// Raw, without `?`.
    pub query: &'a str,
    pub headers: &'a Headers,
    /// Subprotocols to be offered, in order.
    pub protocols: &'a [String],
}

pub fn proxy_websocket_start(buf: &mut Vec<u8>, id: &str, start: &RawStart<'_>) {
    message(buf, "proxy_websocket_start", Some(id), |buf| {
        buf.extend_from_slice(b"{\"headers\":");
        headers(buf, start.headers);
        for (name, value) in [
            ("method", "GET"),
            ("path", start.path),
            ("protocol", &start.protocols.join(", ")),
            ("query", start.query),
        ] {
            buf.push(b',');
            string(buf, name);
            buf.push(b':');
            string(buf, value);
        }
        buf.extend_from_slice(b",\"raw\":true,\"stream_id\":");
        string(buf, id);
        buf.push(b'}');
    });
}

/// The upgrade of a raw stream has succeeded, with that subprotocol or none.
pub fn proxy_websocket_started(buf: &mut Vec<u8>, id: &str, protocol: Option<&str>) {
    message(buf, "proxy_websocket_started", Some(id), |buf| {
        buf.push(b'{');
        if let Some(protocol) = protocol {
            buf.extend_from_slice(b"\"protocol\":");
            string(buf, protocol);
            buf.push(b',');
        }
        buf.extend_from_slice(b"\"stream_id\":");
        string(buf, id);
        buf.push(b'}');
    });
}

/// An answer of the API server that isn't 101, for a raw stream: it goes out behind
/// the `proxy_error`'s own fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

/// `proxy_error` of a raw stream whose upgrade the API server refused.
pub fn proxy_websocket_refused(buf: &mut Vec<u8>, id: &str, text: &str, refused: &Refused) {
    message(buf, "proxy_error", Some(id), |buf| {
        buf.push(b'{');
        if !refused.body.is_empty() {
            buf.extend_from_slice(b"\"body\":");
            base64(buf, &refused.body);
            buf.extend_from_slice(b",\"encoding\":\"base64\",");
        }
        buf.extend_from_slice(b"\"error\":");
        string(buf, text);
        buf.extend_from_slice(b",\"headers\":");
        headers(buf, &refused.headers);
        buf.extend_from_slice(b",\"request_id\":");
        string(buf, id);
        buf.extend_from_slice(b",\"status\":");
        number(buf, refused.status);
        buf.push(b'}');
    });
}

/// What a framed payload is (control-channel.md §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    Text = 1,
    Binary = 2,
    /// For app streams only, as the next two.
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }
}

/// A message on a stream, of a K8s stream or a raw one; either direction.
pub fn proxy_websocket_data(buf: &mut Vec<u8>, id: &str, kind: FrameKind, payload: &[u8]) {
    message(buf, "proxy_websocket_data", Some(id), |buf| {
        framed(buf, kind, payload);
        buf.extend_from_slice(b",\"stream_id\":");
        string(buf, id);
        buf.push(b'}');
    });
}

/// A message of an app stream, from the agent.
pub fn app_stream_data(buf: &mut Vec<u8>, id: &str, kind: FrameKind, payload: &[u8]) {
    message(buf, "proxy_websocket_data", Some(id), |buf| {
        framed(buf, kind, payload);
        buf.extend_from_slice(b",\"message_type\":");
        number(buf, kind as u8);
        buf.extend_from_slice(b",\"request_id\":");
        string(buf, id);
        buf.extend_from_slice(b",\"stream_id\":");
        string(buf, id);
        buf.push(b'}');
    });
}

/// Bytes that [`proxy_websocket_data`] takes about, with these of payload.
pub fn data_size(payload: usize) -> usize {
    payload.div_ceil(3) * 4 + 256
}

/// The beginning of an object, straight from where the payload lies.
fn framed(buf: &mut Vec<u8>, kind: FrameKind, payload: &[u8]) {
    buf.extend_from_slice(b"{\"data\":\"");
    let mut text = BodyText::new(buf);
    text.push(&[kind as u8]);
    text.push(payload);
    text.end();
    buf.push(b'"');
}

/// The end of a stream; either direction.
pub fn proxy_websocket_close(buf: &mut Vec<u8>, id: &str) {
    close(buf, id, false, None);
}

/// The end of an app stream, from the agent (T22).
pub fn app_stream_close(buf: &mut Vec<u8>, id: &str) {
    close(buf, id, true, None);
}

/// The end of a raw stream, with what the leg's close frame said; either direction.
/// `None`: the leg ended without one, which is a failure.
pub fn raw_stream_close(buf: &mut Vec<u8>, id: &str, said: Option<&CloseText<'_>>) {
    close(buf, id, false, said);
}

/// What a close frame says. An empty one counts as code 1000.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseText<'a> {
    pub code: u16,
    pub reason: Cow<'a, str>,
}

fn close(buf: &mut Vec<u8>, id: &str, request_id: bool, said: Option<&CloseText<'_>>) {
    message(buf, "proxy_websocket_close", Some(id), |buf| {
        buf.push(b'{');
        if let Some(said) = said {
            buf.extend_from_slice(b"\"code\":");
            number(buf, said.code);
            buf.extend_from_slice(b",\"reason\":");
            string(buf, &said.reason);
            buf.push(b',');
        }
        if request_id {
            buf.extend_from_slice(b"\"request_id\":");
            string(buf, id);
            buf.push(b',');
        }
        buf.extend_from_slice(b"\"stream_id\":");
        string(buf, id);
        buf.push(b'}');
    });
}

impl<'a> CloseText<'a> {
    pub fn into_owned(self) -> CloseText<'static> {
        CloseText {
            code: self.code,
            reason: Cow::Owned(self.reason.into_owned()),
        }
    }

    /// A reason is cut to what a close frame has room for: it may be kept for a while.
    pub(super) fn parse(payload: &Payload<'a>) -> Option<Self> {
        let code = payload.integer("code")?;
        let mut reason = payload.str("reason").unwrap_or_default();
        if reason.len() > MAX_REASON {
            let end = reason.floor_char_boundary(MAX_REASON);
            reason = Cow::Owned(reason[..end].to_owned());
        }
        Some(Self {
            code: u16::try_from(code).ok()?,
            reason,
        })
    }
}

/// An app stream's queue is full: the stream ends (control-channel.md §4.4, T8).
pub fn backpressure(buf: &mut Vec<u8>, id: &str) {
    message(buf, "backpressure", Some(id), |buf| {
        buf.extend_from_slice(b"{\"reason\":\"channel_full\",\"request_id\":");
        string(buf, id);
        buf.push(b'}');
    });
}

/// `proxy_websocket_data`, `ws_data`, `proxy_stream_data`: still in base64.
#[derive(Debug)]
pub struct StreamData<'a> {
    pub ids: StreamIds<'a>,
    /// Absent is like no text: the message is worth nothing.
    pub data: Option<Cow<'a, str>>,
    pub message_type: Option<i64>,
}

impl<'a> StreamData<'a> {
    pub(super) fn parse(message: &Envelope<'a>) -> Self {
        Self {
            ids: StreamIds::parse(message),
            data: message.payload.str("data"),
            message_type: message.payload.integer("message_type"),
        }
    }

    /// How many bytes [`frame`](Self::frame) takes at most.
    pub fn size(&self) -> usize {
        self.data.as_ref().map_or(0, |data| data.len() / 4 * 3)
    }

    /// Decodes it. `None` when there is no base64 text.
    pub fn frame(&self) -> Option<Frame> {
        let data = self.data.as_ref()?;
        let bytes = base64_simd::STANDARD.decode_to_vec(data.as_bytes()).ok()?;
        Some(Frame::new(bytes, self.message_type))
    }
}

/// A decoded message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    bytes: Vec<u8>,
    /// Where the payload begins: behind the type byte, or at once.
    at: usize,
}

impl Frame {
    /// Framed, if the first byte is a type and `message_type` doesn't say another one;
    /// otherwise the bare payload of that type. Without a usable one a payload that
    /// isn't framed is text if it is UTF-8, else binary (T24, decisions.md §6.7).
    fn new(bytes: Vec<u8>, message_type: Option<i64>) -> Self {
        let said = message_type
            .and_then(|said| u8::try_from(said).ok())
            .and_then(FrameKind::from_byte);
        let first = bytes.first().copied().and_then(FrameKind::from_byte);
        let (kind, at) = match (first, said) {
            (Some(first), None) => (first, 1),
            (Some(first), Some(said)) if first == said => (first, 1),
            (_, Some(said)) => (said, 0),
            (None, None) if str::from_utf8(&bytes).is_ok() => (FrameKind::Text, 0),
            (None, None) => (FrameKind::Binary, 0),
        };
        Self { kind, bytes, at }
    }

    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// To be masked where it lies.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.at..]
    }

    /// The payload with this byte in front of it.
    #[must_use]
    pub fn prefixed(mut self, byte: u8) -> Self {
        if self.at == 0 {
            self.bytes.insert(0, byte);
        } else {
            self.at -= 1;
            self.bytes[self.at] = byte;
        }
        self
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Bytes of reason in a close frame at most (RFC 6455 §5.5).
pub(crate) const MAX_REASON: usize = 123;

#[cfg(test)]
mod tests;
