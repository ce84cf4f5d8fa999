//! From a start to the upgrade that will be asked of the API server: path, headers,
//! subprotocols (control-channel.md §9.1, T36; decisions.md §6.2). Pure.

use crate::http::{Headers, MAX_FIELDS, MAX_HEAD};
use crate::proxy::audit::who;
use crate::proxy::plan::{
    Identity, PlanError, headers, host, service_headers, service_target, target,
};
use crate::wire::ProxyRequest;

/// What a peer asks for, unchecked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a Headers,
    /// Subprotocols beside those of the headers, a list with commas.
    pub(super) protocol: &'a str,
    /// Only these subprotocols, and none if there are none.
    pub(super) raw: bool,
}

/// An upgrade, checked and encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamPlan {
    /// Origin form.
    pub(super) target: String,
    pub(super) headers: Headers,
    pub(super) identity: Identity,
    /// To be offered, in order.
    pub(super) subprotocols: Vec<String>,
    /// The last part of the path: `exec`, `attach`, `portforward`.
    pub(super) subresource: String,
}

/// Why a start can't become an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StreamPlanError {
    #[error("invalid path: must be a Kubernetes API path")]
    Path,
    #[error("invalid subprotocol")]
    Subprotocol,
    #[error("{0}")]
    Plan(#[from] PlanError),
}

impl StreamPlan {
    /// `base` is what paths at the API server begin with; `lend`: the agent's own
    /// identity is lent to those without `Authorization`.
    pub(super) fn of(asked: &Asked<'_>, base: &str, lend: bool) -> Result<Self, StreamPlanError> {
        let given = asked.headers.iter().map(|(n, v)| n.len() + v.len());
        let size = asked.path.len() + asked.query.len() + asked.protocol.len();
        // Room for what is ours to add.
        let room = MAX_HEAD - 8 * 1024;
        if size + given.sum::<usize>() > room || asked.headers.len() > MAX_FIELDS - 8 {
            return Err(PlanError::TooLarge.into());
        }
        if !is_stream_path(asked.path) {
            return Err(StreamPlanError::Path);
        }
        let subresource = asked.path.rsplit('/').next().unwrap_or_default();
        let mut subprotocols = subprotocols(asked.protocol, asked.headers)?;
        // A browser shows its token so: it can't send an `Authorization`.
        let shows_token = subprotocols.iter().any(|name| name.starts_with(TOKEN));
        let (mut headers, identity) = headers(asked.headers, lend && !shows_token)?;
        headers.retain(|name, _| !is_handshake(name));
        let mut parts = asked.path.split('/');
        let speaks_channels = parts.any(|part| matches!(part, "exec" | "attach" | "portforward"));
        if subprotocols.is_empty() && speaks_channels && !asked.raw {
            subprotocols = DEFAULT_SUBPROTOCOLS.map(str::to_owned).to_vec();
        }
        Ok(Self {
            target: target(base, asked.path, asked.query)?,
            headers,
            identity,
            subprotocols,
            subresource: subresource.to_owned(),
        })
    }

    /// For the audit: whose credential it travels under.
    pub(super) fn who(&self) -> &'static str {
        if self.subprotocols.iter().any(|name| name.starts_with(TOKEN)) {
            return "caller";
        }
        who(self.identity, &self.headers)
    }

    /// Bytes of memory that it takes, about.
    pub(super) fn size(&self) -> usize {
        size_of_all(&self.target, &self.headers, &self.subprotocols)
    }
}

/// An upgrade that is asked of a Service, checked and encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServicePlan {
    /// Origin form.
    pub(super) target: String,
    /// What `Host` says, where the peer says so.
    pub(super) host: Option<String>,
    pub(super) headers: Headers,
    /// To be offered, in order.
    pub(super) subprotocols: Vec<String>,
}

impl ServicePlan {
    /// Of a request that has been looked at ([`check`]).
    pub(super) fn of(request: &ProxyRequest<'_>) -> Result<Self, StreamPlanError> {
        let (mut headers, _) = service_headers(request)?;
        headers.retain(|name, _| !is_handshake(name));
        let given = &request.headers;
        let host = match host(given, "Host")? {
            Some(host) => Some(host),
            None => host(given, "X-Forwarded-Host")?,
        };
        Ok(Self {
            target: service_target(&request.path, &request.query)?,
            host,
            headers,
            subprotocols: subprotocols("", given)?,
        })
    }

