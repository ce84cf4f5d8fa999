//! A gateway and an agent, connected in memory: two sessions, a thread for each
//! direction between them, real sockets at the agent's end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

pub(super) use super::client::Client;
use crate::config::{self, Origin};
use crate::net::Resolver;
use crate::net::testing::far_deadline;
use crate::threads::{self, Stack};
use crate::tunnel::Protocol;
use crate::tunnel::audit::Audit;
use crate::tunnel::header::{Header, Version};
use crate::tunnel::policy::{self, Policy};
use crate::tunnel::session::{Memory, Session, Stream};
use crate::tunnel::streams::{Connection, Settings, Streams};
use crate::tunnel::target::{Mode, Routes, Targets};
use crate::tunnel::testing::Wire;
use crate::yamux::{Config, Header as Frame, Role};

/// Long enough for whatever has to happen.
pub(super) const LONG: Duration = Duration::from_secs(60);

pub(super) fn soon() -> Instant {
    Instant::now() + LONG
}

/// Waits for a condition.
#[track_caller]
pub(super) fn wait_until(what: &str, done: impl Fn() -> bool) {
    let until = soon();
    while !done() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a test wants to have otherwise.
pub(super) struct Plan {
    pub(super) settings: Settings,
    pub(super) mode: Mode,
    pub(super) resolver: Option<Resolver>,
    pub(super) rules: Option<&'static str>,
    pub(super) routes: Vec<(&'static str, String)>,
    pub(super) newest: Version,
    pub(super) dial_timeout: Duration,
    pub(super) max_window: u32,
}

impl Plan {
    /// A plain machine whose one route, `target`, leads to this address.
    pub(super) fn to(target: &impl ToString) -> Self {
        Self {
            routes: vec![("target", target.to_string())],
            ..Self::default()
        }
    }

    /// A pod, where names are looked up so.
    pub(super) fn cluster(
        lookup: impl Fn(&str) -> io::Result<Vec<&'static str>> + Send + Sync + 'static,
    ) -> Self {
        let resolver = Resolver::new(move |host| {
            let found = lookup(host)?;
            Ok(found
                .into_iter()
                .map(|ip| (ip.parse::<std::net::IpAddr>().expect(ip), 0).into())
                .collect())
        });
        Self {
            mode: Mode::Cluster {
                domain: "cluster.local".into(),
                external: None,
            },
            resolver: Some(resolver),
            // Loopback has to be named.
            rules: Some("rules:\n- {action: allow}\n- {action: allow, addresses: [127.0.0.0/8]}\n"),
            ..Self::default()
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            mode: Mode::Machine,
            resolver: None,
            rules: None,
            routes: Vec::new(),
            newest: Version::One,
            dial_timeout: LONG,
            max_window: 256 * 1024,
        }
    }
}

pub(super) struct Stage {
    pub(super) gateway: Session,
    pub(super) agent: Session,
    pub(super) streams: Arc<Streams>,
    pub(super) memory: Memory,
    audit: Arc<Audit>,
    audit_file: PathBuf,
    _folder: tempfile::TempDir,
    /// From the gateway, from the agent.
    wires: [Arc<Wire>; 2],
    threads: Vec<JoinHandle<Option<()>>>,
}

impl Stage {
    pub(super) fn new(plan: Plan) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let audit_file = folder.path().join("audit");
        let audit = config::Audit {
            file: Some(audit_file.clone()),
            max_size: 1 << 30,
            keep: 1,
        };
        let audit = Arc::new(Audit::start(&audit).expect("audit"));
        let targets = targets(
            plan.mode,
            plan.resolver,
            plan.rules,
            &plan.routes,
            folder.path(),
        );
        let streams = Streams::new(plan.settings, targets, audit.clone());
        let memory = Memory::new(64 << 20);
        let wires = [Arc::new(Wire::default()), Arc::new(Wire::default())];
        let config = |role| Config {
            max_window: plan.max_window,
            ..Config::new(role)
        };
        let acceptor = streams.acceptor(Connection {
            number: 7,
            newest: plan.newest,
            dial_timeout: plan.dial_timeout,
        });
        let (gateway, gateway_inbox) = Session::start(
            config(Role::Server),
            &memory,
            wires[0].clone(),
            |stream: Stream| drop(stream),
        );
        let (agent, agent_inbox) =
            Session::start(config(Role::Client), &memory, wires[1].clone(), acceptor);
        let threads = [agent_inbox, gateway_inbox]
            .into_iter()
            .zip(&wires)
            .map(|(mut inbox, wire)| {
                let wire = wire.clone();
                let body = move || wire.carry(|bytes| inbox.receive(bytes));
                threads::spawn("wire", Stack::Work, body).expect("thread")
            })
            .collect();
        Self {
            gateway,
            agent,
            streams,
            memory,
            audit,
            audit_file,
            _folder: folder,
            wires,
            threads,
        }
    }

    /// A client's connection: a stream to `target`, its header sent.
    pub(super) fn open(&self) -> Client {
        self.open_with(&header(Protocol::Tcp), Version::One)
    }

    pub(super) fn open_udp(&self) -> Client {
        self.open_with(&header(Protocol::Udp), Version::One)
    }

    pub(super) fn open_with(&self, header: &Header, version: Version) -> Client {
        let client = self.open_silent();
        client.send(&header.encode(version).expect("a header"));
        client
    }

    /// Nothing is sent yet.
    pub(super) fn open_silent(&self) -> Client {
        Client(self.gateway.open(soon()).expect("opened"))
    }

    /// What the agent has to send waits, but for what controls.
    pub(super) fn hold_agent(&self, held: bool) {
        self.wires[1].hold(held);
    }

    /// Nothing of what the agent sends is written.
    pub(super) fn stall_agent(&self, stalled: bool) {
        self.wires[1].stall(stalled);
    }

    /// The gateway sends this, between whole frames of the session.
    pub(super) fn inject(&self, bytes: &[u8]) {
        self.wires[0].inject(bytes);
    }

    /// Frames that the agent has sent.
    pub(super) fn heard_from_agent(&self) -> Vec<Frame> {
        self.wires[1].frames()
    }

    /// The connection is gone, at once.
    pub(super) fn cut_link(&mut self) {
        for wire in &self.wires {
            wire.close();
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("root").expect("no panic");
        }
    }

    /// All streams are over for the agent.
    pub(super) fn wait_for_end(&self) {
        wait_until("a stream stays", || self.streams.open() == 0);
    }

    /// Lines of the audit, when all streams are over.
    pub(super) fn audit(&self) -> Vec<Value> {
        self.wait_for_end();
        self.audit.finish(far_deadline());
        let text = std::fs::read_to_string(&self.audit_file).expect("audit");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// Cuts the link and sees that nothing is left of any stream.
    pub(super) fn end(mut self) {
        self.cut_link();
        self.wait_for_end();
        wait_until("a thread stays", || self.streams.threads() == 0);
        wait_until("memory stays", || self.memory.budget().charged() == 0);
        for wire in &self.wires {
            assert_eq!(wire.dead_because(), None);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for wire in &self.wires {
            wire.close();
        }
    }
}

fn targets(
    mode: Mode,
    resolver: Option<Resolver>,
    rules: Option<&str>,
    routes: &[(&str, String)],
    folder: &Path,
) -> Arc<Targets> {
    let file = rules.map(|rules| {
        let path = folder.join("policy.yaml");
        std::fs::write(&path, rules).expect("written");
        path
    });
    let settings = policy::Settings {
        file,
        ..policy::Settings::default()
    };
    let policy = Arc::new(Policy::open(settings).expect("policy"));
    let routes = Routes {
        routes: routes
            .iter()
            .map(|(name, to)| ((*name).to_owned(), Origin::parse(to).expect("origin")))
            .collect(),
        ..Routes::default()
    };
    let targets = Targets::new(mode, policy, routes);
    Arc::new(match resolver {
        Some(resolver) => targets.with_resolver(resolver),
        None => targets,
    })
}

pub(super) fn header(protocol: Protocol) -> Header {
    Header {
        protocol,
        port: 80,
        service: "target".into(),
        namespace: String::new(),
        tunnel_id: "t-1".into(),
        client: None,
    }
}

/// Short parks, so that a test can wait for threads to end.
pub(super) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.times.parked = Duration::from_millis(200);
    settings
}
