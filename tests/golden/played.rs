//! What the original agent said, said to our plane: it understands every message, and
//! its users get what was meant.

use std::collections::HashMap;
use std::io::Read;
use std::thread::JoinHandle;

use pipeops_agent::http::client::{Body, CallError};
use pipeops_agent::plane::GatewayUrl;
use serde_json::Value;

use crate::support::fake_agent::FakeAgent;
use crate::support::front::{Answer, Front};
use crate::support::house::House;

/// A request of the recording that is being answered.
struct Asked {
    /// What our plane calls it.
    id: String,
    asking: JoinHandle<Result<Answer, CallError>>,
    /// What the recorded answer says so far.
    status: u64,
    body: Vec<u8>,
}

impl Asked {
    /// The answer has no body where one is announced: it was to a HEAD.
    fn new(agent: &mut FakeAgent, front: &Front, first: &Value) -> Self {
        let payload = &first["payload"];
        let whole = first["type"] == "proxy_response" && payload.get("body").is_none();
        let headed = first["request_id"] == "px-5"; // form S says it by an early end
        let announced = payload["headers"]["Content-Length"][0] != "0";
        let method = if announced && (whole || headed) {
            "HEAD"
        } else {
            "GET"
        };
        let front = front.clone();
        let asking =
            std::thread::spawn(move || front.try_ask(method, "/api/v1/x", &[], Body::Empty));
        let request = agent.expect("proxy_request");
        let id = request["request_id"].as_str().expect("an id").to_owned();
        Self {
            id,
            asking,
            status: 200,
            body: Vec::new(),
        }
    }

    fn note(&mut self, payload: &Value) {
        self.status = payload["status"].as_u64().unwrap_or(self.status);
        let text = payload["body"].as_str().or(payload["data"].as_str());
        let Some(text) = text else { return };
        let bytes = base64_simd::STANDARD.decode_to_vec(text).expect("base64");
        if payload["encoding"] == "gzip" {
            let mut gzip = flate2::read::GzDecoder::new(bytes.as_slice());
            gzip.read_to_end(&mut self.body).expect("gzip");
        } else {
            self.body.extend(bytes);
        }
    }

    fn check(self, kind: &str, line: u64) {
        let answer = self.asking.join().expect("no panic");
        if kind == "proxy_response_abort" {
            assert!(answer.is_err(), "{line}: cut off, and not ended well");
            return;
        }
        let answer = answer.unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(u64::from(answer.status), self.status, "{line}");
        assert_eq!(
            String::from_utf8_lossy(&answer.body),
            String::from_utf8_lossy(&self.body),
            "{line}"
        );
    }
}

#[test]
fn our_plane_serves_its_users_with_what_the_original_agent_said() {
    let house = House::with_gateway(GatewayUrl::Stay);
    let front = house.front("bench");
    let token = house.agent_token("bench");
    let mut agent = FakeAgent::dial(&house, "/api/v1/clusters/agent/ws", &token).expect("let in");
    agent.expect("plane_hello");
    let recorded = crate::agent_messages();
    // Asked for something that it doesn't know, it answers like this.
    let (_, fallback) = recorded
        .iter()
        .find(|(_, text)| text.contains("protocol_fallback"))
        .expect("one was recorded");
    agent.send_text(&fallback.replace("capture_unknown", "plane_hello"));

    let mut open: HashMap<String, Asked> = HashMap::new();
    let (mut answered, mut beats) = (0, 0);
    for (line, text) in &recorded {
        let message: Value = serde_json::from_str(text).expect("JSON");
        let kind = message["type"].as_str().expect("a type");
        let of_request = kind.starts_with("proxy_");
        if !of_request {
            // It was registered under another id.
            let known = &message["payload"]["cluster_id"];
            let text = match known.as_str() {
                Some(known) if kind == "heartbeat" => text.replace(known, &agent.cluster_id),
                _ => text.clone(),
            };
            agent.send_text(&text);
        }
        match kind {
            "register" => {
                let success = agent.expect("register_success");
                assert_eq!(success["request_id"], message["request_id"]);
                let id = success["payload"]["cluster_id"].as_str().expect("an id");
                id.clone_into(&mut agent.cluster_id);
                house.attached("bench");
            }
            "heartbeat" => {
                agent.expect("heartbeat_ack");
                beats += 1;
                let view = house.plane.clusters().remove(0);
                let counts = &message["payload"]["metadata"];
                assert_eq!(counts["k8s_nodes"], view.cluster.nodes, "{line}");
                assert_eq!(counts["k8s_pods"], view.cluster.pods, "{line}");
            }
            _ if of_request => {
                let theirs = message["request_id"].as_str().expect("an id").to_owned();
                let mut asked = open
                    .remove(&theirs)
                    .unwrap_or_else(|| Asked::new(&mut agent, &front, &message));
                asked.note(&message["payload"]);
                let (was, is) = (
                    format!("\"request_id\":\"{theirs}\""),
                    format!("\"request_id\":\"{}\"", asked.id),
                );
                assert!(text.contains(&was), "{line}");
                agent.send_text(&text.replace(&was, &is));
                if matches!(kind, "proxy_response_header" | "proxy_response_chunk") {
                    open.insert(theirs, asked);
                } else {
                    asked.check(kind, *line);
                    answered += 1;
                }
            }
            _ => {}
        }
    }
    assert!(open.is_empty(), "the recording leaves none open");
    assert!(answered >= 15 && beats >= 4, "{answered} and {beats}");
    // Nothing of it was taken for an error, and the connection is the first one still.
    agent.send("ping", "last", &serde_json::json!({}));
    loop {
        let message = agent.next().expect("the plane has no reason to hang up");
        assert_ne!(message["type"], "error", "{message}");
        if message["type"] == "pong" {
            break;
        }
    }
    assert!(house.is_connected("bench"));
}