    /// Bytes of memory that it takes, about.
    pub(super) fn size(&self) -> usize {
        size_of_all(&self.target, &self.headers, &self.subprotocols)
    }
}

fn size_of_all(target: &str, headers: &Headers, subprotocols: &[String]) -> usize {
    const FIELD: usize = 2 * size_of::<String>();
    let fields = headers.iter().map(|(n, v)| FIELD + n.len() + v.len());
    let offered = subprotocols.iter().map(|name| FIELD + name.len());
    target.len() + fields.sum::<usize>() + offered.sum::<usize>()
}

/// A path of the Kubernetes API that means one thing to everybody: what the original
/// mends is refused here (T36).
fn is_stream_path(path: &str) -> bool {
    let plain = |byte: u8| !byte.is_ascii_control() && !b"%\\?#".contains(&byte);
    let starts = ["/api/", "/apis/", "/openapi/"];
    let whole = ["/api", "/apis", "/version", "/healthz", "/readyz", "/livez"];
    path.bytes().all(plain)
        && !path.contains("//")
        && !path.split('/').any(|part| matches!(part, "." | ".."))
        && (starts.iter().any(|start| path.starts_with(start)) || whole.contains(&path))
}

/// The handshake's own fields; the subprotocols are offered apart.
fn is_handshake(name: &str) -> bool {
    name.get(..14)
        .is_some_and(|start| start.eq_ignore_ascii_case("sec-websocket-"))
}

/// All that are named, by `protocol` (a list with commas) and by the fields.
fn subprotocols(protocol: &str, headers: &Headers) -> Result<Vec<String>, StreamPlanError> {
    let mut offered: Vec<String> = Vec::new();
    let named = protocol.split(',').map(str::trim);
    for name in named.chain(headers.list("Sec-WebSocket-Protocol")) {
        if name.is_empty() || offered.iter().any(|other| other == name) {
            continue;
        }
        // Not only tokens: `SPDY/3.1+portforward.k8s.io` has a slash.
        let fine = name.bytes().all(|byte| byte.is_ascii_graphic());
        if !fine || offered.len() == MAX_SUBPROTOCOLS {
            return Err(StreamPlanError::Subprotocol);
        }
        offered.push(name.to_owned());
    }
    Ok(offered)
}

/// Offered where the peer names none.
const DEFAULT_SUBPROTOCOLS: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];

