mod tunnels;

use parking_lot::Mutex;

use super::*;
use crate::link::{Lane, Message};
use crate::net::Cancel;
use crate::plane::agent_connection::Channel;
use crate::plane::budget::Budget;
use crate::plane::registry::{AgentInfo, Registry};
use crate::plane::token::Grant;

/// A connection that remembers what was sent on it.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<String>>>);

impl Sent {
    fn note(&self, text: String) {
        self.0.lock().push(text);
    }

    /// What was sent since the last call, without its time.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Channel for Sent {
    fn send(&self, _: Lane, message: Message, _: &Cancel) -> Result<(), SendError> {
        let text = String::from_utf8(message.payload().to_vec()).expect("text");
        let end = text.find(",\"timestamp\"").expect("an envelope");
        self.note(text[..end].to_owned());
        Ok(())
    }

    fn close(&self, code: u16, reason: &str) {
        self.note(format!("close {code} {reason}"));
    }

    fn abort(&self, why: &str) {
        self.note(format!("abort {why}"));
    }
}

struct House {
    hub: Arc<Hub>,
    /// The id of an agent's token.
    token: String,
    now: Instant,
    _directory: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let registry = Registry::open(directory.path()).expect("opens");
        let hub = Arc::new(Hub::new(registry));
        let grant = Grant::Agent { cluster: name() };
        Self {
            token: hub.create_token(grant, None).expect("made").0.id,
            hub,
            now: Instant::now(),
            _directory: directory,
        }
    }

    fn dial(&self, endpoint: Endpoint) -> (Dialogue, Sent) {
        let connection = Arc::new(AgentConnection::new(self.token.clone(), 0, Budget::new(0)));
        let sent = Sent::default();
        connection.connect(Box::new(sent.clone()));
        self.hub.enter(&connection).expect("room");
        let mut dialogue = Dialogue::new(self.hub.clone(), connection, name(), endpoint, self.now);
        assert_eq!(dialogue.start(), Next::Continue);
        let hello = sent.0.lock().remove(0);
        assert_eq!(
            hello,
            r#"{"type":"plane_hello","payload":{"features":["flow","raw-streams","tunnel_header_2"]}"#
        );
        (dialogue, sent)
    }

    fn controller(&self) -> (Dialogue, Sent) {
        self.dial(Endpoint::Controller { gateway: None })
    }

    /// A gateway's connection that has answered the hello.
    fn gateway(&self) -> (Dialogue, Sent) {
        let cluster_id = self
            .hub
            .registry
            .cluster(&name())
            .map_or_else(String::new, |c| c.id);
        let (mut dialogue, sent) = self.dial(Endpoint::Gateway {
            cluster_id,
            yamux: false,
        });
        assert_eq!(dialogue.handle(HELLO), Next::Continue);
        (dialogue, sent)
    }

    /// Registers `agent` over a connection that ends at once.
    fn registered(&self, agent: &str) {
        let (mut dialogue, _) = self.controller();
        assert_eq!(dialogue.handle(register(agent)), Next::Continue);
        self.hub.leave(&dialogue.connection);
    }

    fn beat(&self, agent: &str) -> AgentEvent {
        AgentEvent::Heartbeat(Heartbeat {
            cluster_id: self
                .hub
                .registry
                .cluster(&name())
                .map_or_else(String::new, |c| c.id),
            agent_id: agent.into(),
            nodes: 3,
            pods: 41,
        })
    }

    fn attached(&self) -> Option<u64> {
        self.hub.connection(&name()).map(|s| s.id())
    }
}

const HELLO: AgentEvent = AgentEvent::Hello {
    flow: true,
    raw_streams: false,
    client_addresses: false,
};

fn name() -> ClusterName {
    ClusterName::parse("edge").expect("a name")
}

fn register(agent: &str) -> AgentEvent {
    register_as("edge", agent)
}

fn register_as(cluster: &str, agent: &str) -> AgentEvent {
    AgentEvent::Register {
        request_id: "req_1".into(),
        registration: Box::new(RegisterRequest {
            name: cluster.into(),
            agent: AgentInfo::new(agent, "1.0", "v1.36.3", "node-1"),
            service_token: None,
        }),
    }
}

fn is(text: &str, kind: &str, part: &str) -> bool {
    text.starts_with(&format!("{{\"type\":{kind:?}")) && text.contains(part)
}

#[test]
fn an_agent_that_stays_gets_requests_after_registration_and_hello() {
    let house = House::new();
    let (mut dialogue, sent) = house.controller();
    assert_eq!(dialogue.handle(register("a")), Next::Continue);
    let answer = sent.take();
    assert!(
        is(&answer[0], "register_success", "\"request_id\":\"req_1\""),
        "{answer:?}"
    );
    assert!(!answer[0].contains("gateway_ws_url"));
    assert_eq!(
        house.attached(),
        None,
        "before the hello is answered nothing is sent"
    );
    assert_eq!(dialogue.handle(HELLO), Next::Continue);
    assert_eq!(house.attached(), Some(dialogue.connection.id()));
}

