//! JSON tunnels with real targets on loopback; the way to the gateway is a list.

#![allow(clippy::needless_pass_by_value)] // literals read better without `&`

mod ending;
mod targets;
mod tcp;
mod udp;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use base64_simd::STANDARD;
use parking_lot::Condvar;
use serde_json::Value;

use super::*;
use crate::config;
use crate::net::Resolver;
use crate::net::testing::far_deadline;
use crate::tunnel::policy::{self, Policy};
use crate::tunnel::target::{Mode, Routes};

/// The gateway's end: what was said to it, in order.
#[derive(Default)]
struct Wire {
    state: Mutex<Said>,
    changed: Condvar,
}

#[derive(Default)]
struct Said {
    messages: Vec<Value>,
    /// Nothing finds room.
    full: bool,
    /// Senders that wait for room.
    waiting: usize,
    lost: bool,
}

impl Outlet for Arc<Wire> {
    fn send(&self, _tunnel: &str, message: Message, cancel: &Cancel) -> Result<(), SendError> {
        let wire = self.clone();
        let waker = wire.clone();
        let _guard = cancel
            .on_wake(Arc::new(move || {
                drop(waker.state.lock());
                waker.changed.notify_all();
            }))
            .map_err(SendError::Cancelled)?;
        let mut said = wire.state.lock();
        said.waiting += 1;
        wire.changed.notify_all();
        let result = loop {
            if said.lost {
                break Err(SendError::Closed);
            }
            if let Some(reason) = cancel.reason() {
                break Err(SendError::Cancelled(reason));
            }
            if !said.full {
                let message = serde_json::from_slice(message.payload()).expect("JSON");
                said.messages.push(message);
                break Ok(());
            }
            wire.changed.wait(&mut said);
        };
        said.waiting -= 1;
        wire.changed.notify_all();
        result
    }
}

impl Wire {
    /// Waits until what was said is like that.
    fn wait_until<T>(&self, mut fits: impl FnMut(&mut Said) -> Option<T>) -> T {
        let mut said = self.state.lock();
        loop {
            if let Some(found) = fits(&mut said) {
                return found;
            }
            let timed_out = self.changed.wait_for(&mut said, FAR).timed_out();
            assert!(!timed_out, "never; said: {:?}", said.messages);
        }
    }

    fn set(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    /// The close of this connection, which is all that may be said about it after.
    fn close(&self, id: &str) -> Value {
        self.wait_until(|said| {
            let of = |message: &&Value| message["request_id"] == id;
            let last = said.messages.iter().rfind(of)?;
            (last["type"] == "tcp_tunnel_close").then(|| last["payload"].clone())
        })
    }

    fn closes(&self, id: &str) -> usize {
        let said = self.state.lock();
        let close = |m: &&Value| m["request_id"] == id && m["type"] == "tcp_tunnel_close";
        said.messages.iter().filter(close).count()
    }

    /// What the target said through this connection so far.
    fn bytes(said: &Said, id: &str) -> Vec<u8> {
        let data = said
            .messages
            .iter()
            .filter(|m| m["request_id"] == id && m["type"] == "tcp_tunnel_data");
        data.flat_map(|m| decode(&m["payload"]["data"])).collect()
    }
}

fn decode(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("text");
    STANDARD.decode_to_vec(text).expect("base64")
}

/// What stays between tests' steps.
struct Stage {
    shared: Arc<JsonTunnels>,
    tunnels: Option<Tunnels>,
    wire: Arc<Wire>,
    policy: Arc<Policy>,
    /// Where the audit writes.
    folder: tempfile::TempDir,
}

/// What one may want otherwise.
struct Wants {
    settings: Settings,
    rules: Option<&'static str>,
    /// For the queues.
    memory: usize,
    /// A cluster, whose names lead here.
    lookup: Option<Arc<dyn Fn() -> SocketAddr + Send + Sync>>,
    routes: Routes,
}

impl Default for Wants {
    fn default() -> Self {
        Self {
            settings: Settings {
                max_connections: 8,
                max_sessions: 8,
                ..Settings::default()
            },
            rules: None,
            memory: 64 << 20,
            lookup: None,
            routes: Routes::default(),
        }
    }
}

impl Stage {
    fn new() -> Self {
        Self::with(Wants::default())
    }

