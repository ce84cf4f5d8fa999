//! Services that the agent leads streams to: one sends and takes bytes with their
//! digest, one sends datagrams back. On loopback, and only for the demo.
//!
//! What is asked of the first, in one byte and a length of eight (big endian):
//! `D`, so many bytes down to the client, their SHA-256 behind them; `U`, so many up
//! from it, their SHA-256 in return.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, recvfrom};
use socket2::Socket;

use crate::net::{Cancel, Reason, abort};
use crate::threads::{self, Stack};

/// Both services; dropping them ends them.
pub(super) struct Services {
    pub(super) bytes: SocketAddr,
    pub(super) echo: SocketAddr,
    cancel: Cancel,
    threads: Vec<JoinHandle<Option<()>>>,
}

impl Services {
    pub(super) fn start() -> io::Result<Self> {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut services = Self {
            bytes: tcp.local_addr()?,
            echo: udp.local_addr()?,
            cancel: Cancel::new(),
            threads: Vec::new(),
        };
        let (tcp, cancel) = (Arc::new(Socket::from(tcp)), services.cancel.clone());
        services.run("demo-bytes", move || accept(&tcp, &cancel))?;
        let cancel = services.cancel.clone();
        services.run("demo-echo", move || echo(&udp, &cancel))?;
        Ok(services)
    }

    fn run(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = threads::spawn(name, Stack::Work, body).map_err(io::Error::other)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.cancel.cancel(Reason::Shutdown);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn accept(listener: &Arc<Socket>, cancel: &Cancel) {
    let Ok(_guard) = cancel.on_socket(listener.clone()) else {
        return;
    };
    while let Ok((client, _)) = listener.accept() {
        let (client, cancel) = (Arc::new(client), cancel.clone());
        let serving = move || {
            let Ok(_guard) = cancel.on_aborted(client.clone()) else {
                return abort(&client);
            };
            // Who broke off has its own account of it.
            let _ = serve(&client);
        };
        if threads::spawn("demo-client", Stack::Work, serving).is_err() {
            return;
        }
    }
}

fn serve(mut client: &Socket) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut asked = [0; 9];
    client.read_exact(&mut asked)?;
    let [kind, length @ ..] = asked;
    let length = u64::from_be_bytes(length);
    let digest = if kind == b'D' {
        send(client, length, |_| ())?
    } else {
        receive(client, length, |_| ())?
    };
    client.write_all(digest.as_ref())?;
    client.shutdown(std::net::Shutdown::Write)
}

/// Sends so many bytes of a pattern; their digest. `progress` gets how many are sent.
pub(super) fn send(
    mut to: &Socket,
    length: u64,
    mut progress: impl FnMut(u64),
) -> io::Result<Digest> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut piece: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(PIECE)
        .collect();
    let mut digest = Context::new(&SHA256);
    let mut sent = 0;
    while sent < length {
        // No two pieces are the same.
        piece[..8].copy_from_slice(&sent.to_be_bytes());
        let now = &piece[..(length - sent).min(PIECE as u64) as usize];
        digest.update(now);
        to.write_all(now)?;
        sent += now.len() as u64;
        progress(sent);
    }
    Ok(digest.finish())
}

/// Takes so many bytes; their digest.
pub(super) fn receive(
    mut from: &Socket,
    length: u64,
    mut progress: impl FnMut(u64),
) -> io::Result<Digest> {
    let mut buf = vec![0; PIECE];
    let mut digest = Context::new(&SHA256);
    let mut taken = 0;
    while taken < length {
        let most = (length - taken).min(PIECE as u64) as usize;
        let count = from.read(&mut buf[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        digest.update(&buf[..count]);
        taken += count as u64;
        progress(taken);
    }
    Ok(digest.finish())
}

fn echo(socket: &UdpSocket, cancel: &Cancel) {
    let Ok(held) = socket.try_clone() else { return };
    let Ok(_guard) = cancel.on_socket(Arc::new(held.into())) else {
        return;
    };
    let mut buf = Vec::with_capacity(65_535);
    while cancel.reason().is_none() {
        buf.clear();
        // The standard library's can panic when the socket was shut down: then there is
        // no address.
        let received = recvfrom(socket, spare_capacity(&mut buf), RecvFlags::empty());
        let from = received.ok().and_then(|(_, _, from)| from);
        if let Some(Ok(from)) = from.map(SocketAddr::try_from) {
            // Lost, if it can't be sent.
            let _ = socket.send_to(&buf, from);
        }
    }
}

/// Bytes in one call.
const PIECE: usize = 256 * 1024;

/// For either end, while the other one takes or sends nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::tcp_pair;

    #[test]
    fn what_is_sent_and_what_is_received_have_one_digest() {
        let (near, far) = tcp_pair();
        let length = 3 * PIECE as u64 + 5;
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| send(&near, length, |_| ()).expect("sent"));
            let mut last = 0;
            let received = receive(&far, length, |count| last = count).expect("received");
            let sent = sending.join().expect("sent");
            assert_eq!(sent.as_ref(), received.as_ref());
            assert_eq!(last, length);
        });
        // What ends early is an error.
        near.shutdown(std::net::Shutdown::Write).expect("shut down");
        receive(&far, 1, |_| ()).expect_err("an end");
    }

    #[test]
    fn they_end_when_they_are_dropped() {
        let services = Services::start().expect("started");
        let client = Socket::from(std::net::TcpStream::connect(services.bytes).expect("open"));
        drop(services);
        (&client).read(&mut [0; 1]).expect_err("a reset");
    }
}