#[test]
fn an_agent_that_is_sent_on_gets_requests_at_the_gateway_only() {
    let house = House::new();
    let gateway = Some("wss://gateway/ws".to_owned());
    let (mut dialogue, sent) = house.dial(Endpoint::Controller { gateway });
    dialogue.handle(HELLO);
    dialogue.handle(register("a"));
    assert!(is(&sent.take()[0], "register_success", "wss://gateway/ws"));
    assert_eq!(house.attached(), None);
    house.hub.leave(&dialogue.connection);
    let (dialogue, _) = house.gateway();
    assert_eq!(
        house.attached(),
        Some(dialogue.connection.id()),
        "before its first heartbeat"
    );
}

#[test]
fn an_agent_that_does_not_know_the_hello_is_waited_for_and_then_served() {
    let house = House::new();
    let (mut dialogue, _) = house.controller();
    dialogue.handle(register("a"));
    let until = dialogue.deadline().expect("waits");
    assert_eq!(dialogue.timeout(until), Next::Continue);
    assert_eq!(house.attached(), Some(dialogue.connection.id()));
    assert_eq!(dialogue.deadline(), None);
    // An answer now: it would count credit where we don't.
    assert!(matches!(dialogue.handle(HELLO), Next::Abort(_)));
}

#[test]
fn a_connection_on_which_nothing_is_registered_ends() {
    let house = House::new();
    let (mut dialogue, _) = house.controller();
    dialogue.handle(HELLO);
    let until = dialogue.deadline().expect("waits");
    assert!(matches!(dialogue.timeout(until), Next::Close(1000, _)));
}

#[test]
fn the_wrong_name_is_refused_with_the_request_id() {
    let house = House::new();
    let (mut dialogue, sent) = house.controller();
    let next = dialogue.handle(register_as("other", "a"));
    assert!(matches!(next, Next::Close(1008, _)));
    let error = sent.take().remove(0);
    assert!(is(&error, "error", "\"request_id\":\"req_1\""), "{error}");
    assert!(house.hub.clusters().is_empty());
}

#[test]
fn a_second_agent_is_refused_while_the_first_is_connected() {
    let house = House::new();
    house.registered("a");
    let (mut first, _) = house.gateway();
    first.handle(house.beat("a"));
    let (mut second, sent) = house.controller();
    assert!(matches!(second.handle(register("b")), Next::Close(1008, _)));
    assert!(is(
        &sent.take()[0],
        "error",
        "another agent (a) is connected"
    ));
    assert_eq!(house.attached(), Some(first.connection.id()));
    // Gone, the place is free.
    house.hub.leave(&first.connection);
    let (mut second, _) = house.controller();
    assert_eq!(second.handle(register("b")), Next::Continue);
}

#[test]
fn an_agent_is_not_locked_out_by_its_own_dead_connection() {
    let house = House::new();
    house.registered("a");
    let (mut dead, dead_sent) = house.gateway();
    dead.handle(house.beat("a"));
    dead_sent.take();
    let (mut again, _) = house.gateway();
    assert_eq!(
        house.attached(),
        Some(dead.connection.id()),
        "nobody has said who it is yet"
    );
    assert_eq!(again.handle(house.beat("a")), Next::Continue);
    assert_eq!(house.attached(), Some(again.connection.id()));
    assert!(dead_sent.take()[0].starts_with("abort"));
    // And over the controller as well.
    let (mut third, _) = house.controller();
    assert_eq!(third.handle(register("a")), Next::Continue);
    assert_eq!(third.handle(HELLO), Next::Continue);
    assert_eq!(house.attached(), Some(third.connection.id()));
}

#[test]
fn a_heartbeat_before_the_hello_is_answered_is_no_reason_to_wait_for_the_next() {
    let house = House::new();
    house.registered("a");
    let (mut dead, _) = house.gateway();
    dead.handle(house.beat("a"));
    let cluster_id = house.hub.registry.cluster(&name()).expect("known").id;
    let (mut again, sent) = house.dial(Endpoint::Gateway {
        cluster_id,
        yamux: false,
    });
    assert_eq!(again.handle(house.beat("a")), Next::Continue);
    assert_eq!(house.attached(), Some(dead.connection.id()));
    // Acknowledged it would be taken for connected, and requests would be refused.
    assert_eq!(sent.take(), [""; 0]);
    assert_eq!(again.handle(HELLO), Next::Continue);
    assert_eq!(house.attached(), Some(again.connection.id()));
    assert!(is(&sent.take()[0], "heartbeat_ack", "received_at"));
}

#[test]
fn a_heartbeat_of_an_agent_that_does_not_know_the_hello_is_acknowledged_later() {
    let house = House::new();
    house.registered("a");
    let cluster_id = house.hub.registry.cluster(&name()).expect("known").id;
    let (mut dialogue, sent) = house.dial(Endpoint::Gateway {
        cluster_id,
        yamux: false,
    });
    assert_eq!(dialogue.handle(house.beat("a")), Next::Continue);
    let until = dialogue.deadline().expect("waits");
    assert_eq!(dialogue.timeout(until), Next::Continue);
    assert!(is(&sent.take()[0], "heartbeat_ack", "received_at"));
    assert_eq!(sent.take(), [""; 0]);
}

