//! Header fields on their way through the front door, both ways.
//!
//! A client's fields never change framing, target or identity of the call that the
//! agent makes (decisions.md §6.2): the agent enforces that for itself, this side
//! doesn't even send them.

use std::net::IpAddr;

use crate::http::{Headers, is_field_value, is_token};

/// Why the fields of a client are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FieldsError {
    /// The plane lends an identity of the cluster's; who could ask it to be
    /// somebody else would choose his own rights. Leaving the fields out in silence
    /// would do the opposite of what was asked for.
    #[error("impersonation (--as) isn't possible through the plane")]
    Impersonation,
}

/// The fields that go to the agent: what the client sent, without what is ours to
/// say, and with the cluster's own credential where one is stored.
pub(crate) fn to_agent(
    client: &Headers,
    credential: Option<&str>,
    address: IpAddr,
) -> Result<Headers, FieldsError> {
    let named: Vec<&str> = client.list("connection").collect();
    let mut fields = Headers::new();
    for (name, value) in client.iter() {
        if starts_with(name, "impersonate-") {
            return Err(FieldsError::Impersonation);
        }
        let dropped = is_hop_by_hop(name)
            || named.iter().any(|n| n.eq_ignore_ascii_case(name))
            || OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name))
            || OUR_PREFIXES.iter().any(|prefix| starts_with(name, prefix));
        if !dropped {
            fields.push(name, value);
        }
    }
    fields.push("X-Forwarded-For", address.to_canonical().to_string());
    if let Some(credential) = credential {
        fields.push("Authorization", format!("Bearer {credential}"));
    }
    Ok(fields)
}

/// The head of an answer as it goes to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Without fields about framing or the connection.
    pub(crate) headers: Headers,
    /// Length of the body in bytes, or of the one that a HEAD asks about; `None`:
    /// until it ends.
    pub(crate) length: Option<u64>,
}

/// What an agent's answer lacks to be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("the agent answered with status {0}, which is no final one")]
    Status(u16),
    #[error("the agent's answer has several, or no valid, Content-Length")]
    ContentLength,
}

/// Turns an agent's answer into what the client gets. Fields that are no fields
/// (a name that isn't a token, a value with a line break) are left out, so that an
/// agent can't write into the client's connection.
pub(crate) fn to_client(
    cluster: &str,
    status: u16,
    agent: &Headers,
) -> Result<Answer, AnswerError> {
    if !(200..=999).contains(&status) {
        return Err(AnswerError::Status(status));
    }
    let length = content_length(agent)?;
    let named: Vec<&str> = agent.list("connection").collect();
    let mut headers = Headers::new();
    for (name, value) in agent.iter() {
        let dropped = is_hop_by_hop(name)
            || named.iter().any(|n| n.eq_ignore_ascii_case(name))
            || name.eq_ignore_ascii_case("content-length")
            || !is_token(name)
            || !is_field_value(value);
        if dropped {
            continue;
        }
        // A redirect to a path of the API server is one below the cluster's here.
        if name.eq_ignore_ascii_case("location")
            && value.starts_with('/')
            && !value.starts_with("//")
        {
            headers.push(name, format!("/clusters/{cluster}{value}"));
        } else {
            headers.push(name, value);
        }
    }
    Ok(Answer {
        status,
        headers,
        length,
    })
}

fn content_length(headers: &Headers) -> Result<Option<u64>, AnswerError> {
    // An encoding that the agent has already taken off leaves no usable length.
    if headers.contains("transfer-encoding") {
        return Ok(None);
    }
    let mut length = None;
    for value in headers.list("content-length") {
        let digits = value.bytes().all(|b| b.is_ascii_digit());
        let parsed: Option<u64> = digits.then(|| value.parse().ok()).flatten();
        match (parsed, length) {
            (Some(parsed), None) => length = Some(parsed),
            (Some(parsed), Some(earlier)) if parsed == earlier => {}
            _ => return Err(AnswerError::ContentLength),
        }
    }
    Ok(length)
}

fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|n| n.eq_ignore_ascii_case(name))
}

fn starts_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// RFC 9110 §7.6.1, and what concerns one connection only.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields of a request that are ours to say: framing, target, and who asks. The
/// plane's token never travels on. An original agent would choose another target by
/// a `Host` (control-channel.md §8.3).
const OURS: &[&str] = &[
    "authorization",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "x-real-ip",
];

