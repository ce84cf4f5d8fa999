//! TCP and UDP tunnels in JSON messages (tunnels.md §4): a scripted exchange for each
//! of its traps, with targets on loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

use base64_simd::STANDARD as BASE64;
use pipeops_agent::agent::{Agent, Surroundings, Tunnelling};
use pipeops_agent::config::{Config, Origin};
use pipeops_agent::tunnel::json::JsonTunnels;
use serde_json::{Value, json};

use crate::stage::{Stage, far};

/// An agent that has tunnels.
struct Tunnels {
    agent: Agent,
    json: Arc<JsonTunnels>,
}

impl Tunnels {
    fn start(stage: &Stage, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = stage.config();
        config.tunnels.enabled = true;
        change(&mut config);
        let tunnels =
            Tunnelling::start(&config, Surroundings::Machine, None).expect("good settings");
        let json = tunnels.json.expect("they are enabled");
        let agent = stage.start_with(|parts| {
            parts.tunnels = tunnels.streams;
            parts.json_tunnels = Some(json.clone());
        });
        Self { agent, json }
    }

    /// The last act: nothing of any tunnel is left.
    fn end(self, stage: Stage, conn: &str) {
        stage.end(self.agent, conn);
        self.json.finish(far());
        assert_eq!(self.json.live(), (0, 0));
    }
}

impl Stage {
    fn open(&self, id: &str, listener: &TcpListener) -> TcpStream {
        let port = listener.local_addr().expect("address").port();
        self.gateway.send(
            "tcp_tunnel_start",
            id,
            json!({
                "tunnel_id": "tcp-8b0e-tcp-gateway-5432", "gateway_name": "tcp-gateway",
                "gateway_namespace": "pipeops-system", "gateway_port": port,
                "client_addr": "198.51.100.7:51512",
            }),
        );
        let (target, _) = listener.accept().expect("connection");
        target
            .set_read_timeout(Some(far().remaining().expect("time")))
            .expect("set");
        target
    }

    fn data(&self, id: &str, bytes: &[u8]) {
        let data = BASE64.encode_to_string(bytes);
        self.gateway
            .send("tcp_tunnel_data", id, json!({"data": data}));
    }

    fn tcp_closed(&self, conn: &str, id: &str) -> Value {
        let close =
            json!({"event": "message", "conn": conn, "type": "tcp_tunnel_close", "request_id": id});
        self.gateway.expect(close)["envelope"]["payload"].clone()
    }

    /// All that came from the target by now.
    fn received(&self, conn: &str, id: &str) -> Vec<u8> {
        let data =
            json!({"event": "message", "conn": conn, "type": "tcp_tunnel_data", "request_id": id});
        let messages = self.gateway.seen(&data);
        let decode = |message: &Value| {
            let text = message["envelope"]["payload"]["data"]
                .as_str()
                .expect("text");
            BASE64.decode_to_vec(text).expect("base64")
        };
        messages.iter().flat_map(decode).collect()
    }
}

fn listen() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).expect("bind")
}

fn read_exactly(target: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    target.read_exact(&mut bytes).expect("all of it");
    bytes
}