    fn with(wants: Wants) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let file = wants.rules.map(|rules| {
            let path = folder.path().join("policy.yaml");
            std::fs::write(&path, rules).expect("written");
            path
        });
        let policy = Arc::new(
            Policy::open(policy::Settings {
                file,
                local_targets: true,
                ..policy::Settings::default()
            })
            .expect("good rules"),
        );
        let targets = match wants.lookup {
            None => Targets::new(Mode::Machine, policy.clone(), wants.routes),
            Some(lookup) => {
                let mode = Mode::Cluster {
                    domain: "cluster.local".into(),
                    external: None,
                };
                Targets::new(mode, policy.clone(), wants.routes)
                    .with_resolver(Resolver::new(move |_| Ok(vec![lookup()])))
            }
        };
        let audit = config::Audit {
            file: Some(folder.path().join(AUDIT)),
            max_size: 1 << 20,
            keep: 1,
        };
        let settings = Settings {
            memory: wants.memory,
            ..wants.settings
        };
        let shared = JsonTunnels::new(
            settings,
            Arc::new(targets),
            Arc::new(Audit::start(&audit).expect("audit")),
            Arc::new(Budget::new(64 << 20)),
        );
        let wire = Arc::new(Wire::default());
        Self {
            tunnels: Some(shared.connection(Arc::new(wire.clone()))),
            shared,
            wire,
            policy,
            folder,
        }
    }

    fn tunnels(&mut self) -> &mut Tunnels {
        self.tunnels.as_mut().expect("not lost yet")
    }

    fn start(&mut self, id: &str, target: Target<'_>) -> Option<Value> {
        let start = TcpStart {
            tunnel_id: "tcp-1".into(),
            client: "198.51.100.7:51512".into(),
            target,
        };
        self.tunnels().start(id, &start).map(json)
    }

    /// A connection to a target of this machine.
    fn open(&mut self, id: &str, port: u16) {
        assert_eq!(self.start(id, gateway_port(port)), None);
    }

    fn data(&mut self, id: &str, bytes: &[u8]) -> Option<Value> {
        let text = STANDARD.encode_to_string(bytes);
        self.tunnels().data(id, Some(&text)).map(json)
    }

    /// The connection to the control plane is gone.
    fn lose(&mut self) {
        self.wire.set(|said| said.lost = true);
        drop(self.tunnels.take());
    }

    /// A connection to a target that hears it.
    fn connect(&mut self, id: &str, listener: &TcpListener) -> TcpStream {
        let address = listener.local_addr().expect("address");
        self.open(id, address.port());
        let mut target = accept(listener);
        self.data(id, b"x");
        read_exactly(&mut target, 1);
        target
    }

    /// Lines of the audit, when nothing is left that could write one.
    fn audit(&self) -> Vec<Value> {
        self.settle();
        self.shared.audit.finish(far_deadline());
        let text = std::fs::read_to_string(self.folder.path().join(AUDIT)).expect("lines");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// Nothing is left: no thread, no place, no byte.
    fn settle(&self) {
        eventually(|| self.shared.live() == (0, 0) && self.shared.memory.taken() == 0);
    }
}

fn json(message: Message) -> Value {
    serde_json::from_slice(message.payload()).expect("JSON")
}

fn gateway_port(port: u16) -> Target<'static> {
    Target {
        gateway_port: port,
        ..Target::default()
    }
}

fn service(port: u16) -> Target<'static> {
    Target {
        service: "db".into(),
        namespace: "shop".into(),
        port,
        gateway_port: 0,
    }
}

fn eventually(fits: impl Fn() -> bool) {
    let until = Instant::now() + FAR;
    while !fits() {
        assert!(Instant::now() < until, "never");
        std::thread::yield_now();
    }
}

/// The target of a connection. What never comes fails a test instead of hanging it.
fn accept(listener: &TcpListener) -> TcpStream {
    let (target, _) = listener.accept().expect("connection");
    target.set_read_timeout(Some(FAR)).expect("set");
    target
}

fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("all of it");
    bytes
}

/// The target sees that this is no good end.
fn assert_reset(stream: &mut TcpStream) {
    let mut bytes = vec![0; 64 * 1024];
    let error = loop {
        match stream.read(&mut bytes) {
            Ok(0) => panic!("a clean end"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

/// Bytes that show when one is missing or out of place.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Only a failing test waits so long.
const FAR: Duration = Duration::from_mins(1);

/// A file in the stage's folder.
const AUDIT: &str = "audit";

/// Loopback has to be named.
const LOOPBACK: &str = "rules:\n- {action: allow}\n- {action: allow, addresses: [127.0.0.0/8]}\n";
