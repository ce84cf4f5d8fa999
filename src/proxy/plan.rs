//! From a `proxy_request` to the call that will be made: the rules of
//! decisions.md §6.2 "Headers of a peer" and "Identity". Pure.

use crate::http::{
    Headers, MAX_FIELDS, MAX_HEAD, decode_query, encode_path, encode_query, is_field_value,
    is_token, trim_blanks,
};
use crate::percent;
use crate::wire::{ProxyRequest, RequestBody};

/// A call, checked and encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) method: String,
    /// Origin form.
    pub(super) target: String,
    /// What `Host` says at a Service, where the peer says so; otherwise it is ours.
    pub(super) host: Option<String>,
    /// What of the peer's fields may be sent.
    pub(super) headers: Headers,
    pub(super) identity: Identity,
    /// The caller's own `Content-Length`; only a streamed body keeps it
    /// (control-channel.md T41).
    pub(super) length: Option<u64>,
    /// A watch or a followed log: may go on for as long as it likes.
    pub(super) live: bool,
}

/// As whom a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// As whoever the caller's `Authorization` says, or as nobody.
    Caller,
    /// As the agent (`kubernetes.impersonate_agent`).
    Agent,
}

/// Why a request can't become a call. The texts never show a value that the peer
/// sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlanError {
    #[error("its {0} cannot be read")]
    Unreadable(&'static str),
    #[error("method {0} is not allowed")]
    Method(String),
    #[error("invalid path: it has a '.' or '..' segment")]
    DotSegment,
    #[error("invalid path: it has '..' or '://', or does not begin with '/'")]
    Path,
    #[error("invalid query string: it has characters that cannot stand there")]
    Query,
    #[error("invalid header name {0}")]
    HeaderName(String),
    #[error("invalid value of header {0}")]
    HeaderValue(String),
    #[error("invalid or more than one Host header")]
    Host,
    #[error("more than one Authorization header")]
    TwoAuthorizations,
    #[error("the Connection header names {0}")]
    ConnectionNames(String),
    #[error("invalid Content-Length")]
    ContentLength,
    #[error(
        "the request head is larger than {MAX_HEAD} bytes or has more than {MAX_FIELDS} fields"
    )]
    TooLarge,
}

impl Plan {
    /// To the API server. `base` is what paths there begin with; `lend`: the agent's
    /// own identity is lent to requests without `Authorization`.
    pub(super) fn for_api(
        request: &ProxyRequest<'_>,
        base: &str,
        lend: bool,
    ) -> Result<Self, PlanError> {
        check(request)?;
        if request.path.is_empty() {
            // A payload that is none must not become `GET /`.
            return Err(PlanError::Unreadable("path"));
        }
        let (headers, identity) = headers(&request.headers, lend)?;
        Self::of(
            request,
            target(base, &request.path, &request.query)?,
            headers,
            identity,
        )
    }

    /// To a Service or an origin (control-channel.md §8.5): under the client's own
    /// `Host`, never under an identity of the agent's.
    pub(super) fn for_service(request: &ProxyRequest<'_>) -> Result<Self, PlanError> {
        check(request)?;
        if request.path.is_empty() && request.service.name.is_none() {
            return Err(PlanError::Unreadable("path"));
        }
        let (headers, identity) = service_headers(request)?;
        let target = service_target(&request.path, &request.query)?;
        let plan = Self::of(request, target, headers, identity)?;
        Ok(Self {
            host: host(&request.headers, "Host")?,
            ..plan
        })
    }

    fn of(
        request: &ProxyRequest<'_>,
        target: String,
        headers: Headers,
        identity: Identity,
    ) -> Result<Self, PlanError> {
        if !is_token(&request.method) || matches!(request.method.as_str(), "CONNECT" | "TRACE") {
            return Err(PlanError::Method(printable(&request.method)));
        }
        let length = match request.body {
            RequestBody::Streamed => content_length(&request.headers)?,
            _ => None,
        };
        let plan = Self {
            method: request.method.clone(),
            target,
            host: None,
            headers,
            identity,
            length,
            live: is_live(&request.path, &request.query),
        };
        let fields = plan.headers.iter().map(|(n, v)| n.len() + v.len() + 4);
        let size = plan.target.len() + fields.sum::<usize>();
        // Room for what is ours to add.
        if size > MAX_HEAD - 8 * 1024 || plan.headers.len() > MAX_FIELDS - 8 {
            return Err(PlanError::TooLarge);
        }
        Ok(plan)
    }

