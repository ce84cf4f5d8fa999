//! A gateway and an agent, connected in memory: two sessions, a thread for each
//! direction between them, real sockets at the agent's end.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use crate::config::{self, Origin};
use crate::link::{Message, Speaker};
use crate::net::Resolver;
use crate::net::testing::far_deadline;
use crate::threads::{self, Stack};
use crate::tunnel::Protocol;
use crate::tunnel::audit::Audit;
use crate::tunnel::header::{Header, Version};
use crate::tunnel::policy::{self, Policy};
use crate::tunnel::session::{Inbox, Line, Memory, Payload, Session, Stream};
use crate::tunnel::streams::{Connection, Settings, Streams};
use crate::tunnel::target::{Mode, Routes, Targets};
use crate::yamux::{Config, Cut, Decoder, Event, Fatal, Header as Frame, Input, MAX_PAYLOAD, Role};

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

/// Who is in line in one direction, and what went over it.
#[derive(Default)]
struct Wire {
    state: Mutex<WireState>,
    changed: Condvar,
}

#[derive(Default)]
struct WireState {
    control: VecDeque<Arc<dyn Speaker>>,
    turns: VecDeque<Arc<dyn Speaker>>,
    held: bool,
    closed: bool,
    dead: Option<Fatal>,
    frames: Vec<Frame>,
}

impl Line for Wire {
    fn enter(&self, speaker: Arc<dyn Speaker>) {
        self.state.lock().turns.push_back(speaker);
        self.changed.notify_all();
    }

    fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        self.state.lock().control.push_back(speaker);
        self.changed.notify_all();
    }

    fn dead(&self, why: Fatal) {
        self.state.lock().dead = Some(why);
    }
}

impl Wire {
    /// Has the next one speak. `None`: closed.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                let rest = (
                    std::mem::take(&mut state.control),
                    std::mem::take(&mut state.turns),
                );
                drop(state);
                drop(rest);
                return None;
            }
            let control = state.control.pop_front();
            if let Some(speaker) = control {
                drop(state);
                let mut bytes = Vec::new();
                speaker.control(&mut bytes);
                return Some(bytes);
            }
            if !state.held
                && let Some(speaker) = state.turns.pop_front()
            {
                drop(state);
                let mut messages: Vec<Message> = Vec::new();
                let again = speaker.turn(&mut messages);
                let bytes = messages.iter().flat_map(|m| m.payload().to_vec()).collect();
                if again {
                    self.state.lock().turns.push_back(speaker);
                }
                return Some(bytes);
            }
            self.changed.wait(&mut state);
        }
    }

    fn carry(&self, mut inbox: Inbox) {
        let mut decoder = Decoder::default();
        while let Some(bytes) = self.next() {
            let mut rest = &bytes[..];
            while let Ok(Some(event)) = decoder.next(&mut rest) {
                if let Event::Frame(header) = event {
                    self.state.lock().frames.push(header);
                }
            }
            inbox.receive(&bytes);
        }
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
            .map(|(inbox, wire)| {
                let wire = wire.clone();
                threads::spawn("wire", Stack::Work, move || wire.carry(inbox)).expect("thread")
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
        self.wires[1].state.lock().held = held;
        self.wires[1].changed.notify_all();
    }

    /// Frames that the agent has sent.
    pub(super) fn heard_from_agent(&self) -> Vec<Frame> {
        self.wires[1].state.lock().frames.clone()
    }

    /// The connection is gone, at once.
    pub(super) fn cut_link(&mut self) {
        for wire in &self.wires {
            wire.state.lock().closed = true;
            wire.changed.notify_all();
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
            assert_eq!(wire.state.lock().dead, None);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for wire in &self.wires {
            wire.state.lock().closed = true;
            wire.changed.notify_all();
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

/// The gateway's end of a stream.
#[derive(Clone)]
pub(super) struct Client(pub(super) Stream);

impl Client {
    /// Sends all of it.
    pub(super) fn send(&self, bytes: &[u8]) {
        for piece in bytes.chunks(MAX_PAYLOAD) {
            self.0
                .send(Payload::from(piece), Some(soon()))
                .expect("sent");
        }
    }

    /// Sends for as long as there is room; how much that was.
    pub(super) fn fill(&self) -> usize {
        let mut sent = 0;
        let piece = vec![7; MAX_PAYLOAD];
        let patience = Duration::from_millis(200);
        while let Ok(room) = self.0.room(Some(Instant::now() + patience)) {
            self.send(&piece[..room]);
            sent += room;
        }
        sent
    }

    /// Up to the end, and what that was.
    pub(super) fn read_to_end(&self) -> (Vec<u8>, Result<(), Cut>) {
        let mut read = Vec::new();
        loop {
            match self.0.read(Some(soon())) {
                Ok(Input::Some(chunk)) => {
                    read.extend_from_slice(&chunk);
                    self.0.give_back(chunk);
                }
                Ok(Input::End) => return (read, Ok(())),
                Ok(Input::Wait) => panic!("never: an end"),
                Err(cut) => return (read, Err(cut)),
            }
        }
    }

    /// Exactly so many bytes.
    pub(super) fn read(&self, count: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < count {
            let input = self.0.parse(Some(soon()), |bytes| {
                let (ours, rest) = bytes.split_at(bytes.len().min(count - read.len()));
                read.extend_from_slice(ours);
                *bytes = rest;
            });
            assert_eq!(input, Ok(Input::Some(())), "after {} bytes", read.len());
        }
        read
    }

    pub(super) fn datagram(&self) -> Vec<u8> {
        let mut datagram = Vec::new();
        let input = self.0.read_datagram(65_535, &mut datagram, Some(soon()));
        assert!(matches!(input, Ok(Input::Some(_))), "{input:?}");
        datagram
    }

    #[track_caller]
    pub(super) fn assert_end(&self) {
        let (rest, end) = self.read_to_end();
        assert_eq!((rest.len(), end), (0, Ok(())));
    }

    #[track_caller]
    pub(super) fn assert_reset(&self) {
        assert_eq!(self.read_to_end().1, Err(Cut::ByPeer));
    }
}
