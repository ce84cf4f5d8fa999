//! `proxy_request` (control-channel.md §8.1).

use std::borrow::Cow;
use std::time::Duration;

use serde_json::value::RawValue;

use super::envelope::Payload;
use super::header_map::HeaderMap;
use crate::duration;
use crate::http::Headers;

/// One request to be executed. What can be long borrows from the message.
#[derive(Debug)]
pub struct ProxyRequest<'a> {
    /// Upper case; GET when empty. Not checked to be a token.
    pub method: String,
    /// Decoded, as the gateway forwards it; not checked.
    pub path: Cow<'a, str>,
    /// Raw, without `?`; not checked.
    pub query: Cow<'a, str>,
    pub headers: Headers,
    pub body: RequestBody<'a>,
    /// The answer is wanted in form S.
    pub stream_response: bool,
    /// The client's scheme.
    pub scheme: Option<Cow<'a, str>>,
    pub deadline: Option<jiff::Timestamp>,
    /// At most 24 h.
    pub timeout: Option<Duration>,
    /// The envelope's own time: `deadline` counts from it, because clocks at the
    /// edge are wrong (decisions.md §6.2).
    pub sent_at: Option<jiff::Timestamp>,
    /// A WebSocket upgrade by field, `protocol` or header (control-channel.md §8.3 step 3).
    pub upgrade: bool,
    pub service: ServiceTarget<'a>,
    /// A field that is there and can't be read, although its type is right (half a
    /// surrogate pair, say) or it says who calls or where to: without it the request
    /// would be another one, a DELETE without its selector or a call in another name.
    pub unreadable: Option<&'static str>,
    /// There are more header fields than anybody means to send; `headers` has only
    /// the first of them.
    pub oversized: bool,
}

/// Where the body of a request is.
#[derive(Debug)]
pub enum RequestBody<'a> {
    None,
    /// To be decoded strictly; bad base64 fails the request.
    Base64(Cow<'a, str>),
    Text(Cow<'a, str>),
    /// An object or array: its text as it came.
    Json(&'a RawValue),
    /// In the next message, which must be binary (control-channel.md §5.3).
    BinaryFollows,
    /// In `proxy_request_chunk` messages (control-channel.md §8.2).
    Streamed,
}

/// The fields that name a cluster Service, unchecked.
#[derive(Debug, Default)]
pub struct ServiceTarget<'a> {
    pub name: Option<Cow<'a, str>>,
    pub namespace: Option<Cow<'a, str>>,
    pub port: Option<i64>,
}

impl<'a> ProxyRequest<'a> {
    pub fn parse(payload: &Payload<'a>, sent_at: Option<jiff::Timestamp>) -> Self {
        let method = payload
            .text("method")
            .map_or_else(|| "GET".to_owned(), |m| m.to_uppercase());
        let HeaderMap {
            mut headers,
            oversized,
        } = payload.parse("headers").unwrap_or_default();
        let body = body(payload);
        let unreadable = unreadable(payload, &headers, &body);
        let mut upgrade = payload.flag("is_websocket") || payload.flag("isWebSocket");
        if let Some(protocol) = payload.text("protocol").filter(|p| !p.trim().is_empty()) {
            upgrade = true;
            if !headers.contains("Sec-WebSocket-Protocol") {
                headers.push("Sec-WebSocket-Protocol", protocol);
            }
        }
        upgrade |= has_upgrade_headers(&headers);
        Self {
            method,
            path: payload.str("path").unwrap_or_default(),
            query: payload.str("query").unwrap_or_default(),
            body,
            stream_response: payload.flag("supports_response_streaming"),
            scheme: payload.text("scheme"),
            deadline: payload
                .time("deadline")
                .filter(|time| time.as_second() > ZERO_TIME),
            timeout: timeout(payload),
            sent_at: sent_at.filter(|time| time.as_second() > ZERO_TIME),
            upgrade,
            service: ServiceTarget {
                name: payload.text("service_name"),
                namespace: payload.text("namespace"),
                port: payload.integer("service_port"),
            },
            headers,
            unreadable,
            oversized,
        }
    }

    /// The next message must be its body (control-channel.md §5.3).
    pub fn wants_binary_body(&self) -> bool {
        matches!(self.body, RequestBody::BinaryFollows)
    }
}

fn unreadable(
    payload: &Payload<'_>,
    headers: &Headers,
    body: &RequestBody<'_>,
) -> Option<&'static str> {
    let is = |name, first| {
        payload
            .raw(name)
            .is_some_and(|raw| raw.get().starts_with(first))
    };
    let text = ["method", "path", "query"];
    let text = text
        .into_iter()
        .find(|name| is(name, '"') && payload.str(name).is_none());
    let lost_body =
        matches!(body, RequestBody::None) && is("body", '"') && payload.str("body").is_none();
    let lost_headers =
        headers.is_empty() && is("headers", '{') && payload.parse::<HeaderMap>("headers").is_none();
    // Without one of these the target would be another one.
    let given = |name| payload.raw(name).filter(|raw| raw.get() != "null");
    let target = ["service_name", "namespace", "scheme"];
    let target = target
        .into_iter()
        .find(|name| given(name).is_some() && payload.str(name).is_none());
    let port = given("service_port").is_some() && payload.number("service_port").is_none();
    let target = target.or(port.then_some("service_port"));
    text.or(target)
        .or(lost_body.then_some("body"))
        .or(lost_headers.then_some("headers"))
}

