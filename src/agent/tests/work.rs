//! What an agent does beside staying connected.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::*;
use crate::control::facts::{ClusterFacts, Facts};
use crate::link;
use crate::net::Cancel;
use crate::wire::stream::{CloseText, StreamData, StreamIds, StreamStart};

/// Facts come late, or not at all: neither registration nor heartbeat hangs on them.
#[test]
fn registration_and_heartbeat_carry_what_is_known_of_the_cluster() {
    struct Known;
    impl ClusterFacts for Known {
        fn read(&self, _: Deadline, _: &Cancel) -> Facts {
            Facts {
                nodes: 3,
                pods: 41,
                k8s_version: "v1.36.2".into(),
            }
        }
        fn service_token(&self, _: Deadline, _: &Cancel) -> Option<Secret> {
            Some(Secret::new("sa-token"))
        }
    }
    let peer = Peer::new();
    let mut parts = parts(peer.api_url(), Arc::new(MemoryStore::default()));
    parts.facts = Arc::new(Known);
    let agent = Agent::start(parts).expect("started");
    let mut controller = peer.accept();
    let register = controller.expect("register");
    assert_eq!(register["payload"]["k8s_version"], "v1.36.2");
    assert_eq!(register["payload"]["k8s_service_token"], "sa-token");
    controller.send(&json!({
        "type": "register_success", "request_id": register["request_id"], "payload": {"cluster_id": "c"},
    }));
    let heartbeat = controller.expect("heartbeat");
    let metadata = &heartbeat["payload"]["metadata"];
    assert_eq!(
        (&metadata["k8s_nodes"], &metadata["k8s_pods"]),
        (&json!(3), &json!(41))
    );
    stop(agent, controller);
}

#[test]
fn stopping_while_nobody_answers_is_quick_and_orderly() {
    // The upgrade is never answered.
    let peer = Peer::new();
    let (agent, _) = start(&peer);
    let _silent = peer.stream();
    agent.stop();
    agent.wait().expect("an orderly end");
    // Nobody is there at all.
    let (agent, _) = {
        let gone = Peer::new();
        start(&gone)
    };
    agent.stop();
    agent.wait().expect("an orderly end");
}

#[test]
fn what_runs_is_drained_before_the_close() {
    /// Says when it is asked to drain, and waits for permission.
    struct Slow(Sender<()>, crossbeam_channel::Receiver<()>);
    impl Proxying for Slow {
        fn connection(
            &self,
            outlet: Arc<dyn crate::proxy::Outlet>,
        ) -> Box<dyn crate::control::sinks::RequestSink> {
            Proxying::connection(&peer::no_cluster(), outlet)
        }
        fn drain(&self, _: Deadline) {
            self.0.send(()).expect("told");
            self.1.recv().expect("permission");
        }
    }
    let (asked, asks) = bounded(1);
    let (allow, allowed) = bounded(1);
    let peer = Peer::new();
    let mut parts = parts(peer.api_url(), Arc::new(MemoryStore::default()));
    parts.proxy = Arc::new(Slow(asked, allowed));
    let agent = Agent::start(parts).expect("started");
    peer.register(Some(&peer.gateway_url()));
    let mut gateway = peer.accept();
    gateway.ack();
    agent.stop();
    asks.recv().expect("asked");
    // Still there, still answering.
    gateway.send(&json!({"type": "ping"}));
    gateway.expect("pong");
    allow.send(()).expect("allowed");
    assert_eq!(gateway.closed(), Some(1000));
    drop(gateway);
    agent.wait().expect("an orderly end");
}

