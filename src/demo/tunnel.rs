//! What the demo shows of tunnels: bytes both ways with their digest, datagrams, and
//! what was counted meanwhile.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::DemoError;
use super::figures::Figures;
use super::service::{PATIENCE, receive, send};
use super::steps::{Steps, mebibytes};
use crate::net::Cancel;
use crate::plane::{
    ClusterName, Entry, ExposureState, ExposureView, Plane, PlaneError, ServiceName,
};

/// The ports of the plane that lead to the services.
pub(super) struct Entries {
    bytes: SocketAddr,
    echo: SocketAddr,
}

impl Entries {
    /// Exposes the forwards of the cluster's agent, and waits for its tunnels.
    pub(super) fn expose(
        plane: &Plane,
        cluster: &ClusterName,
        stop: &Cancel,
    ) -> Result<Self, DemoError> {
        let open = |entry: fn(SocketAddr) -> Entry, name: &str| -> Result<SocketAddr, PlaneError> {
            let service: ServiceName = format!("{name}:1").parse()?;
            let entry = entry((Ipv4Addr::LOCALHOST, 0).into());
            match plane.expose(entry, cluster.clone(), service)? {
                Entry::Tcp(address) | Entry::Udp(address) => Ok(address),
                Entry::Http(_) => unreachable!("no host was asked for"),
            }
        };
        let entries = Self {
            bytes: open(Entry::Tcp, BYTES)?,
            echo: open(Entry::Udp, ECHO)?,
        };
        // They are agreed on a moment after the agent has come.
        let until = Instant::now() + PATIENCE;
        let is_open = |view: &ExposureView| view.state == ExposureState::Open;
        while !plane.exposures().iter().all(is_open) {
            if stop.reason().is_some() {
                return Err(DemoError::Interrupted);
            }
            if Instant::now() >= until {
                return Err(DemoError::Step("the agent has no tunnels".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(entries)
    }

    /// Takes them back: what is still open on them would have to be waited for in the
    /// end.
    pub(super) fn close(self, plane: &Plane) -> Result<(), DemoError> {
        plane.unexpose(&Entry::Tcp(self.bytes))?;
        plane.unexpose(&Entry::Udp(self.echo))?;
        Ok(())
    }

    /// As a line for a step.
    pub(super) fn described(&self) -> String {
        format!(
            "the plane exposes two services behind the agent: TCP at {}, UDP at {}",
            self.bytes, self.echo
        )
    }

    /// `size` bytes down, and as many up, in one connection each.
    pub(super) fn transfers(
        &self,
        size: u64,
        steps: &mut Steps,
        figures: &mut Figures,
        stop: &Cancel,
    ) -> Result<(), DemoError> {
        for way in [Way::Down, Way::Up] {
            let begun = Instant::now();
            let digest = self
                .transfer(way, size, stop, |done| {
                    figures.sample();
                    steps.progress(way.described(), done, size);
                })
                .map_err(|error| broken(way.described(), &error))?;
            let took = begun.elapsed();
            steps.done(&format!(
                "{} {} through the tunnel in {:.2} s: {:.0} MB/s, SHA-256 {}… at both ends",
                mebibytes(size),
                way.described(),
                took.as_secs_f64(),
                size as f64 / took.as_secs_f64() / 1e6,
                digest,
            ));
        }
        Ok(())
    }

    /// The first bytes of the digest of both ends.
    fn transfer(
        &self,
        way: Way,
        size: u64,
        stop: &Cancel,
        progress: impl FnMut(u64),
    ) -> io::Result<String> {
        let socket = Arc::new(Socket::from(TcpStream::connect(self.bytes)?));
        let _guard = stop
            .on_aborted(socket.clone())
            .map_err(|_| io::Error::from(ErrorKind::Interrupted))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut client = &*socket;
        let mut asked = vec![way.letter()];
        asked.extend(size.to_be_bytes());
        client.write_all(&asked)?;
        let ours = match way {
            Way::Down => receive(client, size, progress)?,
            Way::Up => {
                let sent = send(client, size, progress)?;
                client.shutdown(Shutdown::Write)?;
                sent
            }
        };
        let mut theirs = [0; 32];
        client.read_exact(&mut theirs)?;
        if theirs != ours.as_ref() {
            return Err(io::Error::other("the two ends have different checksums"));
        }
        let first = theirs.first_chunk().expect("it has 32 bytes");
        Ok(format!("{:016x}", u64::from_be_bytes(*first)))
    }

    /// Datagrams of all sizes to the echo and back, one after the other.
    pub(super) fn datagrams(
        &self,
        steps: &mut Steps,
        figures: &mut Figures,
        stop: &Cancel,
    ) -> Result<(), DemoError> {
        const WHAT: &str = "datagrams to the echo and back";
        let lost = |error: io::Error| broken(WHAT, &error);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(lost)?;
        socket.connect(self.echo).map_err(lost)?;
        socket.set_read_timeout(Some(ECHO_LIMIT)).map_err(lost)?;
        let mut times = Vec::new();
        for number in 0..DATAGRAMS {
            figures.sample();
            if stop.reason().is_some() {
                return Err(DemoError::Interrupted);
            }
            times.extend(round_trip(&socket, number).map_err(lost)?);
        }
        times.sort_unstable();
        // Datagrams may be lost anywhere; all of them aren't.
        let Some(median) = times.get(times.len() / 2) else {
            return Err(DemoError::Step(format!(
                "{WHAT}: none of {DATAGRAMS} came back"
            )));
        };
        steps.done(&format!(
            "{} of {DATAGRAMS} {WHAT}, unchanged; median {:.2} ms",
            times.len(),
            median.as_secs_f64() * 1e3
        ));
        Ok(())
    }
}

/// `None`: it was lost.
fn round_trip(socket: &UdpSocket, number: usize) -> io::Result<Option<Duration>> {
    let length = 8 + number * 1392 / DATAGRAMS;
    let mut datagram = vec![number as u8; length];
    datagram[..8].copy_from_slice(&(number as u64).to_be_bytes());
    let begun = Instant::now();
    socket.send(&datagram)?;
    let mut buf = [0; 2048];
    loop {
        match socket.recv(&mut buf) {
            Ok(count) if buf[..count] == datagram => return Ok(Some(begun.elapsed())),
            // The answer to one before, which was given up.
            Ok(_) if begun.elapsed() < ECHO_LIMIT => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Ok(_) | Err(_) => return Ok(None),
        }
    }
}

fn broken(what: &str, error: &io::Error) -> DemoError {
    let text = match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "the tunnel was reset: the agent is away, or could not reach the service".to_owned()
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("nothing moved for {} s", PATIENCE.as_secs())
        }
        _ => error.to_string(),
    };
    DemoError::Step(format!("{what}: {text}"))
}

/// Where bytes go, seen from the client.
#[derive(Clone, Copy)]
enum Way {
    Down,
    Up,
}

impl Way {
    fn letter(self) -> u8 {
        match self {
            Self::Down => b'D',
            Self::Up => b'U',
        }
    }

    fn described(self) -> &'static str {
        match self {
            Self::Down => "from the service to the client",
            Self::Up => "from the client to the service",
        }
    }
}

/// What the agent's forwards to the services are called.
pub(super) const BYTES: &str = "demo-bytes";
pub(super) const ECHO: &str = "demo-echo";

const DATAGRAMS: usize = 100;
/// For one datagram: it is given up for lost then.
const ECHO_LIMIT: Duration = Duration::from_millis(500);
