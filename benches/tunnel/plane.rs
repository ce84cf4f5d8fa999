//! Our own plane, in this process, with exposed ports and clients at them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pipeops_agent::plane::{
    CertificateSource, ClusterName, Entry, ExposureState, GatewayUrl, Grant, Plane, PlaneConfig,
    ServiceName,
};
use socket2::SockRef;
use tempfile::TempDir;

use crate::bulk::Direction;
use crate::clients;
use crate::far::{Address, Far, Opened, Progress};
use crate::service::{Part, Service};
use crate::times::{Times, milliseconds, trips};

/// A plane for one agent.
pub(crate) struct PlaneSide {
    plane: Plane,
    token: String,
    cluster: ClusterName,
    ports: Vec<(Part, SocketAddr)>,
    bulk: Option<Bulk>,
    _folder: TempDir,
}

/// Clients with bulk streams.
struct Bulk {
    sockets: Vec<TcpStream>,
    threads: Vec<thread::JoinHandle<io::Result<()>>>,
    bytes: Arc<AtomicU64>,
    begun: Instant,
}

impl PlaneSide {
    pub(crate) fn start() -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the plane: {error}");
        let folder = tempfile::tempdir().map_err(|error| failed(&error))?;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let plane = Plane::start(PlaneConfig {
            data_dir: folder.path().to_owned(),
            listen: loopback,
            certificate: CertificateSource::Generated { names: Vec::new() },
            gateway: GatewayUrl::SameHost,
            http: loopback,
        })
        .map_err(|error| failed(&error))?;
        let cluster = ClusterName::parse("bench").map_err(|error| failed(&error))?;
        let grant = Grant::Agent {
            cluster: cluster.clone(),
        };
        let (_, token) = plane.create_token(grant).map_err(|error| failed(&error))?;
        Ok(Self {
            token: token.reveal().to_owned(),
            plane,
            cluster,
            ports: Vec::new(),
            bulk: None,
            _folder: folder,
        })
    }

    /// Opens a port that leads to a part of the service.
    fn expose(&mut self, service: &Service, part: Part) -> Result<(), String> {
        let to = ServiceName {
            name: part.name().to_owned(),
            namespace: String::new(),
            port: service.port(part),
        };
        let any = Entry::Tcp((Ipv4Addr::LOCALHOST, 0).into());
        let opened = self.plane.expose(any, self.cluster.clone(), to);
        match opened.map_err(|error| error.to_string())? {
            Entry::Tcp(address) => self.ports.push((part, address)),
            other => return Err(format!("{other} was opened instead of a TCP port")),
        }
        Ok(())
    }

    fn connect(&self, part: Part) -> io::Result<TcpStream> {
        let port = self.ports.iter().find(|(other, _)| *other == part);
        let (_, address) = port.ok_or(io::ErrorKind::NotFound)?;
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

impl Far for PlaneSide {
    fn address(&self) -> Address {
        Address {
            url: self.plane.url(),
            token: self.token.clone(),
            ca: self.plane.certificate_path().to_owned(),
        }
    }

    fn meet(&mut self, service: &Service) -> Result<bool, String> {
        for part in [Part::Source, Part::Sink, Part::Echo] {
            self.expose(service, part)?;
        }
        let limit = Instant::now() + MEET_LIMIT;
        while Instant::now() < limit {
            let exposures = self.plane.exposures();
            if exposures
                .iter()
                .all(|view| view.state == ExposureState::Open)
            {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }

    fn start_bulk(
        &mut self,
        service: &Service,
        direction: Direction,
        streams: usize,
    ) -> Result<(), String> {
        let (part, bytes) = match direction {
            Direction::Down => (Part::Source, Arc::default()),
            Direction::Up => (Part::Sink, service.sunk.clone()),
        };
        let mut bulk = Bulk {
            sockets: Vec::new(),
            threads: Vec::new(),
            bytes,
            begun: Instant::now(),
        };
        for _ in 0..streams {
            let socket = self.connect(part).map_err(|error| error.to_string())?;
            let kept = socket.try_clone().map_err(|error| error.to_string())?;
            bulk.sockets.push(kept);
            let bytes = bulk.bytes.clone();
            bulk.threads.push(thread::spawn(move || match direction {
                Direction::Down => clients::take(&socket, &bytes),
                Direction::Up => clients::give(&socket),
            }));
        }
        self.bulk = Some(bulk);
        Ok(())
    }

    fn progress(&mut self) -> Result<Progress, String> {
        let bulk = self.bulk.as_ref().ok_or("nothing runs")?;
        Ok(Progress {
            bytes: bulk.bytes.load(Ordering::Relaxed),
            seconds: bulk.begun.elapsed().as_secs_f64(),
        })
    }

    fn stop_bulk(&mut self) -> Result<(), String> {
        let Some(bulk) = self.bulk.take() else {
            return Ok(());
        };
        for socket in &bulk.sockets {
            // Closed, it is a reset: what is on its way is of no interest.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(bulk.sockets);
        for thread in bulk.threads {
            // They end by an error: that was the end.
            let _ = thread.join();
        }
        let limit = Instant::now() + END_LIMIT;
        while self.plane.exposures().iter().any(|view| view.clients > 0) {
            if Instant::now() > limit {
                return Err("the plane still has clients".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn open_and_close(
        &mut self,
        _: &Service,
        at_once: usize,
        window: Duration,
    ) -> Result<Opened, String> {
        let begun = Instant::now();
        let side = &*self;
        let each: io::Result<Vec<Vec<f64>>> = thread::scope(|scope| {
            let clients: Vec<_> = (0..at_once)
                .map(|_| scope.spawn(move || open_in_turn(side, begun + window)))
                .collect();
            let ended = clients.into_iter().map(thread::ScopedJoinHandle::join);
            ended
                .map(|times| times.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
                .collect()
        });
        let times = each.map_err(|error| error.to_string())?.concat();
        Ok(Opened {
            count: times.len() as u64,
            seconds: begun.elapsed().as_secs_f64(),
            times: Times::of(times),
        })
    }

    fn echo_and_ping(
        &mut self,
        _: &Service,
        window: Duration,
    ) -> Result<(Times, Option<Times>), String> {
        let failed = |error: io::Error| error.to_string();
        let mut socket = self.connect(Part::Echo).map_err(failed)?;
        let stop = AtomicBool::new(false);
        let times = thread::scope(|scope| {
            let echo = scope.spawn(|| trips(&mut socket, Duration::ZERO, &stop));
            thread::sleep(window);
            stop.store(true, Ordering::Relaxed);
            echo.join().unwrap_or_else(|_| Ok(Vec::new()))
        });
        Ok((Times::of(times.map_err(failed)?), None))
    }
}

/// One connection after the other; milliseconds of each.
fn open_in_turn(side: &PlaneSide, end: Instant) -> io::Result<Vec<f64>> {
    let mut times = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        let mut socket = side.connect(Part::Echo)?;
        let mut byte = *b"x";
        socket.write_all(&byte)?;
        socket.read_exact(&mut byte)?;
        socket.shutdown(Shutdown::Write)?;
        if socket.read(&mut byte)? > 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        times.push(milliseconds(begun.elapsed()));
    }
    Ok(times)
}

const MEET_LIMIT: Duration = Duration::from_secs(30);
const END_LIMIT: Duration = Duration::from_secs(10);
