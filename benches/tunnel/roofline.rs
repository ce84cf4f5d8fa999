//! What can't be undercut: the agent's work without WebSocket, yamux and a scheduler.
//! A process of its own copies between service and peer, a connection per stream;
//! TLS is that of our agent.

use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pipeops_agent::net::{
    ClientTls, ClientTlsSettings, Halves, PemSource, ServerTls, ServerTlsSettings, Trust,
};
use tempfile::TempDir;

use crate::bulk::Direction;
use crate::process::Process;
use crate::service::{Part, Service};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A running copier and its peer.
pub(crate) struct Roofline {
    child: Child,
    /// Bytes that have arrived.
    moved: Arc<AtomicU64>,
    _folder: TempDir,
}

impl Roofline {
    pub(crate) fn start(
        service: &Service,
        direction: Direction,
        streams: usize,
        plain: bool,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, made.cert.pem())?;
        let tls = ServerTls::new(&ServerTlsSettings {
            certificate: PemSource::File(ca.clone()),
            key: PemSource::Given {
                name: "key".to_owned(),
                pem: made.signing_key.serialize_pem().into_bytes(),
            },
            client_ca: None,
        })?;
        let tls = (!plain).then_some(tls);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let part = match direction {
            Direction::Down => Part::Source,
            Direction::Up => Part::Sink,
        };
        let child = Command::new(std::env::current_exe()?)
            .args(["roofline", direction.name()])
            .arg(listener.local_addr()?.to_string())
            .arg(service.port(part).to_string())
            .arg(streams.to_string())
            .args((!plain).then_some(ca))
            .spawn()?;
        let moved = match direction {
            Direction::Down => Arc::default(),
            Direction::Up => service.sunk.clone(),
        };
        for _ in 0..streams {
            let (socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            let (tls, moved) = (tls.clone(), Arc::clone(&moved));
            thread::spawn(move || {
                // It ends when the copier is killed.
                let _ = play(socket, tls.as_ref(), direction, &moved);
            });
        }
        Ok(Self {
            child,
            moved,
            _folder: folder,
        })
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}

impl Drop for Roofline {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peer of one connection.
fn play(
    socket: TcpStream,
    tls: Option<&ServerTls>,
    direction: Direction,
    moved: &AtomicU64,
) -> Result<()> {
    let mut halves = Halves::plain(socket.into());
    if let Some(tls) = tls {
        halves = halves.tls_server(tls.session()?)?;
    }
    match direction {
        Direction::Down => loop {
            let count = halves.read.fill()?.len();
            if count == 0 {
                return Ok(());
            }
            halves.read.consume(count);
            moved.fetch_add(count as u64, Ordering::Relaxed);
        },
        Direction::Up => {
            let bytes = vec![7; PIECE];
            loop {
                halves.write.write_all(&[IoSlice::new(&bytes)])?;
            }
        }
    }
}

/// The process that is measured: `roofline DIRECTION PEER SERVICE STREAMS [CA]`.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [direction, peer, service, streams, ca @ ..] = args else {
        return Err("started by the benchmark only".into());
    };
    let direction = Direction::parse(direction)?;
    let (peer, service): (SocketAddr, u16) = (peer.parse()?, service.parse()?);
    let copies: Vec<_> = (0..streams.parse()?)
        .map(|_| {
            let ca = ca.first().cloned();
            thread::spawn(move || copy(direction, peer, service, ca.as_deref()))
        })
        .collect();
    for copy in copies {
        copy.join().map_err(|_| "a panic")??;
    }
    Ok(())
}

fn copy(direction: Direction, peer: SocketAddr, service: u16, ca: Option<&str>) -> Result<()> {
    let socket = TcpStream::connect(peer)?;
    socket.set_nodelay(true)?;
    let mut halves = Halves::plain(socket.into());
    if let Some(ca) = ca {
        let tls = ClientTls::new(ClientTlsSettings {
            trust: Trust::OnlyGiven,
            ca: vec![PemSource::File(Path::new(ca).into())],
            ..ClientTlsSettings::default()
        })?;
        halves = halves.tls_client(tls.session("localhost")?)?;
    }
    let mut service = TcpStream::connect((Ipv4Addr::LOCALHOST, service))?;
    match direction {
        Direction::Down => {
            let mut bytes = vec![0; PIECE];
            loop {
                let count = service.read(&mut bytes)?;
                halves.write.write_all(&[IoSlice::new(&bytes[..count])])?;
            }
        }
        Direction::Up => loop {
            let bytes = halves.read.fill()?;
            let count = bytes.len();
            if count == 0 {
                return Ok(());
            }
            service.write_all(bytes)?;
            halves.read.consume(count);
        },
    }
}

/// What is read or written at once: as much as a turn of our link.
const PIECE: usize = 64 * 1024;
