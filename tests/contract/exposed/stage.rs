//! A plane, an agent that leads `db` to a target of the test's, and clients.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};

use pipeops_agent::agent::Agent;
use pipeops_agent::config::{Config, Forward, Origin};
use pipeops_agent::plane::{Entry, ExposureState, ExposureView, GatewayUrl, Plane};

use crate::support::house::{House, name, start};
use crate::support::sockets::patient;
use crate::support::wait::until;

/// An agent that leads `db` somewhere, and a plane that exposes it.
pub(super) struct Stage {
    pub(super) house: House,
    pub(super) config: Config,
    agent: Option<Agent>,
    pub(super) target: TcpListener,
}

impl Stage {
    pub(super) fn new(gateway: GatewayUrl) -> Self {
        let house = House::with_gateway(gateway);
        let target = TcpListener::bind("127.0.0.1:0").expect("bound");
        let mut config = house.agent_config("edge");
        forward(&mut config, "db", local(&target));
        let mut stage = Self {
            house,
            config,
            agent: None,
            target,
        };
        stage.connect();
        stage
    }

    /// Starts the agent.
    pub(super) fn connect(&mut self) {
        self.agent = Some(start(&self.config, None));
        self.house.attached("edge");
    }

    pub(super) fn disconnect(&mut self) {
        let agent = self.agent.take().expect("connected");
        agent.stop();
        agent.wait().expect("an orderly end");
        until("the agent is gone", || !self.house.is_connected("edge"));
    }

    /// Has an entry lead to a forward of the agent's; where it is.
    pub(super) fn expose(&self, entry: Entry, service: &str) -> Entry {
        let service = service.parse().expect("a service");
        let plane = &self.house.plane;
        let exposed = plane.expose(entry, name("edge"), service);
        let entry = exposed.expect("exposed");
        self.is_open(&entry);
        entry
    }

    pub(super) fn expose_db(&self) -> Entry {
        self.expose(Entry::Tcp(any_port()), "db:5432")
    }

    pub(super) fn is_open(&self, entry: &Entry) {
        until("it is open", || {
            view(&self.house.plane, entry).state == ExposureState::Open
        });
    }

    /// A client of the entry reaches the target.
    pub(super) fn leads_on(&self, entry: &Entry) {
        self.is_open(entry);
        let mut near = client(entry);
        near.write_all(b"x").expect("sent");
        self.accept().read_exact(&mut [0]).expect("read");
    }

    pub(super) fn accept(&self) -> TcpStream {
        let (stream, _) = self.target.accept().expect("accepted");
        patient(stream)
    }
}

pub(super) fn forward(config: &mut Config, name: &str, address: SocketAddr) {
    config.tunnels.forwards.push(Forward {
        name: name.to_owned(),
        origin: Origin::parse(&address.to_string()).expect("an origin"),
    });
}

pub(super) fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("an address")
}

pub(super) fn view(plane: &Plane, entry: &Entry) -> ExposureView {
    let mut views = plane.exposures().into_iter();
    let view = views.find(|view| view.exposure.entry == *entry);
    view.expect("exposed")
}

pub(super) fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// One that nobody else has: this machine has sixteen million addresses.
pub(super) fn address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high | 128, low, NEXT.fetch_add(1, Ordering::Relaxed));
    (ip, 15432).into()
}

pub(super) fn client(entry: &Entry) -> TcpStream {
    let Entry::Tcp(address) = entry else {
        panic!("{entry} is no TCP")
    };
    patient(TcpStream::connect(address).expect("connected"))
}
