//! What a connection of the agent has taken is given back, however often it is cut.
//! A process of its own, because it counts the threads and descriptors of the whole
//! process.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pipeops_agent::agent::{Agent, Parts};
use pipeops_agent::config::{Secret, TokenSource};
use pipeops_agent::control::facts::NoCluster;
use pipeops_agent::control::host::Host;
use pipeops_agent::control::registration::Registrant;
use pipeops_agent::control::{heartbeat, session};
use pipeops_agent::identity::{Identity, MemoryStore, credentials_hash};
use pipeops_agent::link;
use pipeops_agent::net::{ClientTls, ClientTlsSettings, Dialer};
use pipeops_agent::proxy::{self, Executor};
use pipeops_agent::server::HealthState;
use pipeops_agent::telemetry::metrics;
use pipeops_agent::tunnel::Tunnels;
use pipeops_agent::tunnel::connection::{self, NoTargets};
use pipeops_agent::tunnel::session::Memory;
use pipeops_agent::url::Url;
use tungstenite::{Message, WebSocket};

fn parts(address: &str, token: &str) -> Parts {
    let quick = Duration::from_millis(1);
    let controller = format!("ws://{address}/api/v1/clusters/agent/ws?");
    let tls = ClientTls::new(ClientTlsSettings::default()).expect("settings");
    Parts {
        session: session::Settings {
            reconnect_first: quick,
            reconnect_cap: quick,
            ..session::Settings::default()
        },
        heartbeat: heartbeat::Settings::default(),
        link: link::Settings::new(link::Role::Client),
        api_url: Url::parse(&format!("http://{address}")).expect("a URL"),
        token: TokenSource::Literal(Secret::new(token)),
        registrant: Registrant {
            agent_id: "a".into(),
            agent_version: "1".into(),
            cluster_name: "c".into(),
            labels: BTreeMap::new(),
            host: Host::read(),
            has_cluster: false,
        },
        is_private: true,
        report_worker_join: false,
        node_token: "/nowhere/node-token".into(),
        http_limit: Duration::from_secs(30),
        heartbeat_limit: Duration::from_secs(10),
        shutdown_limit: Duration::from_secs(25),
        dialer: Dialer::new(Arc::new(tls)),
        proxy: Arc::new(Executor::new(proxy::Settings::default(), None)),
        tunnels: Tunnels::new(
            connection::Settings::default(),
            Memory::new(64 << 20),
            NoTargets,
        ),
        json_tunnels: None,
        facts: Arc::new(NoCluster),
        store: Arc::new(MemoryStore::new(Identity {
            cluster_id: Some("c-1".into()),
            gateway_ws_url: Some(format!("ws://{address}")),
            credentials_hash: Some(credentials_hash(&controller, token)),
            ..Identity::default()
        })),
        health: Arc::new(HealthState::new(Duration::from_secs(30))),
    }
}

fn accept(listener: &TcpListener) -> WebSocket<TcpStream> {
    let (stream, _) = listener.accept().expect("accept");
    tungstenite::accept(stream).expect("the upgrade")
}

fn message(socket: &mut WebSocket<TcpStream>) -> String {
    loop {
        if let Message::Text(text) = socket.read().expect("a message") {
            return text.to_string();
        }
    }
}

/// Threads and open descriptors.
fn taken() -> (usize, usize) {
    let count = |path| fs::read_dir(path).expect("proc").count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

fn tunnel_status() -> Option<f64> {
    metrics::snapshot().value("pipeops_tunnel_status")
}

#[test]
fn a_thousand_cuts_leave_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let agent = Agent::start(parts(&address, "t")).expect("started");
    let mut after_ten = (0, 0);
    for cut in 0..1_000 {
        if cut % 7 == 6 {
            // Cut before the upgrade is answered.
            drop(listener.accept().expect("accept"));
            continue;
        }
        let mut gateway = accept(&listener);
        assert!(message(&mut gateway).contains(r#""type":"heartbeat""#));
        if cut % 2 == 0 {
            // With a refusal under way, so that its thread exists.
            let request = r#"{"type":"proxy_request","request_id":"r","payload":{}}"#;
            gateway.send(Message::text(request)).expect("sent");
            assert!(message(&mut gateway).contains("proxy_error"));
        }
        if cut == 10 {
            after_ten = taken();
        }
        gateway.get_ref().shutdown(Shutdown::Both).expect("cut");
    }
    let mut gateway = accept(&listener);
    message(&mut gateway);
    assert_eq!(tunnel_status(), Some(0.0), "none has said hello");
    let hello = r#"{"type":"gateway_hello","payload":{"use_yamux":true}}"#;
    gateway.send(Message::text(hello)).expect("sent");
    assert!(message(&mut gateway).contains("gateway_hello_ack"));
    let patience = Instant::now() + Duration::from_secs(30);
    while tunnel_status() != Some(1.0) {
        assert!(Instant::now() < patience, "a session is never seen");
        thread::yield_now();
    }
    // The last threads of the cut connections may be on their way out.
    let patience = Instant::now() + Duration::from_secs(30);
    let leaked = || {
        let (threads, descriptors) = taken();
        threads > after_ten.0 || descriptors > after_ten.1
    };
    while leaked() && Instant::now() < patience {
        thread::yield_now();
    }
    assert!(!leaked(), "{after_ten:?} after ten cuts, now {:?}", taken());
    agent.stop();
    while gateway.read().is_ok() {}
    drop(gateway);
    agent.wait().expect("an orderly end");
    assert_eq!(tunnel_status(), Some(0.0));
}
