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
use crate::clients;
use crate::common::process::Process;
use crate::service::{Part, Service};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the peer of the copier does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// It makes and takes them itself.
    Itself,
    /// It copies too, between the copier and a client with a TCP connection, as a
    /// plane does.
    Client,
}

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
        peer: Peer,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (pem, tls) = certificate()?;
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, pem)?;
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
                let _ = play(socket, tls.as_ref(), (peer, direction), &moved);
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
    role: (Peer, Direction),
    moved: &Arc<AtomicU64>,
) -> Result<()> {
    let mut halves = Halves::plain(socket.into());
    if let Some(tls) = tls {
        halves = halves.tls_server(tls.session()?)?;
    }
    match role {
        (Peer::Itself, Direction::Down) => loop {
            let count = halves.read.fill()?.len();
            if count == 0 {
                return Ok(());
            }
            halves.read.consume(count);
            moved.fetch_add(count as u64, Ordering::Relaxed);
        },
        (Peer::Itself, Direction::Up) => {
            let bytes = vec![7; PIECE];
            loop {
                halves.write.write_all(&[IoSlice::new(&bytes)])?;
            }
        }
        (Peer::Client, Direction::Down) => {
            let (mut near, far) = pair()?;
            let moved = Arc::clone(moved);
            thread::spawn(move || clients::take(&far, &moved));
            from_tls(&mut halves, &mut near)
        }
        (Peer::Client, Direction::Up) => {
            let (mut near, far) = pair()?;
            thread::spawn(move || clients::give(&far));
            to_tls(&mut near, &mut halves)
        }
    }
}

/// A TCP connection on loopback.
fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    Ok((near, far))
}

fn to_tls(from: &mut TcpStream, halves: &mut Halves) -> Result<()> {
    let mut bytes = vec![0; PIECE];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        halves.write.write_all(&[IoSlice::new(&bytes[..count])])?;
    }
}

fn from_tls(halves: &mut Halves, to: &mut TcpStream) -> Result<()> {
    loop {
        let bytes = halves.read.fill()?;
        let count = bytes.len();
        if count == 0 {
            return Ok(());
        }
        to.write_all(bytes)?;
        halves.read.consume(count);
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
        Direction::Down => to_tls(&mut service, &mut halves),
        Direction::Up => from_tls(&mut halves, &mut service),
    }
}

/// How the TLS connections of our agent and of the roofline are made: that of a
/// connection between the two ends, as it was agreed on.
pub(crate) fn tls_version() -> String {
    let version = || -> Result<String> {
        let (ca, tls) = certificate()?;
        let (near, far) = pair()?;
        let server = thread::spawn(move || -> Result<()> {
            Halves::plain(far.into()).tls_server(tls.session()?)?;
            Ok(())
        });
        let client = ClientTls::new(ClientTlsSettings {
            trust: Trust::OnlyGiven,
            ca: vec![PemSource::Given {
                name: "ca".to_owned(),
                pem: ca.into_bytes(),
            }],
            ..ClientTlsSettings::default()
        })?;
        let halves = Halves::plain(near.into()).tls_client(client.session("localhost")?)?;
        server.join().map_err(|_| "a panic")??;
        Ok(format!("{:?}", halves.tls_version().ok_or("no TLS")?))
    };
    version().unwrap_or_else(|error| format!("unknown ({error})"))
}

/// A certificate for localhost that is its own authority.
fn certificate() -> Result<(String, ServerTls)> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let given = |name: &str, pem: String| PemSource::Given {
        name: name.to_owned(),
        pem: pem.into_bytes(),
    };
    let tls = ServerTls::new(&ServerTlsSettings {
        certificate: given("certificate", made.cert.pem()),
        key: given("key", made.signing_key.serialize_pem()),
        client_ca: None,
    })?;
    Ok((made.cert.pem(), tls))
}

/// What is read or written at once: as much as a turn of our link.
const PIECE: usize = 64 * 1024;
