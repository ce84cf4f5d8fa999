//! Which answer a path has. Pure: a request's line and a snapshot in, an answer out.

use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::health::Health;
use crate::duration;

/// An answer, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub allow: Option<&'static str>,
    pub body: Vec<u8>,
}

/// How `/ready` answers (local-server.md §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Always 200, as the original by default (`agent.truthful_readiness_probe: false`).
    Compatible,
    /// 503 while not healthy: our default (decisions.md §2, "not ready meanwhile").
    Truthful,
}

/// Answers one request. `target` may have a query, which is ignored, and a slash at
/// its end, which makes no difference.
pub(super) fn answer(
    method: &str,
    target: &str,
    health: &Health,
    readiness: Readiness,
    now: SystemTime,
) -> Answer {
    let path = target.split(['?', '#']).next().unwrap_or(target);
    let path = match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    };
    let respond: fn(&Health, Readiness, SystemTime) -> Answer = match path {
        "/health" => |health, _, now| alive(health, now),
        "/ready" => ready,
        _ => return not_found(),
    };
    if !matches!(method, "GET" | "HEAD") {
        return Answer {
            allow: Some("GET, HEAD"),
            ..plain(405, "method not allowed")
        };
    }
    respond(health, readiness, now)
}

/// A short text, for what isn't an endpoint's own answer.
pub(super) fn plain(status: u16, text: &str) -> Answer {
    Answer {
        status,
        content_type: "text/plain",
        allow: None,
        body: text.as_bytes().to_vec(),
    }
}

fn not_found() -> Answer {
    plain(404, "404 page not found")
}

/// `GET /health` (§5.1): 200 as long as the process answers at all.
fn alive(health: &Health, now: SystemTime) -> Answer {
    let mut body = connection(health, now);
    body.insert("status".into(), json!("healthy"));
    body.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
    json(200, body)
}

/// `GET /ready` (§5.2).
fn ready(health: &Health, readiness: Readiness, now: SystemTime) -> Answer {
    let mut body = connection(health, now);
    if readiness == Readiness::Compatible {
        body.insert("status".into(), json!("ready"));
        body.insert("mode".into(), json!("backward_compatible"));
        body.insert("note".into(), json!(NOTE));
        return json(200, body);
    }
    let since = health
        .since_heartbeat
        .map_or_else(|| NEVER_SINCE.to_owned(), duration::format);
    body.insert("healthy".into(), json!(health.healthy));
    body.insert("time_since_heartbeat".into(), json!(since));
    if health.healthy {
        body.insert("status".into(), json!("ready"));
        body.insert("last_heartbeat".into(), json!(time(health.last_heartbeat)));
        return json(200, body);
    }
    body.insert("status".into(), json!("not_ready"));
    body.insert(
        "reason".into(),
        json!("agent not connected to control plane"),
    );
    body.insert(
        "consecutive_failures".into(),
        json!(health.consecutive_failures),
    );
    json(503, body)
}

fn connection(health: &Health, now: SystemTime) -> Map<String, Value> {
    let state = health.connection_state.as_str();
    Map::from_iter([
        ("connected".to_owned(), json!(health.connected)),
        ("registered".to_owned(), json!(health.registered)),
        ("connection_state".to_owned(), json!(state)),
        ("timestamp".to_owned(), json!(time(Some(now)))),
    ])
}

fn json(status: u16, body: Map<String, Value>) -> Answer {
    Answer {
        status,
        content_type: "application/json; charset=utf-8",
        allow: None,
        body: Value::Object(body).to_string().into_bytes(),
    }
}

/// RFC 3339 without trailing zeros; "never" as the original writes it (§2.1).
fn time(time: Option<SystemTime>) -> String {
    time.and_then(|time| Timestamp::try_from(time).ok())
        .map_or_else(
            || "0001-01-01T00:00:00Z".to_owned(),
            |time| time.to_string(),
        )
}

/// The longest duration of the original: before the first heartbeat (§2.1, §4).
const NEVER_SINCE: &str = "2562047h47m16.854775807s";