/// A late answer of a lost connection reaches the next one (decisions.md §6.2).
#[test]
fn an_answer_survives_a_lost_connection() {
    type Outlets = Arc<Mutex<VecDeque<(String, Arc<dyn crate::proxy::Outlet>)>>>;
    /// Keeps the outlet of each request, to answer later.
    struct Keeper(Outlets);
    struct Keeping(Arc<dyn crate::proxy::Outlet>, Outlets);
    impl Proxying for Keeper {
        fn connection(
            &self,
            outlet: Arc<dyn crate::proxy::Outlet>,
        ) -> Box<dyn crate::control::sinks::RequestSink> {
            Box::new(Keeping(outlet, self.0.clone()))
        }
        fn drain(&self, _: Deadline) {}
    }
    impl crate::control::sinks::RequestSink for Keeping {
        fn request(&mut self, id: &str, _: crate::wire::ProxyRequest<'_>) {
            self.1.lock().push_back((id.to_owned(), self.0.clone()));
        }
        fn binary(&mut self, _: &[u8]) -> bool {
            false
        }
        fn text_arrived(&mut self) {}
        fn chunk(&mut self, _: &str, _: Option<&str>) {}
        fn end(&mut self, _: &str) {}
        fn cancel(&mut self, _: &str) {}
        fn use_flow_control(&mut self) {}
        fn refuse_binary_bodies(&mut self) {}
        fn credit(&mut self, _: &str, _: u64) {}
        fn start_stream(&mut self, _: &StreamStart<'_>) {}
        fn stream_data(&mut self, _: &StreamData<'_>) {}
        fn close_stream(&mut self, _: &StreamIds<'_>, _: Option<CloseText<'_>>) {}
        fn use_raw_streams(&mut self) {}
    }
    let outlets = Outlets::default();
    let peer = Peer::new();
    let mut parts = parts(peer.api_url(), Arc::new(MemoryStore::default()));
    parts.proxy = Arc::new(Keeper(outlets.clone()));
    let agent = Agent::start(parts).expect("started");
    peer.register(Some(&peer.gateway_url()));
    let mut gateway = peer.accept();
    gateway.ack();
    for id in ["a", "b"] {
        gateway.send(&json!({"type": "proxy_request", "request_id": id, "payload": {"path": "/"}}));
    }
    gateway.send(&json!({"type": "ping"}));
    gateway.expect("pong");
    gateway.cut();
    agent
        .wait_until(far(), |status| {
            status.state == ConnectionState::Reconnecting
        })
        .expect("noticed");
    let answer = |id: &str| {
        let message = link::Message::text(64, |buf| {
            crate::wire::from_agent::proxy_error(buf, id, "late");
        });
        let mut outlets = outlets.lock();
        let (of, outlet) = outlets.pop_front().expect("a request");
        assert_eq!(of, id);
        drop(outlets);
        let _ = outlet.send_late(id, message, &Cancel::new());
    };
    // One is ready before the new connection, one after it.
    answer("a");
    let mut gateway = peer.accept();
    gateway.ack();
    assert_eq!(gateway.expect("proxy_error")["request_id"], "a");
    answer("b");
    assert_eq!(gateway.expect("proxy_error")["request_id"], "b");
    stop(agent, gateway);
}

/// The join token of k3s goes out only where a setting says so, and only in
/// heartbeats.
#[test]
fn t37_the_join_token_leaves_only_when_a_setting_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("node-token");
    std::fs::write(&file, "K10abc::server:geheim\n").expect("written");
    for asked in [false, true] {
        let peer = Peer::new();
        let mut parts = parts(peer.api_url(), Arc::new(MemoryStore::default()));
        parts.node_token.clone_from(&file);
        parts.report_worker_join = asked;
        parts.registrant.host.server_ip = "10.0.0.1".into();
        let agent = Agent::start(parts).expect("started");
        let register = peer.register(Some(&peer.gateway_url()));
        assert!(!register.to_string().contains("geheim"), "{register}");
        let mut gateway = peer.accept();
        let heartbeat = gateway.expect("heartbeat");
        let join = heartbeat["payload"].get("worker_join");
        if asked {
            let join = join.expect("it was asked for");
            assert_eq!(join["server_url"], "https://10.0.0.1:6443");
            assert_eq!(join["env"]["K3S_TOKEN"], "K10abc::server:geheim");
        } else {
            assert!(join.is_none(), "{heartbeat}");
            assert!(!heartbeat.to_string().contains("geheim"), "{heartbeat}");
        }
        stop(agent, gateway);
    }
}
