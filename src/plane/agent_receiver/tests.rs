//! An agent that says whatever it likes.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver as Events, bounded};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::link::{Lane, Message, SendError};
use crate::net::Cancel;
use crate::plane::agent_connection::Channel;
use crate::plane::budget::Budget;
use crate::plane::exchange::Failure;
use crate::plane::flow::UNMETERED_LIMIT;
use crate::plane::in_flight::InFlight;
use crate::plane::registry::AgentInfo;
use crate::testing;

/// Counts how often the connection was given up.
#[derive(Clone, Default)]
struct Aborts(Arc<AtomicUsize>);

impl Channel for Aborts {
    fn send(&self, _: Lane, _: Message, _: &Cancel) -> Result<(), SendError> {
        Ok(())
    }

    fn close(&self, _: u16, _: &str) {}

    fn abort(&self, _: &str) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two requests on one connection: one that the agent answers, one of somebody else.
struct Scene {
    receiver: AgentReceiver,
    events: Events<AgentEvent>,
    aborts: Aborts,
    budget: Arc<Budget>,
    answered: InFlight,
    other: InFlight,
}

/// What nobody reads fills up soon.
const EVENTS: usize = 4;
const MEMORY: usize = 1 << 20;

impl Scene {
    fn new(metered: bool) -> Self {
        let budget = Budget::new(MEMORY);
        let connection = Arc::new(AgentConnection::new("t".to_owned(), 0, budget.clone()));
        let aborts = Aborts::default();
        connection.connect(Box::new(aborts.clone()));
        if metered {
            connection.set_metered();
        }
        let open = || connection.open("u".to_owned()).expect("open");
        let (answered, other) = (open(), open());
        for opened in [&answered, &other] {
            opened.exchange().announce();
        }
        let (sender, events) = bounded(EVENTS);
        Self {
            receiver: AgentReceiver::new(connection, sender, Memory::new(MEMORY)),
            events,
            aborts,
            budget,
            answered,
            other,
        }
    }
}

/// What has come of a request whose connection has ended.
fn outcome(request: &InFlight) -> Result<(u16, Vec<u8>), Failure> {
    let exchange = request.exchange();
    let head = exchange.wait_head()?;
    let mut body = Vec::new();
    while let Some(piece) = exchange.next()? {
        exchange.passed_on(piece.len());
        body.extend_from_slice(&piece);
    }
    Ok((head.status, body))
}

/// One message: of a known type or none, of the request or of nobody.
#[derive(Clone, Debug)]
struct Said {
    kind: String,
    ours: bool,
    id: Value,
    payload: Value,
}

impl Said {
    fn text(&self, id: &str) -> String {
        let id = if self.ours {
            json!(id)
        } else {
            self.id.clone()
        };
        json!({"type": self.kind, "request_id": id, "payload": self.payload}).to_string()
    }
}

fn body() -> impl Strategy<Value = Value> {
    let bytes = prop::collection::vec(any::<u8>(), 0..4000);
    prop_oneof![
        bytes
            .clone()
            .prop_map(|bytes| base64_simd::STANDARD.encode_to_string(bytes).into()),
        // Gzip, and its first half.
        (bytes, any::<bool>()).prop_map(|(bytes, whole)| {
            use std::io::Write as _;
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&bytes).expect("written");
            let mut packed = gzip.finish().expect("packed");
            packed.truncate(if whole {
                packed.len()
            } else {
                packed.len() / 2
            });
            base64_simd::STANDARD.encode_to_string(packed).into()
        }),
        testing::json(),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    const FIELDS: &[&str] = &[
        "status",
        "headers",
        "encoding",
        "size",
        "error",
        "credit",
        "features",
        "name",
        "agent_id",
        "agent_version",
        "cluster_id",
        "hostname",
        "k8s_version",
        "k8s_service_token",
        "metadata",
        "unknown_type",
        "use_yamux",
    ];
    const KINDS: &[&str] = &[
        "register",
        "heartbeat",
        "ping",
        "pong",
        "protocol_fallback",
        "gateway_hello_ack",
        "plane_hello_ack",
        "proxy_flow",
        "proxy_response",
        "proxy_response_header",
        "proxy_response_header",
        "proxy_response_chunk",
        "proxy_response_chunk",
        "proxy_response_chunk",
        "proxy_response_end",
        "proxy_response_abort",
        "proxy_error",
        "proxy_request",
    ];
    let kind = prop_oneof![
        9 => prop::sample::select(KINDS).prop_map(str::to_owned),
        1 => testing::text(),
    ];
    let encoding = prop::option::of(prop::sample::select(vec!["gzip", "base64", "br"]));
    let fields = (testing::object(FIELDS), body(), encoding).prop_map(
        |(mut fields, body, encoding): (Map<_, _>, _, _)| {
            fields.insert("data".to_owned(), body.clone());
            fields.insert("body".to_owned(), body);
            if let Some(encoding) = encoding {
                fields.insert("encoding".to_owned(), encoding.into());
            }
            Value::Object(fields)
        },
    );
    let payload = prop_oneof![9 => fields, 1 => testing::json()];
    // Metadata, headers: objects of whatever, now and then.
    (kind, any::<bool>(), testing::json(), payload).prop_map(|(kind, ours, id, payload)| Said {
        kind,
        ours,
        id,
        payload,
    })
}

proptest! {
    /// It may spoil its own answer; the reader never waits and never panics, nothing
    /// is kept beyond its limit, and nobody else notices.
    #[test]
    fn a_hostile_agent_harms_no_request_but_its_own(
        messages in prop::collection::vec(said(), 0..24),
        raw in prop::collection::vec(any::<u8>(), 0..60),
        in_binary: bool,
        metered: bool,
    ) {
        let mut scene = Scene::new(metered);
        let id = scene.answered.exchange().id().to_owned();
        for message in &messages {
            let text = message.text(&id);
            if in_binary {
                scene.receiver.binary(text.as_bytes());
            } else {
                scene.receiver.text(&text);
            }
        }
        scene.receiver.binary(&raw);
        scene.receiver.text(&String::from_utf8_lossy(&raw));
        // What can't be read by anybody ends the connection instead of waiting.
        let kept = scene.events.try_iter().count();
        assert!(kept == EVENTS || scene.aborts.0.load(Ordering::Relaxed) == 0);

        // The connection ends; so does every request on it.
        let Scene { receiver, budget, answered, other, .. } = scene;
        drop(receiver);
        match outcome(&answered) {
            Ok((status, body)) => {
                assert!((100..=999).contains(&status), "{status}");
                assert!(body.len() as u64 <= UNMETERED_LIMIT);
            }
            Err(Failure::Agent(text)) => {
                assert!(text.len() <= AgentInfo::LIMIT && !text.contains(char::is_control));
            }
            Err(_) => {}
        }
        let untouched = other.exchange().wait_head().map(|head| head.status);
        assert_eq!(untouched, Err(Failure::AgentGone));
        drop((answered, other));
        // The last of it is dropped with whoever holds the request.
        assert_eq!(budget.left(), MEMORY, "memory was not given back");
    }

    /// What goes to disk and into tables has a size and no line ends.
    #[test]
    fn what_an_agent_says_of_itself_is_cut_to_size(
        fields in prop::collection::vec(
            (
                prop::sample::select(vec![
                    "name", "agent_id", "agent_version", "cluster_id", "hostname", "k8s_version",
                    "k8s_service_token",
                ]).prop_map(str::to_owned),
                testing::text().prop_map(Value::String),
            ),
            0..10,
        ),
        id in testing::text(),
    ) {
        let mut scene = Scene::new(true);
        let payload = Value::Object(fields.into_iter().collect());
        for kind in ["register", "heartbeat"] {
            let message = json!({"type": kind, "request_id": id, "payload": payload});
            scene.receiver.text(&message.to_string());
        }
        let is_tidy = |text: &str| text.len() <= AgentInfo::LIMIT && !text.contains(char::is_control);
        for event in scene.events.try_iter() {
            match event {
                AgentEvent::Register { request_id, registration } => {
                    assert!(request_id.len() <= MAX_ID);
                    let agent = &registration.agent;
                    for text in [
                        &registration.name, &agent.id, &agent.version, &agent.kubernetes, &agent.hostname,
                    ] {
                        assert!(is_tidy(text), "{text:?}");
                    }
                }
                AgentEvent::Heartbeat(beat) => {
                    assert!(is_tidy(&beat.agent_id) && is_tidy(&beat.cluster_id), "{beat:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
