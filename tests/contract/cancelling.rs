//! Whatever ends a request, whenever it does: the API server sees its socket closed at
//! once (decisions.md §6.2, control-channel.md T18).

use std::time::{Duration, Instant};

use pipeops_agent::agent::Agent;
use serde_json::{Value, json};

use crate::forms::connected;
use crate::held::{Held, held};
use crate::support::fake_plane::{Conn, FakePlane, chunk};
use crate::support::wait::figure;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    ProxyCancel,
    Deadline,
    LostConnection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// On a new connection to the API server, which hasn't answered yet.
    BeforeTheFirstByte,
    /// A part of the answer has arrived.
    InTheAnswersBody,
    /// A part of the request's body is still to come.
    InTheRequestsBody,
    /// As the first, on a connection that has served another request.
    OnAConnectionUsedBefore,
}

/// Long enough that the request has arrived by then.
const DEADLINE: Duration = Duration::from_millis(400);

struct Scene {
    held: Held,
    plane: FakePlane,
    _agent: Agent,
    conn: Conn,
}

impl Scene {
    fn new() -> Self {
        let held = held();
        let (plane, agent, conn) = connected(held.upstream.credentials());
        Self {
            held,
            plane,
            _agent: agent,
            conn,
        }
    }

    /// Makes a request and ends it; says how long after the cause its socket was closed.
    fn play(&mut self, cause: Cause, moment: Moment) -> Duration {
        let before = (moment == Moment::OnAConnectionUsedBefore).then(|| {
            let quick = json!({"path": "/api/x", "query": "quick"});
            self.conn.request("quick", &quick);
            assert_eq!(self.conn.answer("quick")["type"], "proxy_response");
            self.held.next_begun().peer
        });
        let asked = Instant::now();
        self.conn.send(&request(cause, moment));
        if moment == Moment::InTheRequestsBody {
            self.conn.send(&json!({
                "type": "proxy_request_chunk", "request_id": "r", "payload": {"data": "aGVs"},
            }));
        }
        let begun = self.held.next_begun();
        if let Some(before) = before {
            assert_eq!(begun.peer, before, "the same connection");
        }
        if moment == Moment::InTheAnswersBody {
            assert_eq!(self.conn.answer("r")["type"], "proxy_response_header");
            assert_eq!(chunk(&self.conn.answer("r")), b"one");
        }
        let ended = match cause {
            Cause::ProxyCancel => {
                let now = Instant::now();
                let cancel = json!({"type": "proxy_cancel", "request_id": "r"});
                self.conn.send(&cancel);
                now
            }
            Cause::Deadline => asked + DEADLINE,
            Cause::LostConnection => {
                let now = Instant::now();
                self.conn.link.abort("cut by the test");
                now
            }
        };
        let gone = self.held.next_gone();
        assert!(gone.target.starts_with(&begun.target), "{gone:?}");
        if cause == Cause::Deadline {
            assert!(gone.at >= ended, "not before its time");
        }
        self.is_told(cause, moment);
        gone.at.saturating_duration_since(ended)
    }

    /// What the control plane hears of it, and that it hears no more.
    fn is_told(&mut self, cause: Cause, moment: Moment) {
        match cause {
            // Nothing for a request that was cancelled before its header was sent.
            Cause::ProxyCancel if moment != Moment::InTheAnswersBody => {}
            Cause::ProxyCancel | Cause::Deadline => {
                assert_eq!(self.conn.answer("r")["type"], "proxy_response_abort");
            }
            Cause::LostConnection => {
                self.conn = self.plane.accept();
                self.conn.acknowledge();
            }
        }
        assert!(self.conn.is_quiet(), "{cause:?} {moment:?}");
    }
}

/// In form S: form B may finish when the connection is lost, once its body is whole.
fn request(cause: Cause, moment: Moment) -> Value {
    let mut message = json!({
        "type": "proxy_request", "request_id": "r",
        // Whose clock is years behind.
        "timestamp": "2020-01-01T00:00:00Z",
        "payload": {
            "path": "/api/x", "query": "wait", "supports_response_streaming": true,
        },
    });
    let payload = &mut message["payload"];
    if moment == Moment::InTheAnswersBody {
        payload["query"] = "head".into();
    }
    if moment == Moment::InTheRequestsBody {
        payload["method"] = "PUT".into();
        payload["use_streaming"] = true.into();
    }
    if cause == Cause::Deadline {
        let milliseconds = DEADLINE.as_millis();
        payload["deadline"] = format!("2020-01-01T00:00:00.{milliseconds}Z").into();
    }
    message
}

#[test]
fn t18_whatever_ends_a_request_closes_its_upstream_socket_at_every_moment() {
    const TIMES: usize = 5;
    let mut scene = Scene::new();
    for cause in [Cause::ProxyCancel, Cause::Deadline, Cause::LostConnection] {
        for moment in [
            Moment::BeforeTheFirstByte,
            Moment::InTheAnswersBody,
            Moment::InTheRequestsBody,
            Moment::OnAConnectionUsedBefore,
        ] {
            let times = (0..TIMES).map(|_| scene.play(cause, moment));
            let longest = times.max().unwrap_or_default();
            figure(
                &format!("{cause:?}, {moment:?} → upstream socket closed, longest of {TIMES}"),
                format!("{longest:?}"),
            );
        }
    }
    // An id that nobody has is nothing.
    let cancel = json!({"type": "proxy_cancel", "request_id": "nobody"});
    scene.conn.send(&cancel);
    assert!(scene.conn.is_quiet());
}
