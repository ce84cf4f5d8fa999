//! An exposer with its registry, and agents whose ends of the tunnels the test plays:
//! sessions in memory, a thread for each direction between them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::link::{Lane, Message, SendError};
use crate::net::Cancel;
use crate::plane::agent_connection::{AgentConnection, Channel};
use crate::plane::budget::Budget;
use crate::plane::expose::{Entry, Exposer, Exposure, ExposureView, Settings, State};
use crate::plane::hub::Hub;
use crate::plane::name::ClusterName;
use crate::plane::registry::Registry;
use crate::plane::token::Grant;
use crate::threads::{self, Stack};
use crate::tunnel::header::{Header, HeaderParser, Version};
use crate::tunnel::session::{Inbox, Memory, Session, Stream};
use crate::tunnel::testing::Wire;
use crate::yamux::{Config, Input, Role};

/// Nothing that goes well takes this long.
pub(super) const LONG: Duration = Duration::from_secs(60);

#[track_caller]
pub(super) fn wait_until(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// At an address of this machine that nobody else has: what is closed stays so.
pub(super) fn any_port() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    (Ipv4Addr::new(127, high | 128, low, last), 0).into()
}

pub(super) fn settings() -> Settings {
    Settings {
        http: any_port(),
        udp_idle: LONG,
        udp_pause: LONG,
        retry: Duration::from_millis(1),
    }
}

pub(super) struct Stage {
    pub(super) exposer: Arc<Exposer>,
    pub(super) hub: Arc<Hub>,
    pub(super) settings: Settings,
    token: String,
    folder: tempfile::TempDir,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::with(settings())
    }

    pub(super) fn with(settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let registry = Registry::open(folder.path()).expect("opens");
        let hub = Arc::new(Hub::new(registry));
        let grant = Grant::Agent { cluster: name() };
        Self {
            token: hub.create_token(grant, None).expect("made").0.id,
            exposer: Exposer::start(hub.clone(), settings),
            hub,
            settings,
            folder,
        }
    }

    /// Another exposer on the same data.
    pub(super) fn again(self) -> Self {
        let Self {
            exposer,
            hub,
            settings,
            token,
            folder,
        } = self;
        exposer.stop();
        drop((exposer, hub));
        let registry = Registry::open(folder.path()).expect("opens");
        let hub = Arc::new(Hub::new(registry));
        Self {
            exposer: Exposer::start(hub.clone(), settings),
            hub,
            settings,
            token,
            folder,
        }
    }

    pub(super) fn expose(&self, entry: Entry) -> Entry {
        let exposed = self.exposer.expose(&exposure(entry));
        exposed.expect("exposed").entry
    }

    pub(super) fn tcp(&self) -> SocketAddr {
        match self.expose(Entry::Tcp(any_port())) {
            Entry::Tcp(address) => address,
            other => panic!("{other}"),
        }
    }

    pub(super) fn udp(&self) -> SocketAddr {
        match self.expose(Entry::Udp(any_port())) {
            Entry::Udp(address) => address,
            other => panic!("{other}"),
        }
    }

    /// Of the only exposure.
    pub(super) fn view(&self) -> ExposureView {
        let mut views = self.exposer.views();
        assert_eq!(views.len(), 1);
        views.remove(0)
    }

    pub(super) fn why(&self) -> Option<String> {
        match self.view().state {
            State::Failed(why) => Some(why),
            _ => None,
        }
    }

    /// Connects an agent with tunnels.
    pub(super) fn agent(&self) -> Agent {
        let connection = AgentConnection::new(self.token.clone(), 0, Budget::new(0));
        let connection = Arc::new(connection);
        let wires = [Arc::new(Wire::default()), Arc::new(Wire::default())];
        connection.connect(Box::new(InMemory(wires[0].clone())));
        self.hub.enter(&connection).expect("let in");
        connection.set_client_addresses();
        connection.offer_tunnels().expect("offered");
        let memory = Memory::new(64 << 20);
        let inbox = connection.begin_tunnels(&memory).expect("taken up");
        let (streams, opened): (Sender<Stream>, _) = channel();
        let config = Config::new(Role::Client);
        let accept = move |stream| drop(streams.send(stream));
        let (session, own) = Session::start(config, &memory, wires[1].clone(), accept);
        let inboxes = [own, inbox].map(|inbox| Arc::new(Mutex::new(inbox)));
        let threads = wires.iter().zip(&inboxes).map(|(wire, inbox)| {
            let (wire, inbox) = (wire.clone(), inbox.clone());
            let body = move || wire.carry(|bytes| inbox.lock().receive(bytes));
            threads::spawn("wire", Stack::Work, body).expect("a thread")
        });
        let threads = threads.collect();
        self.hub
            .attach(&name(), &connection, "agent-1")
            .expect("free");
        Agent {
            hub: self.hub.clone(),
            connection,
            opened,
            planes: inboxes[1].clone(),
            wires,
            threads,
            _session: session,
        }
    }
}

pub(super) fn name() -> ClusterName {
    ClusterName::parse("edge").expect("a name")
}

pub(super) fn exposure(entry: Entry) -> Exposure {
    Exposure {
        entry,
        cluster: name(),
        service: "db.default:5432".parse().expect("a service"),
        created: 0,
    }
}

/// What the agent of the cluster does is the test's; it ends when it is dropped.
pub(super) struct Agent {
    hub: Arc<Hub>,
    pub(super) connection: Arc<AgentConnection>,
    opened: Receiver<Stream>,
    /// What the plane hears goes in here.
    pub(super) planes: Arc<Mutex<Inbox>>,
    wires: [Arc<Wire>; 2],
    threads: Vec<JoinHandle<Option<()>>>,
    _session: Session,
}

impl Agent {
    /// The next stream of the plane, its header read.
    pub(super) fn accept(&self) -> (Stream, Header) {
        let stream = self.opened.recv_timeout(LONG).expect("opened");
        let mut parser = HeaderParser::new(Version::Two);
        loop {
            let until = Some(Instant::now() + LONG);
            let parsed = stream.parse(until, |bytes| parser.feed(bytes));
            match parsed.expect("not cut") {
                Input::Some(header) => {
                    if let Some(header) = header.expect("a header") {
                        return (stream, header);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) fn has_none(&self) -> bool {
        self.opened.try_recv().is_err()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        for wire in &self.wires {
            wire.close();
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("caught").expect("no panic");
        }
        self.connection.on_link_ended();
        self.hub.leave(&self.connection);
    }
}

/// The plane's end of a link.
struct InMemory(Arc<Wire>);

impl Channel for InMemory {
    fn send(&self, _: Lane, _: Message, _: &Cancel) -> Result<(), SendError> {
        Ok(())
    }

    fn close(&self, _: u16, _: &str) {}

    fn abort(&self, _: &str) {}

    fn begin_session(&self, memory: &Memory) -> Option<(Session, Inbox)> {
        let config = Config::new(Role::Server);
        Some(Session::start(config, memory, self.0.clone(), drop))
    }
}