const NOTE: &str = "Set PIPEOPS_TRUTHFUL_READINESS_PROBE=true for truthful readiness checks";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::health::HealthState;
    use super::*;
    use crate::control::session::ConnectionState;

    fn health(healthy: bool) -> Health {
        Health {
            healthy,
            connected: healthy,
            registered: true,
            connection_state: if healthy {
                ConnectionState::Connected
            } else {
                ConnectionState::Reconnecting
            },
            last_heartbeat: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)),
            since_heartbeat: Some(Duration::from_millis(45_250)),
            consecutive_failures: 2,
        }
    }

    fn get(target: &str, health: &Health, readiness: Readiness) -> (u16, Value) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(2_500);
        let answer = answer("GET", target, health, readiness, now);
        let body = serde_json::from_slice(&answer.body).expect("JSON");
        (answer.status, body)
    }

    #[test]
    fn health_is_always_200_and_truthful() {
        let (status, body) = get("/health", &health(false), Readiness::Truthful);
        assert_eq!(status, 200);
        assert_eq!(
            body,
            json!({
                "status": "healthy",
                "timestamp": "1970-01-01T00:00:02.5Z",
                "version": env!("CARGO_PKG_VERSION"),
                "connected": false,
                "registered": true,
                "connection_state": "reconnecting",
            })
        );
    }

    #[test]
    fn ready_in_compatible_mode_is_always_200() {
        for healthy in [true, false] {
            let (status, body) = get("/ready", &health(healthy), Readiness::Compatible);
            assert_eq!(status, 200);
            assert_eq!(
                body,
                json!({
                    "status": "ready",
                    "timestamp": "1970-01-01T00:00:02.5Z",
                    "mode": "backward_compatible",
                    "connected": healthy,
                    "registered": true,
                    "connection_state": if healthy { "connected" } else { "reconnecting" },
                    "note": NOTE,
                })
            );
        }
    }

    #[test]
    fn ready_in_truthful_mode_has_the_fields_of_each_case() {
        let (status, body) = get("/ready", &health(true), Readiness::Truthful);
        assert_eq!(status, 200);
        assert_eq!(
            body,
            json!({
                "status": "ready",
                "healthy": true,
                "connected": true,
                "registered": true,
                "connection_state": "connected",
                "last_heartbeat": "1970-01-01T00:00:01.5Z",
                "time_since_heartbeat": "45.25s",
                "timestamp": "1970-01-01T00:00:02.5Z",
            })
        );
        let (status, body) = get("/ready", &health(false), Readiness::Truthful);
        assert_eq!(status, 503);
        assert_eq!(
            body,
            json!({
                "status": "not_ready",
                "healthy": false,
                "connected": false,
                "registered": true,
                "connection_state": "reconnecting",
                "consecutive_failures": 2,
                "time_since_heartbeat": "45.25s",
                "reason": "agent not connected to control plane",
                "timestamp": "1970-01-01T00:00:02.5Z",
            })
        );
    }

    #[test]
    fn before_the_first_heartbeat_the_time_since_is_the_longest() {
        let fresh = HealthState::new(Duration::from_secs(30)).snapshot();
        let (status, body) = get("/ready", &fresh, Readiness::Truthful);
        assert_eq!(status, 503);
        assert_eq!(body["time_since_heartbeat"], "2562047h47m16.854775807s");
    }

    #[test]
    fn slashes_and_queries_make_no_difference() {
        for target in ["/health/", "/health?x=1", "/health/?x"] {
            assert_eq!(get(target, &health(true), Readiness::Compatible).0, 200);
        }
    }

    #[test]
    fn unknown_paths_are_404_and_wrong_methods_405() {
        let now = SystemTime::UNIX_EPOCH;
        let ask = |method, target| answer(method, target, &health(true), Readiness::Truthful, now);
        assert_eq!(ask("GET", "/nope").body, b"404 page not found");
        assert_eq!(ask("POST", "/").status, 404);
        let wrong = ask("POST", "/ready");
        assert_eq!((wrong.status, wrong.allow), (405, Some("GET, HEAD")));
        assert_eq!(ask("HEAD", "/ready").status, 200);
    }

    proptest! {
        #[test]
        fn any_request_line_has_an_answer(method in "\\PC{0,10}", target in "\\PC{0,40}") {
            let answer = answer(
                &method, &target, &health(true), Readiness::Compatible, SystemTime::UNIX_EPOCH,
            );
            prop_assert!((200..=503).contains(&answer.status));
        }
    }
}