/// Likewise, by their beginning. `X-Remote-*` is how an authenticating proxy names
/// a user to the API server.
const OUR_PREFIXES: &[&str] = &["sec-websocket-", "x-forwarded-", "x-remote-"];

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn list(fields: &[(&str, &str)]) -> Headers {
        fields.iter().copied().collect()
    }

    #[test]
    fn the_plane_token_never_travels_on() {
        let client = list(&[
            ("AUTHORIZATION", "Bearer ppu_x"),
            ("authorization", "Basic y"),
        ]);
        let fields = to_agent(&client, None, CLIENT).expect("fine");
        assert_eq!(fields, list(&[("X-Forwarded-For", "192.0.2.7")]));
        let fields = to_agent(&client, Some("svc"), CLIENT).expect("fine");
        assert_eq!(
            fields.get_all("authorization").collect::<Vec<_>>(),
            ["Bearer svc"]
        );
    }

    #[test]
    fn fields_of_a_client_change_neither_framing_nor_target() {
        let client = list(&[
            ("Host", "plane"),
            ("Connection", "X-Mine, close"),
            ("X-Mine", "1"),
            ("Content-Length", "5"),
            ("transfer-encoding", "chunked"),
            ("Expect", "100-continue"),
            ("X-Forwarded-Host", "ingress"),
            ("x-remote-user", "root"),
            ("Sec-WebSocket-Protocol", "v4"),
            ("Accept", "a/b"),
            ("accept", "c/d"),
            ("User-Agent", "kubectl"),
        ]);
        let fields = to_agent(&client, None, CLIENT).expect("fine");
        let want = list(&[
            ("Accept", "a/b"),
            ("accept", "c/d"),
            ("User-Agent", "kubectl"),
            ("X-Forwarded-For", "192.0.2.7"),
        ]);
        assert_eq!(fields, want);
    }

    #[test]
    fn impersonation_is_refused_not_forgotten() {
        for name in [
            "Impersonate-User",
            "impersonate-group",
            "IMPERSONATE-EXTRA-x",
        ] {
            let refused = to_agent(&list(&[(name, "root")]), None, CLIENT);
            assert_eq!(refused, Err(FieldsError::Impersonation), "{name}");
        }
    }

    #[test]
    fn answers() {
        let answer = |status, fields: &[(&str, &str)]| to_client("c", status, &list(fields));
        let length = |fields: &[(&str, &str)]| answer(200, fields).map(|a| a.length);
        assert_eq!(length(&[("content-length", "5")]), Ok(Some(5)));
        assert_eq!(length(&[("content-length", "5, 5")]), Ok(Some(5)));
        assert_eq!(length(&[]), Ok(None));
        for bad in ["5, 6", "x", "+5", "-1", "99999999999999999999"] {
            let got = length(&[("Content-Length", bad)]);
            assert_eq!(got, Err(AnswerError::ContentLength), "{bad}");
        }
        for status in [0, 100, 101, 199, 1000] {
            assert_eq!(answer(status, &[]), Err(AnswerError::Status(status)));
        }
        let redirect = answer(301, &[("Location", "/api/"), ("Location", "//x/")]).expect("fine");
        let places: Vec<&str> = redirect.headers.get_all("location").collect();
        assert_eq!(places, ["/clusters/c/api/", "//x/"]);
    }

    proptest! {
        /// Whatever an agent answers: what goes into the client's connection is
        /// made of valid fields, none of them about the connection itself.
        #[test]
        fn an_agent_cannot_write_into_the_clients_connection(
            fields in prop::collection::vec(("(?s).{0,12}", "(?s).{0,12}"), 0..6),
            known in prop::collection::vec(prop::sample::select(HOP_BY_HOP), 0..3),
            status in 0u16..1100,
        ) {
            let mut agent: Headers = fields.into_iter().collect();
            for name in known {
                agent.push(name, "x");
            }
            if let Ok(answer) = to_client("c", status, &agent) {
                for (name, value) in answer.headers.iter() {
                    prop_assert!(is_token(name) && is_field_value(value));
                    prop_assert!(!is_hop_by_hop(name));
                }
            }
        }

        #[test]
        fn no_field_of_a_client_reaches_what_is_ours(
            names in prop::collection::vec(prop::sample::select(OURS), 0..4),
            hop in prop::collection::vec(prop::sample::select(HOP_BY_HOP), 0..4),
            other in "[a-zA-Z-]{1,10}",
        ) {
            let mut client = Headers::new();
            for name in names.iter().chain(&hop) {
                client.push(name.to_ascii_uppercase(), other.clone());
            }
            client.push(other, "v");
            if let Ok(fields) = to_agent(&client, None, CLIENT) {
                for (name, _) in fields.iter() {
                    let ours = OURS.iter().any(|o| o.eq_ignore_ascii_case(name));
                    prop_assert!(!ours && !is_hop_by_hop(name));
                }
            }
        }
    }
}
