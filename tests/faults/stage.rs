//! Where tunnels lead through a line that can be cut: plane and agent as processes, and
//! two targets.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::support::fault_proxy::FaultProxy;
use crate::support::process::{AgentProcess, AgentSettings, PlaneProcess, Process};
use crate::support::sockets::patient;
use crate::support::wait::until;

pub(crate) struct Stage {
    pub(crate) plane: PlaneProcess,
    pub(crate) proxy: FaultProxy,
    pub(crate) agent: AgentProcess,
    /// Where `target` leads, and `echo`.
    pub(crate) target: TcpListener,
    /// Where clients of these two come in.
    pub(crate) to_target: SocketAddr,
    pub(crate) to_echo: SocketAddr,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(more: &[(&str, SocketAddr)]) -> Self {
        let target = TcpListener::bind("127.0.0.1:0").expect("bound");
        let echo = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = |listener: &TcpListener| listener.local_addr().expect("an address");
        let mut forwards = vec![("target", address(&target)), ("echo", address(&echo))];
        forwards.extend(more);
        thread::spawn(move || {
            while let Ok((stream, _)) = echo.accept() {
                thread::spawn(move || {
                    let mut to = stream.try_clone().expect("cloned");
                    // Who is cut off has nothing to hear.
                    let _ = std::io::copy(&mut &stream, &mut to);
                    let _ = stream.shutdown(Shutdown::Write);
                });
            }
        });
        let plane = PlaneProcess::start();
        let proxy = FaultProxy::start(plane.address());
        let agent = AgentProcess::start(&AgentSettings {
            address: proxy.address().to_string(),
            forwards: &forwards,
            more: &[
                ("timeouts.websocket_reconnect", "5ms"),
                ("timeouts.websocket_reconnect_max", "50ms"),
                ("logging.level", "info"),
            ],
            // In the binary of a plain `cargo test`, the system's allocator keeps an
            // arena for each thread that ever had one.
            environment: &[("MALLOC_ARENA_MAX", "2")],
            ..plane.settings()
        });
        plane.attached("edge");
        Self {
            to_target: plane.expose("tcp", "target:1"),
            to_echo: plane.expose("tcp", "echo:1"),
            plane,
            proxy,
            agent,
            target,
        }
    }

    pub(crate) fn client(&self) -> TcpStream {
        connect(self.to_target)
    }

    /// The target's end of the next stream.
    pub(crate) fn accept(&self) -> TcpStream {
        patient(self.target.accept().expect("accepted").0)
    }

    /// Others are served meanwhile.
    pub(crate) fn echoes(&self) {
        let mut client = connect(self.to_echo);
        let mut buf = [0; 1000];
        for n in 0..10 {
            client.write_all(&[n; 1000]).expect("sent");
            client.read_exact(&mut buf).expect("echoed");
            assert_eq!(buf, [n; 1000]);
        }
        client.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(client.read(&mut buf).expect("an end"), 0);
    }

    /// Waits until nobody is a client of the target any more.
    pub(crate) fn is_over(&self) {
        until("a client stays", || {
            self.plane.clients("tcp", self.to_target) == 0
        });
    }

    /// By the agent, and by the plane.
    pub(crate) fn held(&self) -> [Held; 2] {
        [&self.agent.process, &self.plane.process].map(Held::by)
    }

    /// Waits until there are no more threads and descriptors than there were.
    pub(crate) fn settled(&self, before: &[Held; 2]) -> [Held; 2] {
        self.is_over();
        let mut now = self.held();
        until("something stays", || {
            now = self.held();
            now.iter().zip(before).all(|(now, before)| {
                now.threads <= before.threads && now.descriptors <= before.descriptors
            })
        });
        now
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).expect("connected"))
}

/// What a process holds; memory in KiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) threads: usize,
    pub(crate) descriptors: usize,
    pub(crate) resident: u64,
}

impl Held {
    pub(crate) fn by(process: &Process) -> Self {
        Self {
            threads: process.threads(),
            descriptors: process.descriptors(),
            resident: process.resident(),
        }
    }
}

/// Opens `count` streams to the target, a byte through each both ways: clients and
/// targets.
pub(crate) fn open(stage: &Stage, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let pair = |_| {
        let mut client = stage.client();
        let mut target = stage.accept();
        client.write_all(b"?").expect("sent");
        target.read_exact(&mut [0]).expect("read");
        target.write_all(b"!").expect("sent");
        client.read_exact(&mut [0]).expect("read");
        (client, target)
    };
    (0..count).map(pair).collect()
}