/// What a subprotocol begins with that is no protocol but the caller's token, for the API
/// server.
const TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// Nobody speaks more of them.
const MAX_SUBPROTOCOLS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "v4.channel.k8s.io";
    const EXEC: &str = "/api/v1/namespaces/default/pods/web-0/exec";

    fn asked(path: &str) -> Result<StreamPlan, StreamPlanError> {
        with(path, "", &Headers::new(), "")
    }

    fn with(
        path: &str,
        query: &str,
        headers: &Headers,
        protocol: &str,
    ) -> Result<StreamPlan, StreamPlanError> {
        let asked = Asked {
            path,
            query,
            headers,
            protocol,
            raw: false,
        };
        StreamPlan::of(&asked, "/base", true)
    }

    #[test]
    fn t36_paths_are_rejected_and_never_mended() {
        for path in [
            "",
            "/",
            "api/v1/x",
            "/apifoo",
            "/apisx/y",
            "/versionx",
            "/healthz/ping/..",
            "/api/v1/../../secret",
            "/api/v1/./x",
            "/api/..",
            "/api//v1",
            "//api/v1",
            "/api/v1/x?y=z",
            "/api/v1/x#y",
            "/api/v1/%2e%2e/x",
            "/api/v1\\x",
            "/api/v1/x\r\nHost: y",
            "/api/v1/\0",
            "/metrics",
        ] {
            assert_eq!(asked(path), Err(StreamPlanError::Path), "{path:?}");
        }
        for path in [EXEC, "/apis/a/v1/x", "/version", "/healthz", "/api"] {
            let plan = asked(path).expect(path);
            assert_eq!(plan.target, format!("/base{path}"));
        }
        // What isn't plain is encoded, once.
        let plan = asked("/api/v1/ü x").expect("fine");
        assert_eq!(plan.target, "/base/api/v1/%C3%BC%20x");
    }

    #[test]
    fn the_query_goes_as_it_is_and_can_not_be_a_second_line() {
        let plan = with(EXEC, "command=sh&command=-c&tty=true", &Headers::new(), "");
        let target = plan.expect("fine").target;
        assert!(target.ends_with("/exec?command=sh&command=-c&tty=true"));
        for query in ["a\r\nb", "a\0"] {
            let plan = with(EXEC, query, &Headers::new(), "");
            assert_eq!(plan, Err(StreamPlanError::Plan(PlanError::Query)));
        }
    }

    #[test]
    fn headers_of_a_peer_change_neither_handshake_nor_target() {
        let given: Headers = [
            ("authorization", "Bearer t"),
            ("Host", "evil.test"),
            ("Connection", "Upgrade, X-Hop"),
            ("X-Hop", "1"),
            ("Upgrade", "websocket"),
            ("HTTP2-Settings", "x"),
            ("Sec-WebSocket-Key", "k"),
            ("sec-websocket-version", "13"),
            ("Sec-WebSocket-Extensions", "permessage-deflate"),
            ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
            ("Transfer-Encoding", "chunked"),
            ("X-Stays", "y"),
            ("Impersonate-User", "u"),
        ]
        .into_iter()
        .collect();
        let plan = with(EXEC, "", &given, "").expect("fine");
        let names: Vec<&str> = plan.headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["authorization", "X-Stays", "Impersonate-User"]);
        assert_eq!(plan.identity, Identity::Caller);
        assert_eq!(plan.subprotocols, ["v4.channel.k8s.io"]);
        // Without his own credential nobody impersonates anybody.
        let given: Headers = [("Impersonate-User", "u")].into_iter().collect();
        let plan = with(EXEC, "", &given, "").expect("fine");
        assert_eq!((plan.identity, plan.headers.len()), (Identity::Agent, 0));
    }

    /// It ran as the agent, beside the caller's own token.
    #[test]
    fn a_caller_who_shows_his_token_as_a_subprotocol_is_lent_nothing() {
        let token = format!("{TOKEN}c2VjcmV0");
        let field: Headers = [("sec-websocket-protocol", format!("{V4}, {token}"))]
            .into_iter()
            .collect();
        for (headers, protocol) in [(&Headers::new(), &*token), (&field, "")] {
            let plan = with(EXEC, "", headers, protocol).expect("fine");
            assert_eq!((plan.identity, plan.who()), (Identity::Caller, "caller"));
            assert!(plan.subprotocols.contains(&token));
        }
        let plan = with(EXEC, "", &Headers::new(), V4).expect("fine");
        assert_eq!((plan.identity, plan.who()), (Identity::Agent, "agent"));
    }

    #[test]
    fn subprotocols_in_order_once_each_and_the_defaults_only_where_none_is_named() {
        let header: Headers = [("Sec-WebSocket-Protocol", "b, c ,a")]
            .into_iter()
            .collect();
        let plan = with(EXEC, "", &header, " a,b,,").expect("fine");
        assert_eq!(plan.subprotocols, ["a", "b", "c"]);
        let spdy = "SPDY/3.1+portforward.k8s.io";
        let plan = with("/api/v1/p/portforward", "", &Headers::new(), spdy).expect("fine");
        assert_eq!(plan.subprotocols, [spdy]);
        let below = "/api/v1/p/exec/x"; // anywhere in the path
        for path in [EXEC, "/api/v1/p/attach", "/api/v1/p/portforward", below] {
            let plan = asked(path).expect("fine");
            assert_eq!(plan.subprotocols, DEFAULT_SUBPROTOCOLS);
        }
        assert!(
            asked("/api/v1/p/log")
                .expect("fine")
                .subprotocols
                .is_empty()
        );
        let raw = Asked {
            path: EXEC,
            query: "",
            headers: &Headers::new(),
            protocol: "",
            raw: true,
        };
        let plan = StreamPlan::of(&raw, "", true).expect("fine");
        assert!(plan.subprotocols.is_empty());
        for protocol in ["a b", "ü", "a\r\nb"] {
            let plan = with(EXEC, "", &Headers::new(), protocol);
            assert_eq!(plan, Err(StreamPlanError::Subprotocol), "{protocol:?}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let long = "x".repeat(MAX_HEAD);
        let plan = with(EXEC, &long, &Headers::new(), "");
        assert_eq!(plan, Err(StreamPlanError::Plan(PlanError::TooLarge)));
    }
}