fn has_upgrade_headers(headers: &Headers) -> bool {
    let blank = |name| headers.get_all(name).all(|value| value.trim().is_empty());
    headers
        .list("Upgrade")
        .any(|value| value.eq_ignore_ascii_case("websocket"))
        || !blank("Sec-WebSocket-Key")
        || !blank("Sec-WebSocket-Version")
        || !blank("Sec-WebSocket-Protocol")
}

fn body<'a>(payload: &Payload<'a>) -> RequestBody<'a> {
    if payload.flag("use_streaming") || payload.flag("streaming") {
        return RequestBody::Streamed;
    }
    if payload.flag("body_binary") {
        return RequestBody::BinaryFollows;
    }
    let Some(raw) = payload.raw("body") else {
        return RequestBody::None;
    };
    if let Some(text) = payload.str("body") {
        let encoding = payload
            .text("body_encoding")
            .or_else(|| payload.text("encoding"));
        let base64 = encoding.is_some_and(|encoding| encoding.eq_ignore_ascii_case("base64"));
        return match text {
            text if text.is_empty() => RequestBody::None,
            text if base64 => RequestBody::Base64(text),
            text => RequestBody::Text(text),
        };
    }
    match raw.get().as_bytes().first() {
        Some(b'{' | b'[') => RequestBody::Json(raw),
        _ => RequestBody::None,
    }
}

/// Numbers are milliseconds, unless that would be over a day: then a Go peer has
/// written its nanoseconds (control-channel.md T32).
fn timeout(payload: &Payload<'_>) -> Option<Duration> {
    let limit = match payload.number("timeout") {
        Some(number) if number > MAX_TIMEOUT_MS => {
            Duration::from_nanos(number.min(u64::MAX as f64) as u64)
        }
        Some(number) if number > 0.0 => Duration::from_secs_f64(number / 1e3),
        Some(_) => return None,
        None => {
            let text = payload.text("timeout")?;
            duration::parse(&text)
                .ok()
                .filter(|parsed| !parsed.bare)?
                .value
        }
    };
    (!limit.is_zero()).then(|| limit.min(MAX_TIMEOUT))
}

/// Go's zero time is in the year 1; nothing before 1970 is a usable time.
const ZERO_TIME: i64 = 0;
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const MAX_TIMEOUT_MS: f64 = 86_400_000.0;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