    /// Bytes of memory that it takes, about.
    pub(super) fn size(&self) -> usize {
        const FIELD: usize = 2 * size_of::<String>();
        let fields = self.headers.iter().map(|(n, v)| FIELD + n.len() + v.len());
        self.method.len() + self.target.len() + fields.sum::<usize>()
    }
}

/// What of an answer's fields goes back: all but hop-by-hop ones
/// (control-channel.md §8.6). `Content-Length` stays, also where no body follows.
pub(super) fn answer_headers(headers: &Headers) -> Headers {
    let named: Vec<&str> = headers.list("Connection").collect();
    let mut kept = Headers::new();
    for (name, value) in headers.iter() {
        if !is_one_of(name, ANSWER_HOP_BY_HOP) && !is_one_of(name, &named) {
            kept.push(name, value);
        }
    }
    kept
}

/// The client came by TLS (T13).
pub(super) fn is_https(request: &ProxyRequest<'_>) -> bool {
    let scheme = request.scheme.as_deref();
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// Before anything looks at each of the fields: this is the link-reader's time.
pub(super) fn check(request: &ProxyRequest<'_>) -> Result<(), PlanError> {
    if request.oversized {
        return Err(PlanError::TooLarge);
    }
    if let Some(field) = request.unreadable {
        return Err(PlanError::Unreadable(field));
    }
    let given = request.headers.iter().map(|(n, v)| n.len() + v.len());
    let line = request.method.len() + request.path.len() + request.query.len();
    let size = line + given.sum::<usize>();
    if size > MAX_HEAD || request.headers.len() > MAX_FIELDS {
        return Err(PlanError::TooLarge);
    }
    Ok(())
}

/// What a Service gets of a caller's fields.
pub(super) fn service_headers(
    request: &ProxyRequest<'_>,
) -> Result<(Headers, Identity), PlanError> {
    let (mut headers, identity) = headers(&request.headers, false)?;
    if is_https(request) {
        headers.set("X-Forwarded-Proto", "https");
    }
    Ok((headers, identity))
}

/// The query goes as it is: sorted or completed, a signed one would be another (T34).
pub(super) fn service_target(path: &str, query: &str) -> Result<String, PlanError> {
    let is_fine = path.is_empty() || path.starts_with('/');
    if !is_fine || path.contains("..") || path.contains("://") {
        return Err(PlanError::Path);
    }
    if query
        .bytes()
        .any(|b| b.is_ascii_control() || b == b' ' || b == b'#')
    {
        return Err(PlanError::Query);
    }
    let mut target = String::new();
    encode_path(&mut target, if path.is_empty() { "/" } else { path });
    if !query.is_empty() {
        target.push('?');
        percent::encode(&mut target, query, |byte| byte.is_ascii_graphic());
    }
    Ok(target)
}

/// The peer's `Host`, or another such field, which must be one and a host, with or without a port.
pub(super) fn host(given: &Headers, field: &str) -> Result<Option<String>, PlanError> {
    let mut hosts = given.get_all(field).map(trim_blanks);
    let Some(host) = hosts.next() else {
        return Ok(None);
    };
    let is_host = host.len() <= MAX_HOST
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+;=".contains(&b));
    if hosts.next().is_some() || !is_host {
        return Err(PlanError::Host);
    }
    Ok((!host.is_empty()).then(|| without_dot(host)))
}

/// Without the dot of an absolute name, which virtual hosts and certificates don't have.
fn without_dot(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if name.ends_with('.') => {
            format!("{}:{port}", &name[..name.len() - 1])
        }
        _ => host.strip_suffix('.').unwrap_or(host).to_owned(),
    }
}

/// In origin form.
pub(super) fn target(base: &str, path: &str, query: &str) -> Result<String, PlanError> {
    // A dot segment could climb out of the base, and would mean one thing to us
    // and another to the next server.
    if path.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(PlanError::DotSegment);
    }
    let mut target = base.to_owned();
    if !path.starts_with('/') {
        target.push('/');
    }
    encode_path(&mut target, path);
    if !query.is_empty() {
        if query.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(PlanError::Query);
        }
        target.push('?');
        encode_query(&mut target, query);
    }
    Ok(target)
}