#[test]
fn a_gateway_connection_of_an_agent_that_was_replaced_is_sent_to_register() {
    let house = House::new();
    house.registered("a");
    house.registered("b");
    let (mut old, sent) = house.gateway();
    assert_eq!(old.handle(house.beat("a")), Next::Continue);
    assert!(is(&sent.take()[0], "error", "not registered"));
    assert_eq!(house.attached(), None);
    let (mut new, _) = house.gateway();
    assert_eq!(new.handle(house.beat("b")), Next::Continue);
    assert_eq!(house.attached(), Some(new.connection.id()));
}

#[test]
fn heartbeats_are_acknowledged_and_counted() {
    let house = House::new();
    house.registered("a");
    let (mut dialogue, sent) = house.gateway();
    assert_eq!(dialogue.handle(house.beat("a")), Next::Continue);
    assert!(is(&sent.take()[0], "heartbeat_ack", "received_at"));
    let view = house.hub.clusters().remove(0);
    assert_eq!(
        (view.cluster.nodes, view.cluster.pods, view.connected),
        (3, 41, true)
    );
}

#[test]
fn an_unknown_cluster_is_told_so_at_once_and_at_each_heartbeat() {
    let house = House::new();
    let (mut dialogue, sent) = house.gateway();
    assert!(is(&sent.take()[0], "error", "cluster not registered"));
    assert_eq!(dialogue.handle(house.beat("a")), Next::Continue);
    assert!(is(&sent.take()[0], "error", "cluster not registered"));
    assert_eq!(house.attached(), None);
}

#[test]
fn a_registered_agent_that_only_sends_heartbeats_to_the_controller_is_served() {
    let house = House::new();
    house.registered("a");
    let (mut dialogue, _) = house.controller();
    dialogue.handle(HELLO);
    assert_eq!(dialogue.handle(house.beat("a")), Next::Continue);
    assert_eq!(house.attached(), Some(dialogue.connection.id()));
}

#[test]
fn revoking_a_token_ends_its_connection() {
    let house = House::new();
    let (_, sent) = house.controller();
    let revoked = house.hub.revoke_token(&house.token).expect("written");
    assert!(revoked.is_some());
    assert!(sent.take()[0].starts_with("abort"));
    let late = Arc::new(AgentConnection::new(house.token.clone(), 0, Budget::new(0)));
    assert!(house.hub.enter(&late).is_err());
}

#[test]
fn dead_connections_of_an_agent_do_not_lock_it_out() {
    let house = House::new();
    house.registered("a");
    let (mut used, used_sent) = house.gateway();
    used.handle(house.beat("a"));
    used_sent.take();
    let dead: Vec<Sent> = (0..8).map(|_| house.controller().1).collect();
    let given_up = dead.iter().filter(|sent| !sent.take().is_empty()).count();
    assert_eq!(given_up, 1, "the oldest that isn't in use");
    assert!(used_sent.take().is_empty());
}

#[test]
fn a_token_has_a_limited_number_of_connections() {
    let house = House::new();
    let connection = || Arc::new(AgentConnection::new(house.token.clone(), 0, Budget::new(0)));
    let first = connection();
    house.hub.enter(&first).expect("room");
    while house.hub.enter(&connection()).is_ok() {}
    assert!(house.hub.connections().len() < 20);
    house.hub.leave(&first);
    assert!(house.hub.enter(&connection()).is_ok());
}

/// Between the look at its token and its link an agent may take ten seconds for the
/// answer to its upgrade.
#[test]
fn what_ends_a_connection_before_its_link_stands_ends_it_then() {
    let house = House::new();
    let arrive = || {
        let connection = Arc::new(AgentConnection::new(house.token.clone(), 0, Budget::new(0)));
        house.hub.enter(&connection).expect("room");
        connection
    };
    let stands = |connection: &AgentConnection| {
        let sent = Sent::default();
        connection.connect(Box::new(sent.clone()));
        sent.take()
    };
    let (revoked, stopped) = (arrive(), arrive());
    house.hub.revoke_token(&house.token).expect("revoked");
    assert_eq!(stands(&revoked), ["abort its token was revoked"]);
    house.hub.close(Instant::now());
    assert_eq!(stands(&stopped), ["abort the plane stops"]);
}

/// What it had said waited for the disk, and the agent has dialled anew since.
#[test]
fn a_connection_that_has_ended_takes_no_place() {
    let house = House::new();
    house.registered("a");
    let (mut old, _) = house.controller();
    assert_eq!(old.handle(HELLO), Next::Continue);
    let (mut new, _) = house.gateway();
    assert_eq!(new.handle(house.beat("a")), Next::Continue);
    old.connection.on_link_ended();
    assert_eq!(old.handle(register("a")), Next::Continue);
    assert_eq!(house.attached(), Some(new.connection.id()));
}