fn assert_reset(target: &mut TcpStream) {
    let error = target
        .read_to_end(&mut Vec::new())
        .expect_err("a clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// T20, T22, T26: on the controller, the gateway, and the gateway once more.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn tt20_tcp_works_on_the_controller_the_gateway_and_after_a_reconnect() {
    let listener = listen();
    let bytes: Vec<u8> = (0..500_000_u32).map(|i| (i * 7 + i / 256) as u8).collect();
    let exchange = |stage: &Stage, conn: &str| {
        let mut target = stage.open("c-1", &listener);
        for piece in bytes.chunks(3_001) {
            stage.data("c-1", piece);
        }
        assert!(read_exactly(&mut target, bytes.len()) == bytes, "mixed up");
        target.write_all(&bytes).expect("written");
        drop(target);
        let close = stage.tcp_closed(conn, "c-1");
        assert_eq!(close["reason"], "service_closed");
        assert_eq!(close["bytes_sent"], bytes.len());
        assert_eq!(close["bytes_received"], bytes.len());
        assert!(stage.received(conn, "c-1") == bytes, "mixed up");
    };
    let stage = Stage::without_gateway();
    let agent = Tunnels::start(&stage, |_| {});
    let controller = stage.gateway.connection("controller");
    stage.heartbeat_on(&controller);
    exchange(&stage, &controller);
    agent.end(stage, &controller);

    let stage = Stage::new();
    let agent = Tunnels::start(&stage, |_| {});
    let gateway = stage.arrived();
    exchange(&stage, &gateway);
    // What is open when the connection goes must not look finished to its target.
    let mut target = stage.open("cut", &listener);
    stage.data("cut", b"half an upload");
    read_exactly(&mut target, 4);
    stage.gateway.drop_connection();
    assert_reset(&mut target);
    let gateway = stage.gateway.connection("gateway");
    stage.heartbeat_on(&gateway);
    exchange(&stage, &gateway);
    agent.end(stage, &gateway);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn tt21_disabled_tunnels_refuse_a_start_and_drop_the_rest() {
    let stage = Stage::new();
    let agent = stage.start();
    let gateway = stage.arrived();
    stage
        .gateway
        .send("tcp_tunnel_start", "c-1", json!({"gateway_port": 5432}));
    let close = stage.tcp_closed(&gateway, "c-1");
    let want = json!({"reason": "registration_failed", "error": "tunnels disabled"});
    assert_eq!(close, want);
    stage.data("c-1", b"x");
    stage.gateway.send(
        "udp_tunnel_data",
        "",
        json!({"tunnel_id": "u", "data": "eA=="}),
    );
    stage.gateway.round_trip();
    stage.end(agent, &gateway);
}

/// T23: the Service of the message, where there is one; the original's way else.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn tt23_the_service_that_is_named_comes_first() {
    let (named, local) = (listen(), listen());
    let origin = named.local_addr().expect("address").to_string();
    let stage = Stage::new();
    let agent = Tunnels::start(&stage, |config| {
        let origin = Origin::parse(&origin).expect("an origin");
        config
            .daemon
            .routes
            .insert("postgres.databases".to_owned(), origin);
    });
    let gateway = stage.arrived();
    for (id, service, listener) in [("c-1", "postgres", &named), ("c-2", "Not A Name", &local)] {
        stage.gateway.send(
            "tcp_tunnel_start",
            id,
            json!({
                "gateway_port": local.local_addr().expect("address").port(),
                "service_name": service, "service_namespace": "databases", "service_port": 5432,
            }),
        );
        drop(listener.accept().expect("connection"));
        assert_eq!(stage.tcp_closed(&gateway, id)["reason"], "service_closed");
    }
    agent.end(stage, &gateway);
}

/// T24, T25: the gateway takes an answer for a client that said nothing for a fault.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn tt24_each_udp_client_gets_its_own_answers() {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("bind");
    let port = socket.local_addr().expect("address").port();
    let stage = Stage::new();
    let agent = Tunnels::start(&stage, |_| {});
    let gateway = stage.arrived();
    let mut sources = Vec::new();
    for client in [40_112, 40_113, 40_112, 40_113] {
        let text = format!("from {client}");
        stage.gateway.send(
            "udp_tunnel_data",
            "",
            json!({
                "tunnel_id": "udp-8b0e-dns-53", "data": BASE64.encode_to_string(&text),
                "client_addr": "198.51.100.7", "client_port": client, "gateway_port": port,
            }),
        );
        let mut bytes = [0; 100];
        let (count, from) = socket.recv_from(&mut bytes).expect("a datagram");
        assert_eq!(&bytes[..count], text.as_bytes());
        socket.send_to(&bytes[..count], from).expect("sent");
        let answer = stage.gateway.expect(json!({
            "event": "message", "conn": gateway, "type": "udp_tunnel_data",
            "envelope": {"payload": {"client_port": client, "client_addr": "198.51.100.7"}},
        }));
        assert_eq!(
            answer["envelope"]["payload"]["data"],
            BASE64.encode_to_string(&text)
        );
        sources.push(from);
    }
    assert_eq!(sources[..2], sources[2..]);
    assert_ne!(sources[0], sources[1]);
    agent.end(stage, &gateway);
}

/// T26: a close of the gateway's is echoed, a second start changes nothing, and a
/// connection that isn't known is said to be none, once.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn tt26_every_connection_is_closed_once() {
    let listener = listen();
    let stage = Stage::new();
    let agent = Tunnels::start(&stage, |_| {});
    let gateway = stage.arrived();
    let mut target = stage.open("c-1", &listener);
    stage
        .gateway
        .send("tcp_tunnel_start", "c-1", json!({"gateway_port": 1}));
    stage.data("c-1", b"still the first");
    assert_eq!(read_exactly(&mut target, 15), b"still the first");
    let client_closed = || json!({"reason": "client_closed"});
    stage
        .gateway
        .send("tcp_tunnel_close", "c-1", client_closed());
    stage
        .gateway
        .send("tcp_tunnel_close", "c-1", client_closed());
    target.read_to_end(&mut Vec::new()).expect("a clean end");
    assert_eq!(
        stage.tcp_closed(&gateway, "c-1")["reason"],
        "service_closed"
    );
    stage.data("c-1", b"late");
    for _ in 0..3 {
        stage.data("nobody", b"x");
    }
    let want = json!({"reason": "write_error", "error": "unknown request_id"});
    assert_eq!(stage.tcp_closed(&gateway, "nobody"), want);
    // A port where nobody listens, and one that only the peer's fault can be.
    drop(listener);
    for (id, port) in [("c-2", 1), ("c-3", 0)] {
        stage
            .gateway
            .send("tcp_tunnel_start", id, json!({"gateway_port": port}));
        assert_eq!(
            stage.tcp_closed(&gateway, id)["reason"],
            "connection_failed"
        );
    }
    stage.gateway.round_trip();
    for id in ["c-1", "nobody", "c-2", "c-3"] {
        let close = json!({"event": "message", "type": "tcp_tunnel_close", "request_id": id});
        assert_eq!(stage.gateway.seen(&close).len(), 1, "{id}");
    }
    agent.end(stage, &gateway);
}