/// What of a caller's fields may be sent, and as whom the call is made.
pub(super) fn headers(given: &Headers, lend: bool) -> Result<(Headers, Identity), PlanError> {
    let authorizations = given.get_all("Authorization").count();
    if authorizations > 1 {
        return Err(PlanError::TwoAuthorizations);
    }
    let authorized = authorizations == 1;
    let identity = if lend && !authorized {
        Identity::Agent
    } else {
        Identity::Caller
    };
    let named: Vec<&str> = given.list("Connection").collect();
    // Taking these away on a client's word could make a call somebody else's.
    if let Some(name) = named.iter().find(|name| says_who(name)) {
        return Err(PlanError::ConnectionNames(printable(name)));
    }
    let mut kept = Headers::new();
    for (name, value) in given.iter() {
        // What the gateway says of its client isn't the client's to take away.
        let ours = is_one_of(name, OURS) || is_one_of(name, &named) && !says_whence(name);
        // Beside the caller's own credential the API server decides whether he may;
        // beside the agent's nobody would, and beside none they mean nothing.
        let impersonates = has_prefix(name, "impersonate-") && !authorized;
        let fronts = has_prefix(name, "x-remote-") && identity == Identity::Agent;
        if ours || impersonates || fronts {
            continue;
        }
        if !is_token(name) {
            return Err(PlanError::HeaderName(printable(name)));
        }
        let value = trim_blanks(value);
        if !is_field_value(value) {
            return Err(PlanError::HeaderValue(printable(name)));
        }
        kept.push(name, value);
    }
    Ok((kept, identity))
}

/// Fields by which the API server knows who calls.
fn says_who(name: &str) -> bool {
    name.eq_ignore_ascii_case("authorization")
        || has_prefix(name, "impersonate-")
        || has_prefix(name, "x-remote-")
}

/// Fields by which a gateway says for whom it asks.
fn says_whence(name: &str) -> bool {
    has_prefix(name, "x-forwarded-") || is_one_of(name, &["Forwarded", "X-Real-IP", "Via"])
}

fn content_length(headers: &Headers) -> Result<Option<u64>, PlanError> {
    if headers.contains("Transfer-Encoding") {
        return Ok(None); // it was chunked, and so it will be
    }
    let mut values = headers.get_all("Content-Length").map(trim_blanks);
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.any(|other| other != first) || !first.bytes().all(|b| b.is_ascii_digit()) {
        return Err(PlanError::ContentLength);
    }
    let length = first.parse().map_err(|_| PlanError::ContentLength)?;
    Ok(Some(length))
}

/// A watch or a followed log, by the API server's own reading of the query:
/// anything but `false` and `0` is yes.
fn is_live(path: &str, query: &str) -> bool {
    let asks = |what: &str| {
        let params = decode_query(query);
        let value = params.into_iter().find(|(name, _)| name == what);
        value.is_some_and(|(_, value)| !value.eq_ignore_ascii_case("false") && value != "0")
    };
    // `/api/v1/watch/…` and `/apis/<group>/<version>/watch/…`, of old.
    let parts: Vec<&str> = path.trim_start_matches('/').splitn(5, '/').collect();
    let old = matches!(
        *parts,
        ["api", _, "watch", ..] | ["apis", _, _, "watch", ..]
    );
    old || asks("watch") || asks("follow")
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|other| other.eq_ignore_ascii_case(name))
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// A peer's text, fit for an error: short, escaped.
fn printable(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    format!("{short:?}")
}

/// Framing, target and connection are ours to set or to leave out
/// (decisions.md §6.2).
const OURS: &[&str] = &[
    "Host",
    "Content-Length",
    "Transfer-Encoding",
    "TE",
    "Trailer",
    "Trailers",
    "Expect",
    "Upgrade",
    "HTTP2-Settings",
    "Connection",
    "Keep-Alive",
    "Proxy-Authorization",
    "Proxy-Authenticate",
    "Proxy-Connection",
];

/// The list of control-channel.md §8.5, and `Trailer` by its right name.
const ANSWER_HOP_BY_HOP: &[&str] = &[
    "Connection",
    "Transfer-Encoding",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Trailers",
    "Upgrade",
];

/// A name of 253 bytes and a port.
const MAX_HOST: usize = 260;

#[cfg(test)]
mod tests;
